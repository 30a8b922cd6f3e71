"""Distillation's first half: every teacher meets every image once, and its features are stored."""
