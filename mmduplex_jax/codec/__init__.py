"""An audio codec: 24 kHz sound to a few small integers every 80 ms, and back, whole or one step at a time (Mimi)."""
