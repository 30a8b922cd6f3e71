"""The student: one decoder-only transformer over patches and text, with its losses and its processor.

It answers in words and in masks without a vision encoder or a segmentation decoder. It knows nothing
of the teachers, only the width of their features.
"""
