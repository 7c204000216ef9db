"""The data pipeline, one file a step: elements, queries, augmentation, imports, duplicates, answers, votes, stages."""
