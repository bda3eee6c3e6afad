"""What a training or a stream costs, before it runs."""
