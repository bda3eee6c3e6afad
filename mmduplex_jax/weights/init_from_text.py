"""`config.init_from.text`: the language model of a run, imported or from a training of stage `vlm` or `duplex`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.dual_stream import DualStreamConfig
from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.train.task import Task
from mmduplex_jax.weights.huggingface import text
from mmduplex_jax.weights.huggingface.layout import Layout, theirs_expected
from mmduplex_jax.weights.huggingface.source import boxed_shapes
from mmduplex_jax.weights.init_from_plan import Folder, Imported, InitFromError, Plan, differences

# How a stack runs, not what it computes; and cross-attention, which a language model by itself has not.
_FREE = ("cross_every", "cross_gate", "num_sinks", "window_steps", "scan", "remat", "dtype", "attention")
_TABLES = ("embedding", "head")  # may have more rows, or fewer, than there are ids


@dataclasses.dataclass(frozen=True)
class Language:
    """A language model, by itself or in a model that sees.

    Attributes:
      text: its layers.
      head: "tied", "own" or "none".
    """

    text: StackConfig
    head: str


def language_of(task: Task) -> Language | None:
    """The language model of a stage; None where it has none."""
    config = getattr(task, "config", None)
    if isinstance(config, DualStreamConfig):
        return Language(config.text, "tied" if config.tied else "own")
    language = getattr(config, "language", None)
    return Language(language.text, language.head) if isinstance(language, LanguageConfig) else None


def text_plan(folder: Folder, task: Task, tokenizer: TextTokenizer, shapes: Mapping[str, Any]) -> Plan:
    """What becomes of a folder with a language model.

    Raises:
      InitFromError: the stage has no language model, or the folder none.
    """
    model = language_of(task)
    if model is None:
        raise InitFromError("config.init_from.text: this stage has no language model")
    found, source, have, every = _found(folder)
    wrong = differences(found.text, model.text, _FREE, "config.text.")
    if found.head != model.head:
        wrong.append(f"its head is {found.head!r}, the model's {model.head!r}: set config.text.tied accordingly")
    wrong += _other_tokenizer(folder, tokenizer)
    target = text.stream_layout(model.text, model.head == "tied")
    need = theirs_expected(target, {name: shapes[name] for entry in target.entries for name in entry.our_names})
    tables = {name for entry in target.entries if entry.ours in _TABLES for name in entry.their_names}
    # A training's table is padded; what is beyond its ids stands for nothing.
    rows = None if isinstance(folder, Imported) else tokenizer.vocab_size
    fits = {
        name
        for name in need.keys() & have.keys()
        if have[name] == need[name] or (name in tables and _rows_fit(have[name], need[name], rows))
    }
    wrong += [f"it lacks what {_ours_of(target, name)} is made of" for name in need if name not in have]
    wrong += [
        f"its {_ours_of(source, name)} is {list(have[name])}, {_ours_of(target, name)} needs {list(need[name])}"
        for name in need
        if name in have and name not in fits
    ]
    wrong += [f"the model has no place for its {_ours_of(source, name)}" for name in have if name not in need]
    taken = {name for entry in source.entries if fits.issuperset(entry.their_names) for name in entry.our_names}
    return Plan(
        "text",
        folder,
        tuple(entry for entry in target.entries if fits.issuperset(entry.their_names)),
        source,
        tuple(name for name in every if name not in taken),
        every,
        tuple(wrong),
        tuple(_notes(folder, task)),
        ("delays",) if "delays" in shapes else (),
    )


def _found(folder: Folder) -> tuple[Language, Layout, dict[str, tuple[int, ...]], tuple[str, ...]]:
    """A folder's language model: what it is, its layout, the shapes that this makes, and all names in the folder."""
    if isinstance(folder, Imported):
        config = folder.config
        if not isinstance(config, LanguageConfig):
            kind = folder.metadata["kind"]
            raise InitFromError(f"config.init_from.text: {folder.path} is of kind {kind!r}, wanted is 'text'")
        layout = text.layout(config)
        have = theirs_expected(layout, nn.unbox(boxed_shapes(config)))
        return Language(config.text, config.head), layout, have, tuple(n for e in layout.entries for n in e.our_names)
    language = language_of(folder.trained.task)
    if language is None:
        raise InitFromError(
            f"config.init_from.text: {folder.path} is a training of stage {folder.stage!r}, which has no language "
            "model; wanted is one of stage 'vlm' or 'duplex', or imported weights"
        )
    layout = text.stream_layout(language.text, language.head == "tied")
    have = theirs_expected(layout, {n: folder.shapes[n] for entry in layout.entries for n in entry.our_names})
    return language, layout, have, tuple(folder.shapes)


def _rows_fit(have: tuple[int, ...], need: tuple[int, ...], rows: int | None) -> bool:
    """Whether a table can become another: as wide, and with a place for every row, or for the `rows` that count."""
    return have[1:] == need[1:] and (have[0] <= need[0] or (rows is not None and rows <= need[0]))


def _other_tokenizer(folder: Folder, tokenizer: TextTokenizer) -> list[str]:
    if isinstance(folder, Imported):
        same = folder.metadata["tokenizer_json"] in (None, tokenizer.to_json())
        named = folder.path
    else:
        same = folder.trained.tokenizer.to_json() == tokenizer.to_json()
        named = folder.trained.config.text_tokenizer
    return [] if same else [f"it speaks another tokenizer than the run: set config.text_tokenizer={named}"]


def _notes(folder: Folder, task: Task) -> list[str]:
    notes = []
    if isinstance(folder, Imported) and folder.metadata["tokenizer_json"] is None:
        notes.append("no tokenizer came with it: its ids are taken to be those of config.text_tokenizer")
    config = getattr(task, "config", None)
    if isinstance(config, DualStreamConfig) and config.fusion != "interleave" and config.text.cross_gate:
        notes.append(
            f"config.text.cross_gate is {config.text.cross_gate}: video is let in from the first step, and the "
            "language model computes something else than it did; 0.0 starts with the gates closed"
        )
    return notes


def _ours_of(layout: Layout, theirs: str) -> str:
    """The parameter that a tensor is (a part of)."""
    return next(", ".join(entry.our_names) for entry in layout.entries if theirs in entry.their_names)
