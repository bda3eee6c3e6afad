"""Timed words said aloud by a text-to-speech program, as the sound track of a record.

`voices.py` runs the programs, `studio.py` remembers what they said, `fitting.py` lays it to the words' times, and
`spoken.py` does so for every record of a source.
"""
