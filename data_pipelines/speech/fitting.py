"""Lays what a voice says to the times of words.

Sound begins with the step of the clock in which its first word begins, as that word's text does. So a word that is said
twice is twice the same in all steps of it, and a codec's codes of it are alike, which makes them easy to learn.

What takes longer than its words do is said faster, up to a limit; past it, into the silence behind; and what would
still run into the next is cut off, and counted.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.schema import Record, Word
from data_pipelines.speech.studio import Studio, faded
from mmduplex_jax.clock import Clock

UNITS = ("word", "phrase")
# Speeds are multiples of this, so that few sounds serve all: 1, 1.25, 1.5, ...
SPEED_STEP = 0.25
# A word that another follows sooner is said together with that one.
_TOGETHER_STEPS = 2
_CUT_FADE_S = 0.01
# A word's end is known to less than this; it is no reason to say it a quarter faster.
_END_TOLERANCE_S = 1e-3


@dataclasses.dataclass(frozen=True)
class Manner:
    """How words are said.

    Attributes:
      unit: "word": every word by itself, at its own time; "phrase": words between two pauses or ends of sentences in
        one breath, from the time of the first one on.
      speed_max: how many times as fast as it speaks by itself a voice may be made to speak.
      pause_s: the shortest silence between two phrases.
    """

    unit: str = "word"
    speed_max: float = 2.0
    pause_s: float = 0.5

    def __post_init__(self):
        if self.unit not in UNITS:
            raise ValueError(f"config.speech.unit {self.unit!r} is unknown, choose one of {UNITS}")
        if self.speed_max < 1:
            raise ValueError(f"config.speech.speed_max must be 1 or more, got {self.speed_max}")


class Piece(NamedTuple):
    """Words that are said in one breath.

    Attributes:
      text: of all of them.
      words: how many.
      begin: the sample with which they begin.
      wanted: samples from there to the end of the last word, where that is known, else `room`.
      room: samples from there to the next piece, or to the end.
    """

    text: str
    words: int
    begin: int
    wanted: int
    room: int


@dataclasses.dataclass(frozen=True)
class Track:
    """Words as sound.

    Attributes:
      samples: int16 `[N]`, at the track's rate.
      faster: words that are said faster than the voice does by itself.
      cut: words in pieces that are cut off before their end.
      unsaid: words of which nothing is heard.
    """

    samples: np.ndarray
    faster: int
    cut: int
    unsaid: int


def pieces_of(words: Sequence[Word], clock: Clock, steps: int, rate_hz: int, manner: Manner) -> list[Piece]:
    """What is said in one breath each.

    Args:
      words: in the order of their starts. Those that begin before 0 or after the end are left out.
      clock: of their times.
      steps: of the record.
      rate_hz: samples a second.
      manner: how words are said.
    """
    at = [(word, clock.step_at(word.start_s)) for word in words]
    at = [(word, step) for word, step in at if 0 <= step < steps]
    runs: list[list[tuple[Word, int]]] = []
    for word, step in at:
        if runs and not _parts(runs[-1], word, step, manner):
            runs[-1].append((word, step))
        else:
            runs.append([(word, step)])
    sample = lambda step: round(step * clock.step_s * rate_hz)
    pieces = []
    for run, after_step in zip(runs, [*(run[0][1] for run in runs[1:]), steps]):
        begin, (last, last_step) = sample(run[0][1]), run[-1]
        room = sample(after_step) - begin
        wanted = room
        if last.end_s is not None:
            # As long as the word is, wherever in its step it begins: said again it must sound the same.
            end = last_step + max(1, clock.steps_in(last.end_s - last.start_s - _END_TOLERANCE_S))
            wanted = min(room, sample(end) - begin)
        pieces.append(Piece(" ".join(word.text for word, _ in run), len(run), begin, wanted, room))
    return pieces


def _parts(run: Sequence[tuple[Word, int]], word: Word, step: int, manner: Manner) -> bool:
    """Whether a word begins a new piece after those of `run`."""
    before, before_step = run[-1]
    if step - before_step < _TOGETHER_STEPS:
        return False
    if manner.unit == "word" or before.ends_sentence:
        return True
    silent_from_s = before.start_s if before.end_s is None else before.end_s
    return word.start_s - silent_from_s >= manner.pause_s


def rehearse(records: Sequence[Record], rate_hz: int, manner: Manner, studio: Studio) -> None:
    """Has the studio say all that `say` will ask of it for these records, in a few runs of its voice's program.

    A program takes a second to start, and a record alone starts it for each speed that its words need.
    """
    pieces = [
        piece
        for record in records
        for piece in pieces_of(record.words, record.clock, record.clock.step_of_tick(record.num_ticks), rate_hz, manner)
    ]
    _speeds(pieces, manner.speed_max, studio.sounds)


def say(words: Sequence[Word], clock: Clock, steps: int, rate_hz: int, manner: Manner, studio: Studio) -> Track:
    """Words as a sound track of `steps` steps; arguments and errors as of `pieces_of` and `Studio.sounds`."""
    pieces = pieces_of(words, clock, steps, rate_hz, manner)
    speeds = _speeds(pieces, manner.speed_max, studio.sounds)
    sounds = studio.sounds([(piece.text, speed) for piece, speed in zip(pieces, speeds)])
    samples = np.zeros(round(steps * clock.step_s * rate_hz), np.int16)
    faster = cut = unsaid = 0
    for piece, speed, sound in zip(pieces, speeds, sounds):
        faster += piece.words * (speed > 1)
        unsaid += piece.words * (not len(sound))
        if len(sound) > piece.room:
            cut += piece.words
            sound = _cut(sound, piece.room, round(_CUT_FADE_S * rate_hz))
        samples[piece.begin : piece.begin + len(sound)] = sound
    return Track(samples, faster, cut, unsaid)


def _speeds(
    pieces: Sequence[Piece], speed_max: float, sounds: Callable[[Sequence[tuple[str, float]]], list[np.ndarray]]
) -> list[float]:
    """The slowest speed at which each piece takes no longer than it should, or the fastest there is."""
    fastest = 1 + SPEED_STEP * math.floor((speed_max - 1) / SPEED_STEP)
    speeds, asked = [1.0] * len(pieces), list(range(len(pieces)))
    while asked:
        found = sounds([(pieces[number].text, speeds[number]) for number in asked])
        late = []
        for number, sound in zip(asked, found):
            times = len(sound) / pieces[number].wanted
            if times > 1 and speeds[number] < fastest:
                # At least a step; as many at once as it takes if twice the speed is half the time.
                more = max(1, math.ceil(speeds[number] * (times - 1) / SPEED_STEP))
                speeds[number] = min(fastest, speeds[number] + SPEED_STEP * more)
                late.append(number)
        asked = late
    return speeds


def _cut(sound: np.ndarray, count: int, fade: int) -> np.ndarray:
    """The first `count` samples, sunk to silence at their end."""
    return faded(sound[:count].astype(np.float64), fade).astype(np.int16)
