"""Learners, one module for each family, and what they share."""
