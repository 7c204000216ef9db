"""Making a benchmark with people: hard rows, annotation rounds, agreement, release."""
