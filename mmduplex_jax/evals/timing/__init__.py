"""Commentary in time: is the right thing said at the right moment, and is there silence where there should be?

One metric a file; `scores.py` computes them all of many videos, `speakers.py` has the speakers of known worth that
stand beside every score, and `files.py` reads what people have: subtitles and JSON. `docs/benchmarks.md` says what
each metric can be fooled by.
"""
