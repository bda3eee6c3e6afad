"""Stage `vlm`: captions from one token a picture."""
