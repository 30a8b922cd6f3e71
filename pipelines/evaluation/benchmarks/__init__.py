"""Benchmarks: what is asked of a student, and how its answers are judged."""
