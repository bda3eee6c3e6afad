"""Makes a folder in the published layout: new videos, their captions and questions, from a seed."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError
from mmduplex_jax.evals.benchmarks.videoreasonbench.generation import SIZES, random_instance, random_rows
from mmduplex_jax.evals.benchmarks.videoreasonbench.rendering import write_files
from mmduplex_jax.evals.benchmarks.videoreasonbench.rows import Row, write_rows
from mmduplex_jax.evals.benchmarks.videoreasonbench.simulation import DEMOS, Instance

NUM_OPERATIONS = range(5, 15)


def make(
    folder: Path,
    *,
    seed: int = 0,
    demos: Iterable[str] = DEMOS,
    num_operations: Iterable[int] = NUM_OPERATIONS,
    copies: int = 1,
    parquet: bool = False,
    fps: int = 10,
    height_px: int = 360,
) -> None:
    """Writes videos, captions and rows. By default as many as are published: 240 videos, 1,440 questions.

    Each row also has a `solution`: what a model may be taught to answer, also where `answer` is null. A second seed
    enlarges the folder. Videos that are there already are not filmed again, so that a killed run goes on.

    Args:
      folder: made if it is missing.
      seed: decides everything.
      demos: some of `DEMOS`.
      num_operations: of the videos; each number is filmed with a small and a large state.
      copies: how many of each, with the state shown at the start and at the end.
      parquet: rows as Parquet, which is written anew, instead of JSON.
      fps: frames a second.
      height_px: of the frames, which are 4:3.

    Raises:
      BenchmarkError: there are rows in the folder that were not made here.
    """
    folder = Path(folder)
    numbers = list(num_operations)
    for demo in demos:
        rows: dict[str, Row] = {} if parquet else _rows_there(folder / "questions" / f"{demo}.json")
        settings = [(size, number, copy) for size in SIZES[demo] for number in numbers for copy in range(copies)]
        for size, number, copy in tqdm(settings, desc=demo, unit="pair", disable=None):
            name = f"state{size}_op{number}_{seed}-{copy}"
            key = [seed, DEMOS.index(demo), size, number, copy]
            instance = random_instance(np.random.default_rng(key), demo, size, number)
            rows.update(random_rows(np.random.default_rng([*key, 1]), instance, name))
            for visible in ("start", "end"):
                _film(folder / "videos" / demo, f"{name}_{visible}", instance, visible, fps, height_px)
        write_rows(folder, demo, rows, parquet=parquet)


def _film(folder: Path, name: str, instance: Instance, visible: str, fps: int, height_px: int) -> None:
    if not (folder / f"{name}.mp4").is_file() or not (folder / f"{name}.vtt").is_file():
        write_files(folder, name, dataclasses.replace(instance, visible=visible), fps=fps, height_px=height_px)


def _rows_there(file: Path) -> dict[str, Row]:
    if not file.is_file():
        return {}
    rows = json.loads(file.read_text(encoding="utf-8"))
    if not all("solution" in row for row in rows.values()):
        raise BenchmarkError(f"{file} has rows that were not made here, whose scores new ones would change: "
                             "choose another folder")  # fmt: skip
    return rows
