"""Reads captions back that were written, for tests of whatever writes them."""

import html
import re

from mmduplex_jax.streaming.captions import Cue

_TIME = re.compile(r"(?:(\d+):)?(\d{2}):(\d{2})[.,](\d{3})")
_WORD_TIME = re.compile(r"<((?:\d+:)?\d{2}:\d{2}\.\d{3})>")


def read_captions(text: str) -> list[Cue]:
    """The captions in a WebVTT or SRT file that `streaming/captions.py` or the page wrote (ValueError: a time is none).

    A WebVTT's words have their own times; an SRT's all have their caption's.
    """
    cues = []
    for block in re.split(r"\n{2,}", text.replace("\r\n", "\n").strip()):
        lines = block.split("\n")
        at = next((i for i, line in enumerate(lines) if "-->" in line), None)
        if at is None:
            continue
        start_s, end_s = (_seconds(stamp) for stamp in lines[at].split("-->"))
        words, now_s = [], start_s
        for part in _WORD_TIME.split(" ".join(lines[at + 1 :])):
            if _TIME.fullmatch(part):
                now_s = _seconds(part)
            else:
                words += [(html.unescape(word), now_s) for word in part.split()]
        cues.append(Cue(start_s, end_s, tuple(words)))
    return cues


def _seconds(stamp: str) -> float:
    match = _TIME.search(stamp)
    if match is None:
        raise ValueError(f"{stamp.strip()!r} is no caption time (HH:MM:SS.mmm)")
    hours, minutes, seconds, ms = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + ms / 1000
