"""Adversarial rounds: a model writes what a classifier gets wrong, and the classifier learns it."""
