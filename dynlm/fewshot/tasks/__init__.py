"""Task sources, one module for each, and what they share."""
