"""Live-CC files as their publishers write them."""

import json
import os
from collections.abc import Sequence
from typing import Any


def write_lines(path: str | os.PathLike[str], samples: Sequence[Any]) -> None:
    """Writes samples (JSON values) as such a file, the line of offsets at its end."""
    begins, position = [], 0
    with open(path, "wb") as file:
        for sample in samples:
            begins.append(position)
            position += file.write(json.dumps(sample).encode("ascii") + b"\n")
        file.write(json.dumps(begins).encode("ascii") + b"\n")
