"""The world's third look: real things over real backgrounds, before a fixed camera. Read from a pack (`pack.py`)."""
