"""Frozen networks whose dense features the student learns from: Mask2Former and SAM2.

A teacher turns an image into a feature map and names, by a fingerprint, everything that its values
depend on. Teachers know nothing of the student.
"""
