"""adapt rules."""
