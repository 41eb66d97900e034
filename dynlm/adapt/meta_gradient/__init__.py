"""adapt meta_gradient."""
