"""Texts, articles, tokens and the streams of segments that everything else reads."""
