"""The LSTM language model as functions of its parameters; it knows tokens and no text."""
