"""What to ask a model and how to read its answer; one file a family."""
