"""Weights in the layouts of Hugging Face's libraries, in and out."""
