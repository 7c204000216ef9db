"""Building a benchmark: hard samples, annotation rounds, agreement, release. To come."""
