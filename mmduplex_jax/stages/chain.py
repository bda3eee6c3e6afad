"""Commands of this project run one after the other, printed as they would be typed; and the steps of a chain."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmduplex_jax.stages.config_file import load_config

SCORES = "scores.json"


class StepFailed(RuntimeError):
    """A step ended with another exit code than 0."""

    def __init__(self, typed: str, code: int):
        super().__init__(f"`{typed}` ended with code {code}; its message is above. The same command goes on from there")
        self.code = code


def run_command(
    command: Sequence[str], *, cwd: str | Path | None = None, environment: Mapping[str, str] | None = None
) -> float:
    """Runs one of the project's commands in this terminal; returns its seconds.

    Args:
      command: `launch.NAME` and its flags.
      environment: variables beside those of this process, which go before them.

    Raises:
      StepFailed: it ended with another exit code than 0.
    """
    typed = shlex.join(["python", "-m", *command])
    print(f"$ {typed}\n", flush=True)
    started_s = time.monotonic()
    variables = {**(environment or {}), **os.environ}
    code = subprocess.run([sys.executable, "-m", *command], cwd=cwd, env=variables).returncode
    if code:
        raise StepFailed(typed, code)
    return time.monotonic() - started_s


def load_chain(file: str) -> Any:
    """The chain that a config file describes.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it describes no chain, or one that begins a stage with a later one.
    """
    chain = load_config(file)
    if not hasattr(chain, "order") or not hasattr(chain, "begins_with"):
        raise ValueError(
            f"--config={file} is no chain: it has no `order` and `begins_with` (a stage is launch.train's)"
        )
    before: list[str] = []
    for stage in chain.order:
        for part, source in chain.begins_with.get(stage, {}).items():
            if source not in before:
                raise ValueError(
                    f"--config={file}: {stage} begins with the {part} of {source!r}, which is not before it"
                )
        before.append(stage)
    return chain


def steps_of(
    chain: Any, file: str, workdir: str | Path, *, data: str | None, steps: int | None, clips: int
) -> list[tuple[str, list[str], Path]]:
    """What is to be done, in order: a title, a command and the file that shows that it is done.

    Args:
      chain: what `file` describes.
      workdir: gets data/ and a folder for every stage.
      data: shards to train on, instead of preparing the chain's own.
      steps: of every stage, instead of each config's.
      clips: unseen ones that every stage is scored on.
    """
    root = Path(workdir)
    dirs = data or str(root / "data")
    found = []
    if not data:
        values = [f"--config.{name}={value}" for name, value in chain.data.items() if name != "config"]
        command = ["launch.prepare", f"--config={chain.data.config}", f"--out={dirs}", *values]
        found.append(("the data", command, root / "data" / "manifest.json"))
    for stage in chain.order:
        folder = root / stage
        train = [
            "launch.train",
            f"--config={file}:{stage}",
            f"--workdir={folder}",
            f"--config.data.dirs={dirs}",
            *(
                f"--config.init_from.{part}={root / source}"
                for part, source in chain.begins_with.get(stage, {}).items()
            ),
        ]
        if steps is not None:
            train.append(f"--config.train.steps={steps}")
        evaluate = ["launch.evaluate", f"--checkpoint={folder}", f"--clips={clips}", f"--json={folder / SCORES}"]
        # A training that is done does nothing when it is started again; its scores show that it was done.
        found.append((f"{stage}: training", train, folder / SCORES))
        found.append((f"{stage}: evaluation", evaluate, folder / SCORES))
    return found
