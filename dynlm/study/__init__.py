"""A study: every variant on one base model, tuned alike, read on other articles, and told in one folder."""
