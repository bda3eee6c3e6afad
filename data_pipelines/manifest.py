"""manifest.json: what a directory of shards holds, and from which configuration."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from data_pipelines.schema import SCHEMA_VERSION
from mmduplex_jax.clock import Clock

MANIFEST_NAME = "manifest.json"


class ShardError(RuntimeError):
    """Shards that cannot be read or written; says which file and record, and what to do."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A finished file.

    Attributes:
      name: its name in the directory.
      records: how many it holds.
      size_bytes: its length.
      sha256: of the whole file, in hexadecimal.
      ticks: video ticks of all its records together.
      words: words of all its records together.
      longest_ticks: ticks of its longest record.
      frame_px: the side of its frames; 0 if it holds none.
      rejected: `(key, cause, detail)` of the items that gave no record.
    """

    name: str
    records: int
    size_bytes: int
    sha256: str
    ticks: int
    words: int
    longest_ticks: int
    frame_px: int
    rejected: tuple[tuple[str, str, str], ...] = ()

    def damage(self, directory: Path, read_all: bool) -> str | None:
        """What is wrong with the file, or None: its presence and length, and if `read_all` its hash."""
        path = directory / self.name
        if not path.is_file():
            return "is missing"
        size_bytes = path.stat().st_size
        if size_bytes != self.size_bytes:
            return f"has {size_bytes} bytes, {MANIFEST_NAME} says {self.size_bytes}: it was truncated or replaced"
        if read_all and sha256_of(path) != self.sha256:
            return f"does not have the sha256 that {MANIFEST_NAME} says: bytes in it have changed"
        return None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a directory of shards holds.

    Attributes:
      config: the configuration it was built from, as JSON values.
      source: what the source says of itself.
      clock: of every record.
      num_shards: how many there will be.
      shards: those that are finished, by name.
      schema_version: of the records.
    """

    config: dict[str, Any]
    source: dict[str, Any]
    clock: Clock
    num_shards: int
    shards: tuple[Shard, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def complete(self) -> bool:
        return len(self.shards) == self.num_shards

    @property
    def num_records(self) -> int:
        return sum(shard.records for shard in self.shards)

    @property
    def longest_ticks(self) -> int:
        return max((shard.longest_ticks for shard in self.shards), default=0)

    @property
    def frame_px(self) -> int:
        return max((shard.frame_px for shard in self.shards), default=0)

    @property
    def duration_s(self) -> float:
        """Seconds of video in all records."""
        return sum(shard.ticks for shard in self.shards) * self.clock.tick_s

    def rejected_by_cause(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for shard in self.shards:
            for _, cause, _ in shard.rejected:
                counts[cause] = counts.get(cause, 0) + 1
        return counts

    def with_shard(self, shard: Shard) -> "Manifest":
        """This manifest with one more finished shard (or a new one of the same name)."""
        others = [other for other in self.shards if other.name != shard.name]
        return dataclasses.replace(self, shards=tuple(sorted([*others, shard], key=lambda one: one.name)))

    def to_json(self) -> str:
        fields = dataclasses.asdict(self) | {
            "complete": self.complete,
            "num_records": self.num_records,
            "duration_s": self.duration_s,
            "rejected_by_cause": self.rejected_by_cause(),
        }
        return json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def save(self, directory: Path) -> None:
        """Writes manifest.json as a whole or not at all."""
        temporary = directory / f".{MANIFEST_NAME}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(self.to_json())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, directory / MANIFEST_NAME)

    @classmethod
    def load(cls, directory: Path) -> "Manifest":
        """Reads manifest.json.

        Raises:
          ShardError: there is none, it is damaged, or its records have another schema version.
        """
        path = directory / MANIFEST_NAME
        if not path.is_file():
            hint = "build it with `python -m launch.prepare --config=configs/data/world.py --out DIR`"
            raise ShardError(f"{directory} holds no shards (no {MANIFEST_NAME}): {hint}")
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
                num_shards=fields["num_shards"],
                shards=tuple(
                    Shard(**shard | {"rejected": tuple(tuple(item) for item in shard["rejected"])})
                    for shard in fields["shards"]
                ),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(
                f"{path} is damaged ({error!r}): delete the directory and run `python -m launch.prepare` again"
            ) from error

    def differences(self, other: "Manifest") -> list[str]:
        """How the data asked for by `other` differs from this data, a line for each value; empty if it does not."""
        ours, theirs = self._identity(), other._identity()
        return [
            f"{name}: {_shown(ours, name)} there, {_shown(theirs, name)} asked for"
            for name in sorted(ours.keys() | theirs.keys())
            if _shown(ours, name) != _shown(theirs, name)
        ]

    def _identity(self) -> dict[str, Any]:
        fields = {
            "schema_version": self.schema_version,
            "clock": dataclasses.asdict(self.clock),
            "config": self.config,
            "source": self.source,
            "num_shards": self.num_shards,
        }
        return _flat(json.loads(json.dumps(fields)), "")


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shown(values: dict[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else "nothing"


def _flat(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {name: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{name}.{key}" if name else key)
    return flat
