"""Data sets: raw files -> TFDS (ArrayRecord) -> batches."""
