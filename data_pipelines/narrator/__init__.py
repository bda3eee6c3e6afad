"""A teacher without captions: a detector and a tracker watch a video, and what they see happen becomes timed words.

pictures -> `detector` (boxes with classes) -> `motion` (what moves against the background) -> `tracks` (one thing over
time) -> `events` (it enters, stops, is taken …) -> the words of `world.event_words`. `teacher` runs all of it, over a
whole file (it may look ahead) or live.
"""
