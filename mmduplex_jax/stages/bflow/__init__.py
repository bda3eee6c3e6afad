"""Stage `bflow`: the video tokenizer, by prediction and timed text."""
