"""A source whose records are spoken: those without a sound track get one, of their words by a kept voice."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from data_pipelines.audio_track import AudioFormat, encode_audio
from data_pipelines.schema import Record
from data_pipelines.sources import Item, Listing, Noted, Source, Unit, causes
from data_pipelines.speech.fitting import Manner, rehearse, say
from data_pipelines.speech.studio import Studio
from data_pipelines.speech.voices import voice_of
from mmduplex_jax.clock import Clock

# Records whose words are said at once: so many wait in memory, and the voice's program starts that much less often.
_TOGETHER = 8


@dataclasses.dataclass(frozen=True)
class Speech:
    """What a configuration says about voices (`config.speech`).

    Attributes:
      voice, program: see `voices.voice_of`.
      manner: how words are said.
      audio: how the sound is kept.
      cache: a folder for what was said, shared by processes and runs; "" for none.
    """

    voice: str
    program: str
    manner: Manner
    audio: AudioFormat
    cache: str

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What decides the sound, as JSON values."""
        how = dataclasses.asdict(self.manner) | dataclasses.asdict(self.audio)
        return {"voice": voice_of(self.voice, self.program).facts()} | how


@functools.lru_cache(maxsize=2)
def _studio_of(speech: Speech) -> Studio:
    """One in every process, so that each word is said once in it."""
    return Studio(voice_of(speech.voice, speech.program), speech.audio.rate_hz, speech.cache)


@dataclasses.dataclass(frozen=True)
class SpokenSource:
    """The items of a source, spoken.

    Attributes:
      source: gives them. Records that bring a sound track keep it as it is.
      speech: how the others are said.
    """

    source: Source
    speech: Speech

    @property
    def clock(self) -> Clock:
        return self.source.clock

    @property
    def flip_safe(self) -> bool:
        return self.source.flip_safe

    def __len__(self) -> int:
        return len(self.source)

    def describe(self) -> dict[str, Any]:
        return self.source.describe() | {"speech": self.speech.facts}

    def items(self, begin: int, end: int) -> Iterator[Item]:
        items = self.source.items(begin, end)
        while some := list(itertools.islice(items, _TOGETHER)):
            unspoken = [record for item in some if (record := _unspoken(item)) is not None]
            rehearse(unspoken, self.speech.audio.rate_hz, self.speech.manner, _studio_of(self.speech))
            for item in some:
                record = _unspoken(item)
                yield item if record is None else self._spoken(item, record)

    def _spoken(self, item: Item, record: Record) -> Item:
        clock, audio = record.clock, self.speech.audio
        steps = clock.step_of_tick(record.num_ticks)
        track = say(record.words, clock, steps, audio.rate_hz, self.speech.manner, _studio_of(self.speech))
        spoken = dataclasses.replace(
            record,
            audio=encode_audio(track.samples, audio),
            provenance=record.provenance | {"spoken_by": self.speech.facts["voice"]["voice"]},
        )
        told = f"of {len(record.words)} words of {record.key}"
        counted = [(causes.FASTER_SPEECH, track.faster), (causes.CUT_SPEECH, track.cut), (causes.UNSAID, track.unsaid)]
        notes = [Noted(cause, f"{count} {told}", count) for cause, count in counted if count]
        return item._replace(content=spoken, notes=(*item.notes, *notes))


def _unspoken(item: Item) -> Record | None:
    """The record of an item that brings no sound track."""
    record = item.content
    return record if isinstance(record, Record) and record.audio is None else None


@dataclasses.dataclass(frozen=True)
class SpokenListing(SpokenSource):
    """The same of a source that lists its units (`sources.Listing`)."""

    def units(self) -> Sequence[Unit]:
        return cast(Listing, self.source).units()


def spoken(source: Source, config: Mapping[str, Any]) -> Source:
    """The source with a voice, where `config["speech"]` names one; else as it is.

    Raises:
      ValueError: a value is out of its range, or the voice or its program is not there.
    """
    given = config.get("speech") or {}
    if not given.get("voice"):
        return source
    known = {"voice", "program", "unit", "speed_max", "pause_s", "format", "rate_hz", "bitrate_kbps", "cache"}
    if given.keys() != known:
        wrong = sorted(given.keys() ^ known)
        raise ValueError(f"config.speech must have the fields of configs/shared.py, speech(): look at {wrong}")
    speech = Speech(
        voice=given["voice"],
        program=given["program"],
        manner=Manner(given["unit"], given["speed_max"], given["pause_s"]),
        audio=AudioFormat(given["format"], given["rate_hz"], given["bitrate_kbps"]),
        cache=given["cache"],
    )
    voice_of(speech.voice, speech.program)  # says now what is not there
    return SpokenListing(source, speech) if isinstance(source, Listing) else SpokenSource(source, speech)
