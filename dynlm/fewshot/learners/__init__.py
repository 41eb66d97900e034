"""fewshot learners."""
