"""Training of guards."""
