"""Tokenizers: SentencePiece pieces, and words."""
