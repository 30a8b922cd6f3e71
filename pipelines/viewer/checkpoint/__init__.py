"""The page on which a checkpoint, or two side by side, is tried on a picture of one's own or of a corpus."""
