"""Stage `clip`: pictures or clips against captions."""
