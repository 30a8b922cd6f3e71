"""What the stages exchange and how it lies on disk: records, keys, object stores, corpus, features.

The lowest layer: it imports none of the other packages, and knows nothing of models or of Ray.
"""
