"""The kinds of rules of this package; their modules are imported to read options, and import torch to build a rule."""
