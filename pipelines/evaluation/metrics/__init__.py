"""Metrics of answers: masks, words, intervals, tables."""
