"""manifest.json: what a finished directory of shards holds, and from which configuration."""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from data_pipelines.schema import SCHEMA_VERSION
from mmduplex_jax.clock import Clock

MANIFEST_NAME = "manifest.json"
# What is known of each shard alone, while it is being written and later; see `data_pipelines.parts`.
PARTS_NAME = "parts"
PLAN_NAME = "plan.json"


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
      frame_px: the side of its frames; 0 if it holds none.
      rejected: how many items gave no record, by cause.
    """

    name: str
    units: int
    records: int
    size_bytes: int
    sha256: str
    ticks: int
    words: int
    longest_ticks: int
    frame_px: int
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)

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
    def frame_px(self) -> int:
        return max((shard.frame_px for shard in self.shards), default=0)

    @cached_property
    def duration_s(self) -> float:
        """Seconds of video in all records."""
        return sum(shard.ticks for shard in self.shards) * self.clock.tick_s

    def rejected_by_cause(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for shard in self.shards:
            counts.update(shard.rejected)
        return dict(sorted(counts.items()))

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
        hint = "build it with `python -m launch.prepare --config=configs/data/world.py --out DIR`"
        raise ShardError(f"{directory} holds no shards (no {MANIFEST_NAME}): {hint}")

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
            "config": self.config,
            "source": self.source,
            "num_units": self.num_units,
            "num_shards": self.num_shards,
            "flip_safe": self.flip_safe,
        }
        return json.loads(json.dumps(fields))


def damages(directory: Path, shards: Sequence[Shard], *, read_all: bool, threads: int = 8) -> dict[str, str]:
    """What is wrong with which files, see `Shard.damage`; several at once, for file systems that answer slowly."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda shard: shard.damage(directory, read_all), shards)
        return {shard.name: damage for shard, damage in zip(shards, found) if damage is not None}


def save_text(path: Path, text: str) -> None:
    """Writes a file as a whole or not at all, even where the power fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
