"""Who writes, answers and judges: models, their calls, and what they may cost."""
