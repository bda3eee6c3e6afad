"""Weights of convolutional towers, in the files in which others publish them."""
