"""Frozen networks whose dense features the student imitates."""
