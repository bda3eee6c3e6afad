"""Building blocks that know nothing of video or words: attention, rotary phases, ring caches, transformers."""
