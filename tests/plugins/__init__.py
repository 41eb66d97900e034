"""Plug-ins as other packages would write them: an update rule and two models, each in one file."""
