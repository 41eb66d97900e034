"""Level-1 training, the tuning of hand-made rules, and the meta-training of g."""
