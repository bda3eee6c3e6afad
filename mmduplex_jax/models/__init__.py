"""The models: the dual-stream transformer, its training task and its live form."""
