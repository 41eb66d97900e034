"""Pictures and pages made from score files; nothing here knows a model."""
