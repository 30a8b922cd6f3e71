"""The pages of a feature store: its images with their features as pictures, its parts, its rejects."""
