"""B-Flow, the streaming video tokenizer, and the baselines it is judged against."""
