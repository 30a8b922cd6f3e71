"""The pages of an evaluation, or of two on the same samples: predictions by score or by difference, masks drawn."""
