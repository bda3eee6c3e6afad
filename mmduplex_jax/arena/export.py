"""Every vote in a file: a JSON object a line, or Parquet."""

import itertools
import json
from pathlib import Path

from mmduplex_jax.arena.votes import VoteStore

SUFFIXES = (".jsonl", ".parquet")
_ROWS_AT_ONCE = 10_000


def export_votes(store: VoteStore, path: Path) -> int:
    """Writes all votes, those that do not count too; returns how many. The file appears when it is whole.

    Raises:
      ValueError: the name ends in neither `.jsonl` nor `.parquet`.
      FileNotFoundError: its folder is not there.
      ImportError: Parquet, and pyarrow is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--export={path}: the name must end in one of {SUFFIXES}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--export={path}: there is no folder {path.parent}; make it, or name another one")
    part = path.with_name(path.name + ".part")
    written = _write_parquet(store, part) if path.suffix == ".parquet" else _write_lines(store, part)
    part.replace(path)
    return written


def _write_lines(store: VoteStore, path: Path) -> int:
    written = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for vote in store.every_vote():
            file.write(json.dumps(vote, ensure_ascii=False) + "\n")
            written += 1
    return written


def _write_parquet(store: VoteStore, path: Path) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow (pip install 'mmduplex-jax[arena]'); .jsonl needs nothing") from error
    times = {"shown_s", "served_s", "voted_s", "decision_s"}
    names = (
        "ballot", "voter", "video", "category", "left", "right", "left_sha256", "right_sha256", "choice", "reason",
        "shown_s", "served_s", "voted_s", "decision_s", "counted", "excluded",
        "flagged",
    )  # fmt: skip
    kinds = {"ballot": pa.int64(), "voter": pa.int64(), "counted": pa.bool_()} | dict.fromkeys(times, pa.float64())
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    written = 0
    votes = store.every_vote()
    with pq.ParquetWriter(path, schema) as writer:
        while rows := list(itertools.islice(votes, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(rows, schema))
            written += len(rows)
    return written
