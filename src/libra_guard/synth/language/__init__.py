"""Prompts, and what is read, recognised and done with texts."""
