"""The files about a directory of shards: what it is made from, what each shard holds, what was rejected and noted.

manifest.json is of the finished whole, `parts` of each shard: the plan, and of each finished shard its facts and what
it rejects. A part is written by whoever wrote the shard, just after it. So nothing is shared between writers, a shard
counts as finished when its part is there, and the files about the whole are put together once, at the end.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import mimetypes
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from data_pipelines.schema import SCHEMA_VERSION
from data_pipelines.sources import Unit
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, StoredSize, frame_size, size_text, stored_size, with_stored_sizes

MANIFEST_NAME = "manifest.json"
PARTS_NAME = "parts"
PLAN_NAME = "plan.json"
REJECTED_NAME = "rejected.jsonl"
NOTES_NAME = "notes.jsonl"
SUMMARY_NAME = "summary.json"
# What was prepared before the files of a source changed, until what is still good of it is taken over.
PREVIOUS_NAME = "previous"
# What a description of a source says about its files (`sources.Listing`); other data may differ in nothing else.
_OF_FILES = ("source.files", "source.cameras", "num_units", "num_shards")
_NAMES_SHOWN = 5
# Of the world, those that show no real picture.
_DRAWN_LOOKS = ("plain", "rich")


class ShardError(RuntimeError):
    """Shards that cannot be read or written; says which file and record, and what to do."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished file.

    Attributes:
      name: its name in the directory.
      units: how many of the source's units it was made from.
      records: how many it holds.
      size_bytes: its length.
      sha256: of the whole file, in hexadecimal.
      ticks: video ticks of all its records together.
      words: words of all its records together.
      longest_ticks: ticks of its longest record.
      frame_px: the size of its frames, as files hold it; 0 if it holds none.
      rejected: how many items gave no record, by cause.
      notes: how much of what is used was left out or mended, by cause.
    """

    name: str
    units: int
    records: int
    size_bytes: int
    sha256: str
    ticks: int
    words: int
    longest_ticks: int
    frame_px: StoredSize
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)
    notes: dict[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "frame_px", _size_of_json(self.frame_px))

    def damage(self, directory: Path, read_all: bool) -> str | None:
        """What is wrong with the file, or None: its presence and length, and if `read_all` its hash."""
        path = directory / self.name
        try:
            size_bytes = path.stat().st_size
        except FileNotFoundError:
            return "is missing"
        if size_bytes != self.size_bytes:
            return f"has {size_bytes} bytes, it was written with {self.size_bytes}: it was truncated or replaced"
        if read_all and sha256_of(path) != self.sha256:
            return "does not have the sha256 that it was written with: bytes in it have changed"
        return None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a directory of shards holds.

    Attributes:
      config: the configuration it was built from, as JSON values.
      source: what the source says of itself.
      clock: of every record.
      num_units: how many units the source has.
      num_shards: into how many files they are divided.
      shards: the files, in order; none in a plan of what is to be written.
      flip_safe: whether records may be flipped left to right, see `sources.Source.flip_safe`.
      schema_version: of the records.
    """

    config: dict[str, Any]
    source: dict[str, Any]
    clock: Clock
    num_units: int
    num_shards: int
    shards: tuple[Shard, ...] = ()
    flip_safe: bool = False
    schema_version: int = SCHEMA_VERSION

    @cached_property
    def num_records(self) -> int:
        return sum(shard.records for shard in self.shards)

    @cached_property
    def longest_ticks(self) -> int:
        return max((shard.longest_ticks for shard in self.shards), default=0)

    @cached_property
    def frame_px(self) -> FrameSize:
        """Height and width of its frames; 0 and 0 if it holds none."""
        sizes = [shard.frame_px for shard in self.shards if shard.frame_px]
        return frame_size(sizes[0]) if sizes else (0, 0)

    @property
    def fit(self) -> str | None:
        """How pictures were fitted to its frames; None where the source draws its own."""
        return self.config.get("fit")

    @cached_property
    def duration_s(self) -> float:
        """Seconds of video in all records."""
        return sum(shard.ticks for shard in self.shards) * self.clock.tick_s

    @property
    def cameras(self) -> tuple[str, ...] | None:
        """Real cameras of which pictures are in the records, as the source names them; None where it does not say."""
        if "cameras" in self.source:
            return tuple(self.source["cameras"])
        drawn = _is_of_the_world(self.source) and self.source["world"]["look"] in _DRAWN_LOOKS
        return () if drawn else None

    def rejected_by_cause(self) -> dict[str, int]:
        return _sums(shard.rejected for shard in self.shards)

    def notes_by_cause(self) -> dict[str, int]:
        return _sums(shard.notes for shard in self.shards)

    def to_json(self) -> str:
        """The same manifest gives the same text; a shard takes a line."""
        fields = self._identity() | {
            "num_records": self.num_records,
            "duration_s": self.duration_s,
            "rejected_by_cause": self.rejected_by_cause(),
        }
        text = json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False)
        shards = ",\n".join("  " + json.dumps(vars(shard), sort_keys=True, ensure_ascii=False) for shard in self.shards)
        return text.removesuffix("\n}") + f',\n "shards": [\n{shards}\n ]\n}}\n'

    @classmethod
    def load(cls, directory: Path) -> "Manifest":
        """Reads manifest.json of a finished directory.

        Raises:
          ShardError: there is none, it is damaged, or its records have another schema version.
        """
        path = directory / MANIFEST_NAME
        if path.is_file():
            return cls.read(path)
        plan = directory / PARTS_NAME / PLAN_NAME
        if plan.is_file():
            finished = sum(1 for _ in plan.parent.glob("shard-*.json"))
            raise ShardError(
                f"{directory} is unfinished ({finished} of {cls.read(plan).num_shards} shards): "
                "run the same `python -m launch.prepare` again, it goes on where it was"
            )
        raise ShardError(_no_shards(directory))

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Reads a manifest or a plan; errors as `load` has them."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            version = fields["schema_version"]
            if version != SCHEMA_VERSION:
                raise ShardError(
                    f"{path} has schema version {version}, this code reads {SCHEMA_VERSION}: "
                    "prepare the data again into another directory"
                )
            return cls(
                config=fields["config"],
                source=fields["source"],
                clock=Clock(**fields["clock"]),
                num_units=fields["num_units"],
                num_shards=fields["num_shards"],
                shards=tuple(Shard(**shard) for shard in fields["shards"]),
                flip_safe=fields.get("flip_safe", _is_of_the_world(fields["source"])),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(
                f"{path} is damaged ({error!r}): delete it and run the same `python -m launch.prepare` again"
            ) from error

    def differences(self, other: "Manifest") -> list[str]:
        """How the data asked for by `other` differs from this data, a line for each value; empty if it does not."""
        ours, theirs = _flat(self._identity(), ""), _flat(other._identity(), "")
        return [
            f"{name}: {_shown(ours, name)} there, {_shown(theirs, name)} asked for"
            for name in sorted(ours.keys() | theirs.keys())
            if _shown(ours, name) != _shown(theirs, name)
        ]

    def _identity(self) -> dict[str, Any]:
        """What decides the records, as JSON values."""
        fields = {
            "schema_version": self.schema_version,
            "clock": dataclasses.asdict(self.clock),
            "config": with_stored_sizes(self.config),
            "source": with_stored_sizes(self.source),
            "num_units": self.num_units,
            "num_shards": self.num_shards,
            "flip_safe": self.flip_safe,
        }
        return json.loads(json.dumps(fields))


def summary_of(manifest: Manifest) -> dict[str, Any]:
    """The figures of a finished directory as JSON values; a function of the data, so they tell nothing of the run.

    Returns:
      samples: records. hours: of video in them. bytes: of all shards. words: in all records. bytes_an_hour and
      words_a_second: of that video, 0 where there is none. longest_s: the longest record. frame_px, units, shards:
      as the manifest has them. rejected: items that gave no record, by cause; rejected_samples: all of them. notes:
      what of the others was left out or mended, by cause.
    """
    size_bytes = sum(shard.size_bytes for shard in manifest.shards)
    words = sum(shard.words for shard in manifest.shards)
    duration_s = manifest.duration_s
    rejected = manifest.rejected_by_cause()
    return {
        "samples": manifest.num_records,
        "hours": duration_s / 3600,
        "bytes": size_bytes,
        "words": words,
        "bytes_an_hour": round(size_bytes / duration_s * 3600) if duration_s else 0,
        "words_a_second": words / duration_s if duration_s else 0.0,
        "longest_s": manifest.clock.tick_time_s(manifest.longest_ticks),
        "frame_px": stored_size(manifest.frame_px),
        "units": manifest.num_units,
        "shards": manifest.num_shards,
        "rejected": rejected,
        "rejected_samples": sum(rejected.values()),
        "notes": manifest.notes_by_cause(),
    }


class RejectedItem(NamedTuple):
    """An item that gave no record, see `data_pipelines.sources.Rejected`."""

    key: str
    cause: str
    detail: str


class NotedItem(NamedTuple):
    """What of an item was left out or mended, see `data_pipelines.sources.Noted`."""

    key: str
    cause: str
    detail: str
    times: int


class UnitPart(NamedTuple):
    """What a unit of a `sources.Listing` has in a shard: facts as the source states them, and counts.

    The counts are of its records, their ticks and words, and of its entries in the part's `rejected` and `notes`.
    """

    name: str
    facts: str
    records: int
    ticks: int
    words: int
    longest_ticks: int
    frame_px: StoredSize
    rejected: int
    notes: int


@dataclasses.dataclass(frozen=True)
class Part:
    """A finished shard; `units` only of a source that lists them."""

    shard: Shard
    rejected: list[RejectedItem]
    notes: list[NotedItem]
    units: list[UnitPart]


class KeptUnit(NamedTuple):
    """A unit that was prepared before: its records in a file from number `first` on, and what was said of it."""

    unit: UnitPart
    path: str
    first: int
    rejected: list[RejectedItem]
    notes: list[NotedItem]


class FilesChange(NamedTuple):
    """Names of files that are new, changed and gone since a directory was written."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(
            f"{len(names)} {word} ({', '.join(names[:_NAMES_SHOWN])}{', ...' if len(names) > _NAMES_SHOWN else ''})"
            for word, names in self._asdict().items()
            if names
        )


@dataclasses.dataclass(frozen=True)
class Resumed:
    """A directory that is ready to be written.

    Attributes:
      finished: shards, by name.
      damaged: names of shards that were finished and are not as they had been written.
      kept_units: what was prepared before the files changed, by facts.
      change: of the files, if that is why this differs from what was there.
    """

    finished: dict[str, Shard]
    damaged: tuple[str, ...] = ()
    kept_units: Mapping[str, KeptUnit] = dataclasses.field(default_factory=dict)
    change: FilesChange | None = None


def shard_name(number: int, num_shards: int) -> str:
    """The file name of a shard."""
    return f"shard-{number:05d}-of-{num_shards:05d}.arrayrecord"


def save_part(directory: Path, part: Part) -> None:
    """Says that a shard is finished; overwrites what was said before."""
    fields = {"shard": vars(part.shard), "rejected": part.rejected, "notes": part.notes, "units": part.units}
    save_text(_part_path(directory, part.shard.name), json.dumps(fields, sort_keys=True, ensure_ascii=False) + "\n")


def load_part(directory: Path, name: str) -> Part | None:
    """What is known of a shard, None where it is not finished.

    Raises:
      ShardError: the part is there and damaged.
    """
    path = _part_path(directory, name)
    try:
        fields = json.loads(path.read_bytes())
        return Part(
            Shard(**fields["shard"]),
            [RejectedItem(*item) for item in fields["rejected"]],
            [NotedItem(*item) for item in fields.get("notes", ())],
            [_unit_of_json(unit) for unit in fields.get("units", ())],
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(
            f"{path} is damaged ({error!r}): delete it and run the same `python -m launch.prepare` again, "
            "which writes that shard anew"
        ) from error


def resume(
    directory: Path, plan: Manifest, *, verify: bool, threads: int, units: Sequence[Unit] | None = None
) -> Resumed:
    """Makes a directory ready for a plan.

    Where only the files of its source have changed, all that is there becomes `previous`, of which shards of the same
    units are taken over at once, and the rest waits to be taken over unit by unit.

    Args:
      directory: exists, and is locked by the caller.
      plan: what is to be written.
      verify: whether the shards that are there are read and their hashes compared.
      threads: that do so.
      units: all of them in order, where the source lists them.

    Raises:
      ShardError: the directory holds other data.
    """
    parts = directory / PARTS_NAME
    if not (parts / PLAN_NAME).exists():
        if any(directory.glob("*.arrayrecord")) or (directory / MANIFEST_NAME).exists():
            raise ShardError(f"{directory} holds data without {PARTS_NAME}/{PLAN_NAME}: choose another directory")
        parts.mkdir(exist_ok=True)
        save_text(parts / PLAN_NAME, plan.to_json())
        return Resumed({})
    there = Manifest.read(parts / PLAN_NAME)
    differences = there.differences(plan)
    change: FilesChange | None = None
    if differences:
        names = {line.partition(":")[0] for line in differences}
        if units is None or not all(name.startswith(_OF_FILES) for name in names):
            raise ShardError(
                f"{directory} holds data of another configuration; choose another directory or delete this one:\n  "
                + "\n  ".join(differences)
            )
        change = _set_aside(directory, there, plan, units)
    for leftover in (*directory.glob(".*.tmp"), *parts.glob(".*.tmp")):
        leftover.unlink()
    kept_units: dict[str, KeptUnit] = {}
    if units is not None and (directory / PREVIOUS_NAME).exists():
        kept_units = _take_over(directory, plan, [unit.facts for unit in units])
    # Only the facts are kept, so that what millions of rejected items say need not fit in memory.
    loaded = (load_part(directory, shard_name(number, plan.num_shards)) for number in range(plan.num_shards))
    finished = {part.shard.name: part.shard for part in loaded if part is not None}
    damaged = tuple(damages(directory, list(finished.values()), read_all=verify, threads=threads))
    for name in damaged:
        del finished[name]
        _part_path(directory, name).unlink()
    return Resumed(finished, damaged, kept_units, change)


def _set_aside(directory: Path, there: Manifest, plan: Manifest, units: Sequence[Unit]) -> FilesChange:
    """Moves the finished shards of one plan into `previous`, begins another, and says what has changed between them.

    Raises:
      ShardError: it is not known which files they were made from.
    """
    finished = list(_finished_parts(directory, there.num_shards))
    if any(part.shard.units and not part.units for part in finished):
        raise ShardError(
            f"{directory} was made from other files than are there now, by a version that did not write down which: "
            "prepare them into another directory"
        )
    now = {unit.name: unit.facts for unit in units}
    before = {unit.name: unit.facts for part in finished for unit in part.units}
    previous = directory / PREVIOUS_NAME
    previous.mkdir(exist_ok=True)
    place = previous / str(len(list(previous.iterdir())))
    (place / PARTS_NAME).mkdir(parents=True)
    (directory / MANIFEST_NAME).unlink(missing_ok=True)
    for part in finished:
        path = directory / part.shard.name
        if path.exists():
            os.replace(path, place / part.shard.name)
        os.replace(_part_path(directory, part.shard.name), _part_path(place, part.shard.name))
    save_text(directory / PARTS_NAME / PLAN_NAME, plan.to_json())
    return FilesChange(
        tuple(name for name in now if name not in before),
        tuple(name for name, facts in now.items() if before.get(name, facts) != facts),
        tuple(name for name in before if name not in now),
    )


def _take_over(directory: Path, plan: Manifest, unit_facts: Sequence[str]) -> dict[str, KeptUnit]:
    """Moves previous shards of the same units back, and returns what the others hold, by facts."""
    wanted: dict[tuple[str, ...], str] = {}
    size = -(-plan.num_units // plan.num_shards)
    for number in range(plan.num_shards):
        name = shard_name(number, plan.num_shards)
        if not _part_path(directory, name).exists():
            wanted[tuple(unit_facts[number * size : (number + 1) * size])] = name
    kept: dict[str, KeptUnit] = {}
    for path in sorted((directory / PREVIOUS_NAME).glob(f"*/{PARTS_NAME}/*.json")):
        place = path.parent.parent
        part = load_part(place, path.stem + ".arrayrecord")
        if part is None or part.shard.damage(place, read_all=False):
            continue
        name = wanted.pop(tuple(unit.facts for unit in part.units), "")
        if name:
            os.replace(place / part.shard.name, directory / name)
            save_part(directory, dataclasses.replace(part, shard=dataclasses.replace(part.shard, name=name)))
            path.unlink()
            continue
        first, rejected, notes = 0, iter(part.rejected), iter(part.notes)
        for unit in part.units:
            kept[unit.facts] = KeptUnit(
                unit,
                str(place / part.shard.name),
                first,
                list(itertools.islice(rejected, unit.rejected)),
                list(itertools.islice(notes, unit.notes)),
            )
            first += unit.records
    return kept


def finish(directory: Path, plan: Manifest, finished: dict[str, Shard]) -> Manifest:
    """Puts rejected.jsonl, notes.jsonl, summary.json and, last, manifest.json together, unless they are there.

    Raises:
      ShardError: shards do not go together.
    """
    names = [shard_name(number, plan.num_shards) for number in range(plan.num_shards)]
    manifest = dataclasses.replace(plan, shards=tuple(finished[name] for name in names))
    sizes = sorted({frame_size(shard.frame_px) for shard in manifest.shards if shard.records})
    if len(sizes) > 1:
        shown = " and ".join(map(size_text, sizes))
        raise ShardError(f"{directory}: frames of {shown} do not go together; the source must give one size")
    text = manifest.to_json()
    path = directory / MANIFEST_NAME
    others = (directory / REJECTED_NAME, directory / NOTES_NAME, directory / SUMMARY_NAME)
    if path.exists() and path.read_text(encoding="utf-8") == text and all(other.exists() for other in others):
        shutil.rmtree(directory / PREVIOUS_NAME, ignore_errors=True)
        return manifest
    with _replaced(directory / REJECTED_NAME) as rejected, _replaced(directory / NOTES_NAME) as notes:
        for shard in manifest.shards:
            if not shard.rejected and not shard.notes:
                continue
            part = load_part(directory, shard.name)
            if part is None:
                raise ShardError(f"{_part_path(directory, shard.name)} has disappeared: run the same command again")
            for items, file in ((part.rejected, rejected), (part.notes, notes)):
                for item in items:
                    file.write(json.dumps(item._asdict() | {"shard": shard.name}, ensure_ascii=False) + "\n")
    summary = json.dumps(summary_of(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    save_text(directory / SUMMARY_NAME, summary + "\n")
    save_text(path, text)
    shutil.rmtree(directory / PREVIOUS_NAME, ignore_errors=True)
    return manifest


def _finished_parts(directory: Path, num_shards: int) -> Iterator[Part]:
    loaded = (load_part(directory, shard_name(number, num_shards)) for number in range(num_shards))
    return (part for part in loaded if part is not None)


def _part_path(directory: Path, name: str) -> Path:
    return directory / PARTS_NAME / (name.removesuffix(".arrayrecord") + ".json")


def damages(directory: Path, shards: Sequence[Shard], *, read_all: bool, threads: int = 8) -> dict[str, str]:
    """What is wrong with which files, see `Shard.damage`; several at once, for file systems that answer slowly."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda shard: shard.damage(directory, read_all), shards)
        return {shard.name: damage for shard, damage in zip(shards, found) if damage is not None}


def save_text(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all, even where the power fails."""
    with _replaced(path) as file:
        file.write(text)


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[TextIO]:
    """A file that takes the place of `path` when it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for some in counts:
        total.update(some)
    return dict(sorted(total.items()))


def _no_shards(directory: Path) -> str:
    """What to say of a directory that was not prepared, by what is there instead."""
    if not directory.exists():
        return f"there is no folder {directory}: check the path, or write it with `python -m launch.prepare`"
    if not directory.is_dir():
        return f"{directory} is a file, not a directory of shards that `python -m launch.prepare` wrote"
    names = [entry.name for entry in os.scandir(directory)]
    command = "python -m launch.prepare --config=configs/data/"
    for source, what, is_one in (
        ("folder", "videos", lambda name: (mimetypes.guess_type(name)[0] or "").startswith("video/")),
        ("pevideo", "tars", lambda name: name.endswith(".tar")),
    ):
        if any(map(is_one, names)):
            return (
                f"{directory} holds {what}, not shards: prepare them with "
                f"`{command}{source}.py --config.root={directory} --out=NEW` and give NEW"
            )
    within = sorted(name for name in names if (directory / name / MANIFEST_NAME).is_file())
    if within:
        return f"{directory} holds no shards itself, but {within[0]} in it does: give {directory / within[0]}"
    return (
        f"{directory} holds no shards (no {MANIFEST_NAME}): `{command}world.py --out={directory}` writes clips of the "
        f"built-in world, `{command}folder.py --config.root=VIDEOS --out={directory}` your own videos"
    )


def _size_of_json(frame_px: Any) -> StoredSize:
    return tuple(frame_px) if isinstance(frame_px, list) else frame_px


def _unit_of_json(fields: list[Any]) -> UnitPart:
    unit = UnitPart(*fields)
    return unit._replace(frame_px=_size_of_json(unit.frame_px))


def _is_of_the_world(source: dict[str, Any]) -> bool:
    """Whether a manifest from before it had `flip_safe` may be flipped: of the sources of that time the world alone."""
    return source.get("kind") == "world"


def _shown(values: dict[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "nothing"


def _flat(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {name: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{name}.{key}" if name else key)
    return flat
