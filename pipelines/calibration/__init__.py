"""Fitting the `klt` encoding to a teacher, once, before its features are stored."""
