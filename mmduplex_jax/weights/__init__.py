"""Trained weights: loading, starting from them, other people's formats."""
