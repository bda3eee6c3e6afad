"""A trained model from a folder, whichever of the two kinds of checkpoint it holds."""

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from mmduplex_jax.clock import Clock
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.trace_cache import recall
from mmduplex_jax.train.task import Task
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.reduced import KINDS, check_kind, rounded

_HERE = Path(__file__).resolve().parent
# The trained models that come with the library: of real fixed cameras, and of the built-in world's shapes.
MODELS: Mapping[str, Path] = {"real": _HERE / "real", "world": _HERE / "world"}
DEFAULT = "real"
# What commands say of their --checkpoint.
CHECKPOINT_HELP = f"a training's workdir, a portable checkpoint, or a model that comes along: {' or '.join(MODELS)}"


def add_weights_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--weights=KIND`; None where it is not given."""
    text = "how large tables of weights are held; computing stays as it is (default: as they were exported)"
    parser.add_argument("--weights", choices=KINDS, help=text)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model that has learned something.

    Attributes:
      params: float32, unboxed; where `weights` are fewer bits, with the values of those.
      config: of its training, locked.
      task: the stage, built from `config`.
      metadata: whatever else the checkpoint says.
      weights: how a stream holds large tables, of `reduced.KINDS`.
    """

    folder: Path
    params: PyTree
    config: ConfigDict
    tokenizer: TextTokenizer
    task: Task
    steps: int
    metadata: Mapping[str, Any]
    weights: str = "float32"

    @property
    def name(self) -> str:
        """That of `MODELS` where it is one of these, however it was named, else its folder."""
        folder = self.folder.resolve()
        return next((name for name, its in MODELS.items() if its == folder), str(self.folder))

    @property
    def title(self) -> str:
        """What to call it where people read: "model real" or "the model in runs/mine"."""
        return f"model {self.name}" if self.name in MODELS else f"the model in {self.name}"

    @property
    def clock(self) -> Clock:
        return Clock(self.config.clock.step_hz, self.config.clock.video_stride)


def load_trained(folder: str | os.PathLike[str] | None, weights: str | None = None) -> Trained:
    """Reads a portable checkpoint or the newest one of a training's workdir.

    Args:
      folder: of either kind; or a name of `MODELS`, "real" or "world", for one that comes with the library. A name
        goes before a folder of that name: `./real` is the folder. None: `DEFAULT`.
      weights: to round large tables to, of `reduced.KINDS`; None: as it was exported.

    Raises:
      FileNotFoundError: there is no checkpoint in the folder.
      ValueError: it is another layout's, damaged, or does not fit the model of its config; says what differs. Or there
        is no such kind of weights.
    """
    if weights is not None:
        check_kind(weights)
    given = DEFAULT if folder is None else os.fspath(folder)
    folder = MODELS.get(given) or Path(given)
    if portable.is_portable(folder):
        params, metadata = portable.load(folder)
        config, tokenizer_json, steps = metadata["config"], json.dumps(metadata["tokenizer"]), metadata["steps"]
    else:
        params, metadata = load_workdir(folder)
        config, tokenizer_json, steps = metadata["config"], metadata["tokenizer_json"], metadata["step"]
    tokenizer = TextTokenizer.from_json(tokenizer_json)
    resolved = ConfigDict(portable.with_tuples(config)).lock()
    try:
        task = build_task(resolved, tokenizer)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder}: its config describes no model of this code ({error}): use the code that trained it, or "
            "train again"
        ) from error
    # That the models that come along fit this code is tested, and tracing takes seconds of a first start.
    if folder not in MODELS.values():
        expected = _shapes(task, f"{resolved.to_json_best_effort()}\n{tokenizer_json}")
        portable.check(params, expected, f"{folder} against the model that its config describes")
    kind = metadata.get("weights", "float32") if weights is None else weights
    return Trained(folder, rounded(params, kind), resolved, tokenizer, task, int(steps), metadata, kind)


def _shapes(task: Task, facts: str) -> PyTree:
    """The parameters that a task has, as nested `ShapeDtypeStruct`s; traced once for the facts that decide the task."""

    def traced() -> bytes:
        shapes = portable.flatten(nn.unbox(jax.eval_shape(lambda: task.init(jax.random.key(0)))))
        return json.dumps({name: [leaf.shape, str(leaf.dtype)] for name, leaf in shapes.items()}).encode()

    kept = json.loads(recall("shapes", facts, traced))
    return portable.unflatten(
        {name: jax.ShapeDtypeStruct(tuple(shape), dtype) for name, (shape, dtype) in kept.items()}
    )


def load_tokenizer(config: Any) -> TextTokenizer:
    """The text tokenizer of a config.

    It is `world` (the built-in world's words, of both drawn looks), `events` (the words of real events), a
    tokenizer.json, or a folder of imported weights; with `config.sentence_ends` it gets the mark END where it has none.

    Raises:
      FileNotFoundError: there is no such file, or no such folder with a tokenizer.
      ValueError: the file is no tokenizer.
    """
    tokenizer = _load_words(config.text_tokenizer)
    return tokenizer.with_sentence_ends() if config.get("sentence_ends") else tokenizer


def _load_words(name: str) -> TextTokenizer:
    """The tokenizer of a name; errors as of `load_tokenizer`."""
    hint = (
        "pass --config.text_tokenizer=FILE (a tokenizer.json, or a folder of imported weights with one), `world` or "
        "`events`"
    )
    if name == "world":
        from data_pipelines.world.commentator import lexicon

        return TextTokenizer.word_level(lexicon("rich"))
    if name == "events":
        from data_pipelines.world import event_words

        return TextTokenizer.word_level(event_words.lexicon())
    if not Path(name).exists():
        raise FileNotFoundError(f"config.text_tokenizer={name!r}: there is no such file or folder; {hint}")
    if not Path(name).is_dir():
        return TextTokenizer.from_file(name)
    # Orbax takes seconds to import.
    from mmduplex_jax.weights.checkpoint import read_weights_metadata

    text = read_weights_metadata(name)["tokenizer_json"]
    if text is None:
        raise FileNotFoundError(f"config.text_tokenizer={name!r}: these weights came without a tokenizer.json; {hint}")
    return TextTokenizer.from_json(text)


def load_workdir(folder: Path) -> tuple[PyTree, dict[str, Any]]:
    """Parameters and metadata of a training's workdir, with an error that also names the other kind."""
    # Orbax takes seconds to import and a portable checkpoint does not need it.
    from mmduplex_jax.weights.checkpoint import load_params

    try:
        return load_params(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no checkpoint in {folder}: neither a portable one ({portable.METADATA_FILE}, {portable.PARAMS_FILE}) nor "
            "a workdir of `python -m launch.train` (checkpoints/STEP)"
        ) from error
