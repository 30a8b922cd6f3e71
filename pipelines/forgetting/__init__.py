"""Removal of images from a workspace on request, with a record."""
