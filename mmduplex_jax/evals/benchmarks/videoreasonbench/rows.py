"""Rows in the published layout, read and written: JSON objects by id, or Parquet.

    ROOT/questions/hrd.json            the layout of the repository: {id: row}
    ROOT/hrd.json                      what VLMEvalKit makes of the data set
    ROOT/hrd/test-00000-of-00001.parquet   the data set itself: rows with their id
    ROOT/videos/hrd/state3_op5_start.mp4   the videos that rows name

Rows have video, question, answer, dim, num_state, num_operation, visible_time, states and, by demo, moves (hrd, cup,
grid), coords (grid), commands (file_sys) or actions (card, chip).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError
from mmduplex_jax.evals.benchmarks.videoreasonbench.answers import read_operations
from mmduplex_jax.evals.benchmarks.videoreasonbench.simulation import (
    DEMOS,
    Board,
    Command,
    Instance,
    Operation,
    Pieces,
    State,
    places,
    replay,
    same_state,
)

FIELDS = ("video", "question", "answer", "dim", "num_state", "num_operation", "visible_time")
OPERATIONS = {
    "hrd": "moves", "cup": "moves", "grid": "moves", "file_sys": "commands", "card": "actions", "chip": "actions",
}  # fmt: skip
_GRID_MOVES = {"x-1": "left", "x+1": "right", "y-1": "up", "y+1": "down"}
_INITIALLY = "init"
_SHARD = "test-00000-of-00001.parquet"

Row = dict[str, Any]


def find_rows(root: Path) -> Iterator[tuple[str, str, str, Row]]:
    """All rows below a folder as (demo, id, where it stands, row).

    Raises:
      BenchmarkError: there are none, or a file cannot be read.
    """
    found = False
    for demo in DEMOS:
        files = [root / "questions" / f"{demo}.json", root / f"{demo}.json", *sorted((root / demo).glob("*.parquet"))]
        present = [file for file in files if file.is_file()]
        if not present:
            continue
        found = True
        # VLMEvalKit leaves its JSON beside the Parquet that it is made of: one of them is enough.
        chosen = present[:1] if present[0].suffix == ".json" else present
        for file in chosen:
            for key, row in (_json_rows if file.suffix == ".json" else _parquet_rows)(file):
                where = f"{file}: row {key!r}"
                missing = [name for name in (*FIELDS, "states", OPERATIONS[demo]) if name not in row]
                if missing:
                    raise BenchmarkError(f"{where} has no {', '.join(missing)}")
                yield demo, key, where, row
    if not found:
        raise BenchmarkError(
            f"{root}: no rows of VideoReasonBench; expected questions/DEMO.json, DEMO.json or DEMO/*.parquet, "
            f"DEMO one of {', '.join(DEMOS)}"
        )


def _json_rows(file: Path) -> list[tuple[str, Row]]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BenchmarkError(f"{file}: not JSON ({error})") from error
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise BenchmarkError(f"{file}: expected an object of rows by their ids")
    return list(rows.items())


def _parquet_rows(file: Path) -> list[tuple[str, Row]]:
    parquet = _parquet()
    rows = parquet.read_table(file).to_pylist()
    if any("id" not in row for row in rows):
        raise BenchmarkError(f"{file}: expected a column `id`")
    return [(row.pop("id"), row) for row in rows]


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise BenchmarkError("Parquet needs pyarrow: pip install pyarrow") from error
    return parquet


def read_instance(demo: str, row: Mapping[str, Any]) -> Instance:
    """What happens in a row's video; its stored states must be what its operations lead to.

    Raises:
      ValueError: they are not, or a field is not of its form.
    """
    size, visible = int(row["num_state"]), row["visible_time"]
    states: list[State]
    operations: list[Operation]
    if visible not in ("start", "end"):
        raise ValueError(f"visible_time must be start or end, got {visible!r}")
    stored = _nested(row["states"])
    if demo == "file_sys":
        # Before the operations the files are made, and when they are visible they are listed.
        listed = [text for text in row["commands"][1:] if not text.startswith("ls ")]
        operations = [_operation(demo, text) for text in listed]
        states = [
            {path: frozenset(stored[path][text]) for path in places(demo, size)} for text in (_INITIALLY, *listed)
        ]
    elif demo in ("card", "chip"):
        operations = [_operation(demo, text) for text in row["actions"]]
        piles = {place: list(map(tuple, stored[place])) for place in places(demo, size)}
        states = [dict(zip(piles, contents)) for contents in zip(*piles.values(), strict=True)]
    else:
        boards: list[Board] = [tuple(tuple(map(int, line)) for line in board) for board in stored]
        states = boards
        if demo == "cup":
            operations = [((int(a), int(b)), (int(c), int(d))) for (a, b), (c, d) in _nested(row["moves"])]
        elif demo == "hrd":
            operations = [_operation(demo, text) for text in row["moves"]]
        else:
            operations = [_GRID_MOVES[text] for text in row["moves"]]
            circles = [(int(x), int(y)) for x, y in _nested(row["coords"])]
            states = [Pieces(*pair) for pair in zip(boards, circles, strict=True)]
    if len(operations) != int(row["num_operation"]):
        raise ValueError(f"num_operation is {row['num_operation']}, but there are {len(operations)} operations")
    simulated = replay(demo, states[0], operations)
    if len(states) != len(simulated) or not all(same_state(demo, *pair) for pair in zip(states, simulated)):
        raise ValueError("the stored states are not those that the operations lead to")
    return Instance(demo, size, visible, simulated, tuple(operations))


def _nested(value: Any) -> Any:
    """A nested field; tables that cannot hold it have it as JSON."""
    return json.loads(value) if isinstance(value, str) else value


def _operation(demo: str, text: str) -> Any:
    operations = read_operations(demo, text)
    if operations is None or len(operations) != 1:
        raise ValueError(f"not an operation of {demo}: {text!r}")
    return operations[0]


def instance_fields(instance: Instance) -> Row:
    """The fields of a row that say what happens; the inverse of `read_instance`."""
    demo, states = instance.demo, instance.states
    texts = [str(operation) for operation in instance.operations]
    fields: Row = {
        "num_state": instance.size,
        "num_operation": len(texts),
        "visible_time": instance.visible,
    }
    if demo == "file_sys":
        if len(set(texts)) != len(texts):
            raise ValueError("the layout keeps states by their commands, so no command may come twice")
        named = places(demo, instance.size)
        made = " ".join(str(Command("touch", tuple(sorted(states[0][path])), path)) for path in named)
        made = "touch " + made.replace("touch ", "")
        shown = "ls " + " ".join(named)
        commands = [made, shown, *texts] if instance.visible == "start" else [made, *texts, shown]
        files = {
            path: {text: sorted(state[path]) for text, state in zip((_INITIALLY, *texts), states)} for path in named
        }
        return fields | {"commands": commands, "states": files}
    if demo in ("card", "chip"):
        kept = {place: [list(state[place]) for state in states] for place in places(demo, instance.size)}
        return fields | {"actions": texts, "states": kept}
    boards = [state.board if demo == "grid" else state for state in states]
    fields["states"] = [[list(line) for line in board] for board in boards]
    if demo == "grid":
        names = {direction: text for text, direction in _GRID_MOVES.items()}
        return fields | {"moves": [names[text] for text in texts], "coords": [list(state.circle) for state in states]}
    if demo == "cup":
        return fields | {
            "moves": [[list(square) for square in pair] for pair in instance.operations if isinstance(pair, tuple)]
        }
    return fields | {"moves": texts}


def write_rows(root: Path, demo: str, rows: Mapping[str, Row], *, parquet: bool = False) -> Path:
    """Writes a demo's rows into `questions/DEMO.json`, or `DEMO/test-00000-of-00001.parquet`; returns the file.

    In Parquet `states` of demos that have them by name are JSON texts: a column for each command would be absurd.
    """
    if not parquet:
        file = root / "questions" / f"{demo}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        return file
    _parquet()
    import pyarrow

    file = root / demo / _SHARD
    file.parent.mkdir(parents=True, exist_ok=True)
    table = [{"id": key, **row} for key, row in rows.items()]
    for line in table:
        if isinstance(line["states"], dict):
            line["states"] = json.dumps(line["states"])
    _parquet().write_table(pyarrow.Table.from_pylist(table), file)
    return file


def bucket_of(num_operation: int) -> str:
    """The published groups of how many operations there are, "5-9" and "10-14", and more of their kind."""
    first = num_operation // 5 * 5
    return f"{first}-{first + 4}"
