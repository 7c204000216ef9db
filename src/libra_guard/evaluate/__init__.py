"""Metrics, significance, calibration and tables."""
