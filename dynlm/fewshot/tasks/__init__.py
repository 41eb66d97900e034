"""fewshot tasks."""
