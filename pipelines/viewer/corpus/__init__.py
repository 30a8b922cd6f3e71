"""The pages of a corpus: its samples by family, task, split and words; its rejects by reason."""
