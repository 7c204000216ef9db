"""A guard over files: sharding, resume, rejects."""
