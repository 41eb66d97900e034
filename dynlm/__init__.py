"""dynlm: LSTM language models whose weights change while they read."""

__version__ = "0.1.0"
