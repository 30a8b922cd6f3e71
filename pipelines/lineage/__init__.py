"""Lineage: what an output was made of, what was made of it, and which outputs saw an image."""
