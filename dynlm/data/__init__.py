"""Corpora: sources of articles, tokenizers, cached token arrays, and streams of segments."""
