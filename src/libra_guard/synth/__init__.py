"""The data pipeline, one file a step: elements, queries, augmentation, answers, annotation. To come."""
