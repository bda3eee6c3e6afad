"""Benchmarks of the field, and our own: what they ask, and how answers are scored (`docs/benchmarks.md`).

A benchmark is a file here and a line in `registry.BENCHMARKS`. It knows no model: it scores predictions, whoever made
them, and `launch.benchmark` makes those of ours.
"""
