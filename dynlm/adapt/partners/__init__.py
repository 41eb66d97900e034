"""adapt partners."""
