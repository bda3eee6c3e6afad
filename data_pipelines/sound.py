"""Sound alone, as a codec learns from it: pieces of a folder's files, or of the sound in prepared records, in batches.

A piece is `SoundFormat.samples` long. A file has as many pieces as it has room for, so that long files are heard more
often; where in its share of the file a piece begins is drawn anew each time, again where too little of it sounds, if
that is asked for. What a file is too short for is silence.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np

from data_pipelines.audio_track import AudioFormat, AudioTrack
from data_pipelines.dataset import open_dataset
from data_pipelines.loader import LoaderIterator, check_batches, choose_records
from data_pipelines.manifest import MANIFEST_NAME, ShardError
from data_pipelines.samples import CORRUPT
from data_pipelines.video_source import LIBAV_ERRORS, VideoError, open_container, why

# How often a place is drawn until enough of the piece sounds.
_DRAWS = 8
# int16; -54 dB of full scale.
_LOUD = 65.0
# Files of a folder that are taken for sound; videos are read for theirs.
SUFFIXES = frozenset(
    {".aac", ".aiff", ".flac", ".m4a", ".mka", ".mkv", ".mov", ".mp3", ".mp4", ".oga", ".ogg", ".opus", ".wav", ".webm"}
)


@dataclasses.dataclass(frozen=True)
class SoundFormat:
    """What a sample is where it is sound.

    Attributes:
      rate_hz: samples a second; files of other rates are brought to it. Mono.
      samples: L.
    """

    rate_hz: int
    samples: int

    @property
    def length_s(self) -> float:
        return self.samples / self.rate_hz

    def read(self, file: str | bytes, name: str, start_s: float, origin_s: float = 0.0) -> np.ndarray:
        """int16 [L] of a file from `start_s` on; VideoError where it has no sound, or that does not decode."""
        track = AudioTrack(file, name, origin_s, AudioFormat("pcm", self.rate_hz))
        try:
            return track.samples(start_s, start_s + self.length_s)
        finally:
            track.close()


class Length(NamedTuple):
    """Of a file's sound.

    Attributes:
      origin_s: where it begins, by the container's clock.
      length_s: how long it is.
    """

    origin_s: float
    length_s: float


def length_of(file: str | Path) -> Length:
    """How long a file's sound is; where the container does not say it, by its packets.

    Raises:
      VideoError: it cannot be opened, has no sound, or none that is longer than nothing.
    """
    container = open_container(str(file), str(file))
    try:
        stream = container.streams.best("audio")
        if stream is None:
            raise VideoError(f"{file}: has no sound")
        begin = stream.start_time or 0
        origin_s = float(begin * stream.time_base) if stream.time_base else 0.0
        if stream.duration and stream.time_base:
            length_s = float(stream.duration * stream.time_base)
        elif container.duration:
            length_s = container.duration / 1e6
        else:
            spans = [(p.duration or 0) * p.time_base for p in container.demux(stream) if p.time_base]
            length_s = float(sum(spans))
    except LIBAV_ERRORS as error:
        if isinstance(error, VideoError):
            raise
        raise VideoError(f"{file}: {why(error)}") from error
    finally:
        container.close()
    if length_s <= 0:
        raise VideoError(f"{file}: its sound has no length")
    return Length(origin_s, length_s)


class SoundSource(Protocol):
    """Pieces by number; picklable, and read from several threads at once."""

    def __len__(self) -> int:
        """The number of pieces."""

    def read(self, index: int, place: float = 0.5) -> np.ndarray:
        """A piece, int16 [L]; `place`, from 0 to 1, is where in its share of the file it begins.

        Raises:
          ShardError, VideoError: it cannot be read.
        """

    def key(self, index: int) -> str:
        """A piece's name."""

    def fingerprint(self) -> str:
        """Names the content: the same in another folder has the same."""


class SoundFiles:
    """The pieces of all sound files in a folder and in those below it.

    Args:
      folder: of the files.
      form: of the pieces.

    Raises:
      VideoError: there is no such folder, it holds no sound file, or one of them cannot be read; names it.
    """

    def __init__(self, folder: str | Path, form: SoundFormat):
        self._folder, self._form = Path(folder), form
        if not self._folder.is_dir():
            raise VideoError(f"there is no folder {folder}")
        names = sorted(path for path in self._folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        self._files = [path.relative_to(self._folder).as_posix() for path in names]
        if not self._files:
            raise VideoError(
                f"{folder} holds neither {MANIFEST_NAME} of `python -m launch.prepare` nor a file of sound "
                f"({', '.join(sorted(SUFFIXES))})"
            )
        self._lengths = [length_of(path) for path in names]
        self._pieces = [
            (number, share, count)
            for number, length in enumerate(self._lengths)
            for count in (max(1, int(length.length_s / form.length_s)),)
            for share in range(count)
        ]

    def __len__(self) -> int:
        return len(self._pieces)

    def read(self, index: int, place: float = 0.5) -> np.ndarray:
        number, share, count = self._pieces[index]
        origin_s, length_s = self._lengths[number]
        spare_s = max(0.0, length_s - self._form.length_s)
        file = str(self._folder / self._files[number])
        return self._form.read(file, file, (share + place) * spare_s / count, origin_s)

    def key(self, index: int) -> str:
        number, share, count = self._pieces[index]
        return f"{self._files[number]}, piece {share} of {count}"

    def fingerprint(self) -> str:
        """Of names and sizes: reading hours of sound twice would take as long as a part of the training."""
        sized = [f"{name} {(self._folder / name).stat().st_size}\n" for name in self._files]
        return hashlib.sha256("".join(sized).encode()).hexdigest()


class SoundRecords:
    """The sound of prepared records, a piece each.

    Args:
      folder: of shards.
      form: of the pieces.

    Raises:
      ShardError: the folder is unfinished or damaged.
    """

    def __init__(self, folder: str | Path, form: SoundFormat):
        self._records, self._form = open_dataset(folder), form

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int, place: float = 0.5) -> np.ndarray:
        record = self._records.read(index, lambda ticks: range(0))
        if not record.audio:
            raise ShardError(
                f"{self._records.directory}, record {index} ({record.key}) has no sound: prepare with "
                "--config.audio.keep=True from videos that have some"
            )
        spare_s = max(0.0, record.num_ticks * record.clock.tick_s - self._form.length_s)
        return self._form.read(record.audio, record.key, place * spare_s)

    def key(self, index: int) -> str:
        return self._records.key(index)

    def fingerprint(self) -> str:
        return hashlib.sha256("".join(shard.sha256 for shard in self._records.manifest.shards).encode()).hexdigest()


class JoinedSound:
    """The pieces of several folders, one after another.

    Attributes:
      form: of the pieces.
      offsets: the number of the first piece of each.
    """

    def __init__(self, sources: Sequence[SoundSource], form: SoundFormat):
        self.sources, self.form = tuple(sources), form
        self.offsets = np.cumsum([0, *(len(source) for source in sources)]).tolist()

    def __len__(self) -> int:
        return self.offsets[-1]

    def read(self, index: int, place: float = 0.5) -> np.ndarray:
        source, position = self._find(index)
        return source.read(position, place)

    def key(self, index: int) -> str:
        source, position = self._find(index)
        return source.key(position)

    def fingerprint(self) -> str:
        return hashlib.sha256("".join(source.fingerprint() for source in self.sources).encode()).hexdigest()

    def _find(self, index: int) -> tuple[SoundSource, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"piece {index}: there are {len(self)}")
        part = int(np.searchsorted(self.offsets, index, side="right")) - 1
        return self.sources[part], index - self.offsets[part]


def open_sound(folders: Sequence[str | Path], form: SoundFormat) -> JoinedSound:
    """The pieces of folders, each of prepared shards or of sound files.

    Raises:
      ShardError, VideoError: one cannot be read; see `SoundRecords` and `SoundFiles`.
    """
    one = lambda folder: SoundRecords if (Path(folder) / MANIFEST_NAME).is_file() else SoundFiles
    return JoinedSound([one(folder)(folder, form) for folder in folders], form)


@dataclasses.dataclass(frozen=True)
class _PieceMaker:
    """Samples of a run: the k-th is a function of (seed, k) alone."""

    source: JoinedSound
    seed: int
    sounding_min: float

    def __call__(self, position: int, index: int) -> dict[str, Any]:
        places = np.random.default_rng([self.seed, position])
        try:
            samples, valid = self._read(int(index), places), True
        except (ShardError, VideoError):  # the loop counts it, and asks the loader what is wrong
            samples, valid, index = np.zeros(self.source.form.samples, np.int16), False, CORRUPT - int(index)
        return {"samples": samples, "valid": np.bool_(valid), "index": np.int64(index)}

    def _read(self, index: int, places: np.random.Generator) -> np.ndarray:
        """The first of `_DRAWS` pieces of which enough sounds; the one that sounds most, where none does."""
        if not self.sounding_min:
            return self.source.read(index, float(places.random()))
        found = []
        for _ in range(_DRAWS):
            samples = self.source.read(index, float(places.random()))
            found.append((sounding_share(samples, self.source.form.rate_hz), samples))
            if found[-1][0] >= self.sounding_min:
                break
        return max(found, key=lambda one: one[0])[1]


def sounding_share(samples: np.ndarray, rate_hz: int) -> float:
    """The share of int16 [L] whose 20 ms are louder than -54 dB of full scale: not silence, nor its noise."""
    window = max(1, round(0.02 * rate_hz))
    windows = samples[: len(samples) // window * window].reshape(-1, window).astype(np.float64)
    loud = np.sqrt((windows**2).mean(axis=1)) > _LOUD
    return float(loud.mean()) if loud.size else 0.0


def make_sound_loader(
    source: JoinedSound,
    *,
    batch_size: int,
    seed: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    worker_processes: int = 0,
    weights: Sequence[float] | None = None,
    sounding_min: float = 0.0,
) -> LoaderIterator:
    """Batches without end: `samples` int16 [B, L], `valid` bool [B], `index` int64 [B] (see `samples.is_corrupt`).

    Args:
      source: of `open_sound`.
      batch_size, seed, process_index, process_count, threads, worker_processes, weights: as of `make_loader`.
      sounding_min: the share of a piece that is to sound (`sounding_share`); 0 takes pieces as they come.

    Raises:
      ValueError: the batch does not divide among the processes, or the share is none.
    """
    if not 0 <= sounding_min < 1:
        raise ValueError(f"config.data.sounding_min is a share from 0 to below 1, got {sounding_min}")
    check_batches(source, batch_size, process_index, process_count)
    parts = [range(begin, end) for begin, end in zip(source.offsets, source.offsets[1:])]
    chosen = choose_records(source, parts, seed, shuffle=True, repeat=None, weights=weights)
    pieces = chosen.map_with_index(_PieceMaker(source, seed, sounding_min))
    batches = pieces.batch(batch_size // process_count, drop_remainder=True)[process_index::process_count]
    order = {
        "pieces": len(source) if weights is None else [len(part) for part in parts],
        "batch_size": batch_size,
        "seed": seed,
        "rate_hz": source.form.rate_hz,
        "samples": source.form.samples,
        "weights": None if weights is None else [float(weight) for weight in weights],
    } | ({"sounding_min": sounding_min} if sounding_min else {})
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(4, threads))
    return LoaderIterator(source, batches, order, options, worker_processes)


class SoundClip(NamedTuple):
    """A piece to evaluate on.

    Attributes:
      key: its name.
      samples: int16 [L].
    """

    key: str
    samples: np.ndarray


def sound_clips(folder: str | Path, form: SoundFormat, seed: int, clips: int) -> tuple[int, Iterator[SoundClip]]:
    """How many pieces, up to `clips`, chosen by `seed`, and they themselves; errors as of `open_sound`."""
    source = open_sound([folder], form)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:clips]).tolist()
    return len(chosen), (SoundClip(source.key(index), source.read(index)) for index in chosen)
