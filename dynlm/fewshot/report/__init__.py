"""fewshot report."""
