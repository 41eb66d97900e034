"""Few-shot learning: learners that adapt to a task from a few labelled examples, and sources of tasks."""
