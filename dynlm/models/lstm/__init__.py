"""models lstm."""
