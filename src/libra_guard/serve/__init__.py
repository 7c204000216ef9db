"""Verdicts over HTTP: moderation API, guarding proxy, streaming, the page."""
