"""How to run a model; one file a runtime."""
