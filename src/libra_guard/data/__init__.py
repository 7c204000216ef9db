"""Importers: one file a public data set."""
