"""What the project measures: run as `python -m benchmarks.NAME`."""
