"""data tokenizers."""
