"""The data card and its figures."""
