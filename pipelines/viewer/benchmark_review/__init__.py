"""The page on which people review drafts of a benchmark."""
