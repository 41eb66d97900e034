"""evaluation checks."""
