"""The medium-term memory: dynamic weights as a value, the rules that move them, and the loop that reads."""
