"""Scoring a corpus, the score files, and comparing them."""
