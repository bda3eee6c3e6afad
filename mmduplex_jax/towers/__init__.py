"""Towers that turn a picture or a text into one vector: CLIP, SigLIP, SigLIP 2, Perception Encoder."""
