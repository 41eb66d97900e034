"""Tables and figures of few-shot runs, made from their files alone."""
