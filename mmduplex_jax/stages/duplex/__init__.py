"""Stage `duplex`: the dual-stream model."""
