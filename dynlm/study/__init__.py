"""A study: variants on one base model, tuned alike, read on other articles, and compared in one folder."""
