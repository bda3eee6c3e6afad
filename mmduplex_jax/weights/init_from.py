"""What a training begins with instead of random numbers: `config.init_from`.

    model      all of a model of the same stage and shape (the config may lack this field): to train it on; no other
               part is named beside it
    text       the language model: imported weights (`launch.import_weights`), or a training of stage vlm or duplex
    vision     the vision towers: imported weights, or a training of stage clip or vlm; they go to `vision/` (clip, vlm)
               or to the anchors and the crops of the tokenizer (bflow, duplex)
    crops      the tower of the tokenizer's crops, where it is another than `vision` has: the same kinds of folders
    tokenizer  the video tokenizer: a training of stage bflow or duplex
    strict     what is named must be all that the model's part needs, compute the same, and speak the run's tokenizer

Each is a folder, or nothing; a training is a workdir, what `launch.export` wrote, or the name of a model that comes
with the library. They are read where a run starts,
not where it goes on. The log says which parameters were taken, which were made anew and which of the folder were left.
Everything that does not fit is named in one error. With `config.init_from.strict=False` what fits is taken and the rest
is only told.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.frame_size import size_flag
from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.stages.registry import Language, Parts, Tower, find_stage
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.towers.contrastive import ContrastiveConfig
from mmduplex_jax.towers.kinds import without_pool
from mmduplex_jax.towers.preprocessing import Preprocessing
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.train.task import Task
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.checkpoint import is_weights, read_weights, read_weights_metadata
from mmduplex_jax.weights.huggingface import text
from mmduplex_jax.weights.huggingface.layout import Entry, Layout, theirs_expected
from mmduplex_jax.weights.huggingface.reader import WeightsError
from mmduplex_jax.weights.huggingface.source import Config, boxed_shapes, config_from_metadata
from mmduplex_jax.weights.portable import flatten, is_portable, unflatten
from mmduplex_jax.weights.trained import MODELS, Trained, load_trained

PARTS = ("model", "text", "vision", "crops", "tokenizer")
_OPTIONAL = {"model", "crops"}  # "crops": of a model with a tower for crops
TOKENIZER, CROPS, VISION = "tokenizer/", "tokenizer/crops/", "vision/"
_POOL = ("pool/", "projection/")
# What decides how a part runs, and not what it computes; of a text stack also cross-attention, which a language model
# by itself has not; of a tower also how its positions are fitted to other pictures.
_FREE_TOKENIZER = ("remat", "dtype", "attention")
_FREE_VISION = (*_FREE_TOKENIZER, "positions")
_FREE_TEXT = (*_FREE_TOKENIZER, "cross_every", "cross_gate", "num_sinks", "window_steps", "scan")
_SIZES = ("frame_px", "plane_px", "grid_side", "image_px")  # pairs, which a flag takes in its own way
_TABLES = ("embedding", "head")  # may have more rows, or fewer, than there are ids

Fill = Callable[[PyTree], PyTree]


def make_start(
    config: Any, task: Task, tokenizer: TextTokenizer, log: Callable[[str], None], only: str = ""
) -> Callable[[PyTree], Fill] | None:
    """What `train.loop.fit` takes as `start`; None where the config names no folder.

    Args:
      config: resolved; `init_from` has a folder, or nothing, for each of `PARTS`, and `strict`.
      log: where lines for people go.
      only: what the paths of those parameters begin with that are to be replaced; the others need not be there then.

    Returns:
      A function of the abstract parameters that raises InitFromError or returns the function that replaces parameters.

    Raises:
      InitFromError: `init_from` lacks a field, or has one that nobody reads.
    """
    named = _named(config)
    if not named:
        return None

    def start(target: PyTree) -> Fill:
        shapes = flatten(target)
        try:
            plans = _plans(named, find_stage(config.stage).parts(task), tokenizer, shapes)
        except (FileNotFoundError, WeightsError) as error:
            raise InitFromError(f"config.init_from: {error}") from error
        wrong = [f"{plan.part}: {line}" for plan in plans for line in plan.wrong]
        if wrong and config.init_from.strict:
            raise InitFromError(
                "config.init_from does not fit this run:\n  "
                + "\n  ".join(wrong)
                + "\n-> change the config, or take what fits with --config.init_from.strict=False"
            )
        for line in [*wrong, *_report_lines(plans, shapes)]:
            log(f"init_from {line}")
        return lambda params: filled(params, [plan.only(only) for plan in plans])

    return start


def _named(config: Any) -> dict[str, str]:
    """The folders that a config names, by part."""
    fields = {*PARTS, "strict"}
    have = set(config.init_from) if "init_from" in config else set()
    if have | _OPTIONAL != fields:
        lacks, unknown = sorted(fields - _OPTIONAL - have), sorted(have - fields)
        raise InitFromError(
            f"config.init_from lacks {lacks} and has {unknown}, which nobody reads: write "
            'c.init_from = config_dict.create(text="", vision="", tokenizer="", strict=True)'
        )
    named = {part: config.init_from[part] for part in PARTS if part in have and config.init_from[part]}
    if "model" in named and len(named) > 1:
        others = ", ".join(part for part in named if part != "model")
        raise InitFromError(f"config.init_from.model brings all of a model, {others} too: name one or the other")
    return named


def _plans(named: Mapping[str, str], parts: Parts, tokenizer: TextTokenizer, shapes: Mapping[str, Any]) -> list[Plan]:
    folders: dict[str, Folder] = {}  # one may be named for several parts
    for path in named.values():
        if path not in folders:
            folders[path] = open_folder(path)
    plans = []
    if "model" in named:
        plans.append(model_plan(folders[named["model"]], parts, tokenizer, shapes))
    if "text" in named:
        plans.append(text_plan(folders[named["text"]], parts, tokenizer, shapes))
    for part in ("vision", "crops"):
        if part in named:
            brought = {"tokenizer": TOKENIZER} if "tokenizer" in named else {}
            if part == "vision" and "crops" in named:
                brought["crops"] = CROPS
            plans += vision_plans(part, folders[named[part]], parts, shapes, brought)
    if "tokenizer" in named:
        plans.append(tokenizer_plan(folders[named["tokenizer"]], parts, shapes))
    return plans


def _report_lines(plans: Collection[Plan], shapes: Mapping[str, Any]) -> list[str]:
    """Lines on what is taken, made and left."""
    lines, taken = [], set()
    for plan in plans:
        taken |= plan.taken
        lines += [f"{plan.part}: {note}" for note in plan.notes]
        lines.append(f"{plan.part}: taken from {plan.folder.path}: {_summary(plan.taken, shapes) or 'nothing'}")
        if plan.zeroed:
            lines.append(f"{plan.part}: made zero, so that it computes what it did: {', '.join(plan.zeroed)}")
            taken |= set(plan.zeroed)
        lines.append(f"{plan.part}: left: {_summary(plan.left, plan.every) or 'nothing'}")
    made = [name for name in shapes if name not in taken]
    return [*lines, f"made anew: {_summary(made, shapes) or 'nothing'}"]


def _summary(chosen: Collection[str], every: Collection[str]) -> str:
    """Names by the highest module that was chosen as a whole, equal layers together, with their numbers of arrays."""
    picked, counts = set(chosen), dict[str, int]()
    for name in every:
        if name not in picked:
            continue
        path = name.split("/")
        heads = ["/".join(path[:depth]) for depth in range(1, len(path) + 1)]
        whole = next(h for h in heads if all(o in picked for o in every if o == h or o.startswith(h + "/")))
        pattern = re.sub(r"_\d+(?=/|$)", "_*", whole)
        counts[pattern] = counts.get(pattern, 0) + 1
    return ", ".join(f"{pattern} ({count})" for pattern, count in counts.items())


# Folders of weights, and what becomes of what is in them.


class InitFromError(ValueError):
    """Weights that a run was told to begin with, and cannot; the message names everything that does not fit."""


class Imported:
    """Weights that `launch.import_weights` wrote; the numbers are read when they are asked for.

    Attributes:
      metadata: whatever else came with them.
    """

    def __init__(self, path: str):
        self.path = path
        self.metadata: Mapping[str, Any] = read_weights_metadata(path)
        self.config: Config = config_from_metadata(self.metadata)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every parameter by its path."""
        return flatten(read_weights(self.path)[0])


class Learned:
    """What a training has learned, from its workdir or exported.

    Attributes:
      shapes: of every parameter by its path.
    """

    def __init__(self, path: str):
        self.path = path
        self.trained: Trained = load_trained(path)
        self.shapes = {name: tuple(leaf.shape) for name, leaf in flatten(self.trained.params).items()}

    @property
    def stage(self) -> str:
        return self.trained.config.stage

    @property
    def parts(self) -> Parts:
        """Of its model."""
        return find_stage(self.stage).parts(self.trained.task)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every parameter by its path."""
        return {name: np.asarray(leaf) for name, leaf in flatten(self.trained.params).items()}


Folder = Imported | Learned


def open_folder(path: str) -> Folder:
    """What a folder holds.

    Raises:
      FileNotFoundError: neither imported weights nor a training.
      ValueError: of another layout, or damaged.
    """
    if path in MODELS:
        return Learned(path)
    if is_weights(path):
        return Imported(path)
    folder = Path(path)
    one_step = folder.parent.name == "checkpoints" and folder.name.isdigit()
    if is_portable(folder) or one_step or (folder / "checkpoints").is_dir():
        return Learned(path)
    raise FileNotFoundError(
        f"{path} holds neither imported weights (of `python -m launch.import_weights`) nor a training (a workdir of "
        "`python -m launch.train`, or what `python -m launch.export` wrote)"
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What becomes of one folder in one place of the model.

    Attributes:
      part: of `config.init_from` that names the folder.
      entries: parameters of the run (`ours`) and those of the folder (`theirs`) that they are made of.
      source: how the folder's parameters come by the names in `entries`.
      left: parameters of the folder that are not taken, of `every` one in it.
      every: parameters of the folder, of which `left` are some.
      wrong: what does not fit, one line each.
      notes: what else to tell.
      zeroed: parameters of the run that must be zero for those of the folder to compute what they did.
    """

    part: str
    folder: Folder
    entries: tuple[Entry, ...]
    source: Layout
    left: tuple[str, ...]
    every: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    zeroed: tuple[str, ...] = ()

    def only(self, prefix: str) -> Plan:
        """Of the plan what fills parameters whose paths begin with `prefix`."""
        entries = tuple(entry for entry in self.entries if all(name.startswith(prefix) for name in entry.our_names))
        zeroed = tuple(name for name in self.zeroed if name.startswith(prefix))
        return dataclasses.replace(self, entries=entries, zeroed=zeroed)

    @property
    def taken(self) -> set[str]:
        """Parameters of the run that the folder brings."""
        return {name for entry in self.entries for name in entry.our_names}


def identity_plan(
    part: str,
    folder: Folder,
    need: Mapping[str, tuple[int, ...]],
    have: Mapping[str, tuple[int, ...]],
    ours: str,
    theirs: str,
    unused: Collection[str] = (),
    **told: Any,
) -> Plan:
    """A plan for parameters that have the same names in both, after what their names start with.

    Args:
      part: of `config.init_from`.
      need: shapes of the run's parameters by path; those that start with `ours` are wanted.
      have: shapes of the folder's parameters by path.
      ours, theirs: what names start with.
      unused: what names of the folder's parameters start with, after `theirs`, that the model has no use for.
      told: `wrong` and `notes`, which come before what is found here.
    """
    wanted = {name.removeprefix(ours): shape for name, shape in need.items() if name.startswith(ours)}
    found = {name.removeprefix(theirs): shape for name, shape in have.items() if name.startswith(theirs)}
    wrong = [f"it lacks {ours}{name}" for name in wanted if name not in found]
    wrong += [
        f"its {theirs}{name} is {list(found[name])}, {ours}{name} needs {list(wanted[name])}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    wrong += [
        f"the model has no place for its {theirs}{name}"
        for name in found
        if name not in wanted and not name.startswith(tuple(unused))
    ]
    fits = [name for name in wanted if found.get(name) == wanted[name]]
    kept = {theirs + name for name in fits}
    return Plan(
        part,
        folder,
        tuple(Entry(ours + name, name) for name in fits),
        Layout(tuple(Entry(theirs + name, name) for name in found)),
        tuple(name for name in have if name not in kept),
        tuple(have),
        (*told.get("wrong", ()), *wrong),
        tuple(told.get("notes", ())),
    )


def differences(found: Any, wanted: Any, free: Collection[str], prefix: str) -> list[str]:
    """Fields of two dataclasses of one kind that decide what is computed, and differ; with what to set.

    Args:
      found: what the folder's weights are of.
      wanted: what the run makes.
      free: fields that may differ.
      prefix: of the flags that set the run's.
    """
    lines = []
    for field in dataclasses.fields(found):
        theirs, ours = getattr(found, field.name), getattr(wanted, field.name)
        if field.name not in free and theirs != ours:
            if field.name in _SIZES:
                theirs, ours = size_flag(theirs), size_flag(ours)
            lines.append(f"{field.name} is {theirs}, the model's is {ours}: set {prefix}{field.name}={theirs}")
    return lines


def filled(params: PyTree, plans: Iterable[Plan]) -> PyTree:
    """Parameters with what the plans bring, each where it lies already."""
    flat = flatten(params)
    for plan in plans:
        if not plan.entries and not plan.zeroed:
            continue
        arrays = plan.folder.arrays()
        theirs: dict[str, np.ndarray] = {}
        for entry in plan.source.entries:
            made = entry.to_theirs(*(arrays.pop(name) for name in entry.our_names))
            theirs.update(zip(entry.their_names, made if isinstance(made, tuple) else (made,), strict=True))
        for entry in plan.entries:
            made = entry.to_ours(*(theirs.pop(name) for name in entry.their_names))
            for name, array in zip(entry.our_names, made if isinstance(made, tuple) else (made,), strict=True):
                flat[name] = placed(flat[name], array)
        for name in plan.zeroed:
            flat[name] = placed(flat[name], np.broadcast_to(np.float32(0), flat[name].shape))
    return unflatten(flat)


def placed(old: jax.Array, new: np.ndarray) -> jax.Array:
    """`new` as `old` lies on the mesh; rows that `old` has not are left out.

    Rows that `new` has not (of our marks in a language model's embedding) are those of `old` around the mean of `new`:
    around zero they would lie far from all others, and their logits below every word's, which takes long to learn
    (Hewitt, 2021, "Initializing new word embeddings for pretrained language models").
    """
    new = new[: old.shape[0]] if old.ndim else new
    rows = len(new) if old.ndim else 0
    around = new.mean(axis=0) if rows and rows < old.shape[0] else np.zeros(old.shape[1:], np.float32)

    def block(shard: Any) -> jax.Array:
        if rows == (old.shape[0] if old.ndim else 0):
            return jax.device_put(np.asarray(new[shard.index], old.dtype), shard.device)
        data = np.array(shard.data)
        first = shard.index[0].start or 0
        mine = new[(slice(first, first + len(data)), *shard.index[1:])]
        data[: len(mine)] = mine
        data[len(mine) :] += around[shard.index[1:]]
        return jax.device_put(data, shard.device)

    return jax.make_array_from_single_device_arrays(old.shape, old.sharding, list(map(block, old.addressable_shards)))


# `config.init_from.model`: all of a model.


def model_plan(folder: Folder, parts: Parts, tokenizer: TextTokenizer, shapes: Mapping[str, Any]) -> Plan:
    """What becomes of a folder with a model of the run's own kind.

    Raises:
      InitFromError: it holds imported weights.
    """
    if isinstance(folder, Imported):
        raise InitFromError(f"config.init_from.model: {folder.path} holds imported weights, wanted is a training")
    theirs, wrong = folder.parts, _other_tokenizer(folder, tokenizer)
    if theirs.language is not None and parts.language is not None:
        wrong += differences(theirs.language.text, parts.language.text, _FREE_TEXT, "config.text.")
    if theirs.tokenizer is not None and parts.tokenizer is not None:
        wrong += _tokenizer_differences(theirs.tokenizer, parts.tokenizer)
    need = {name: tuple(leaf.shape) for name, leaf in shapes.items()}
    return identity_plan("model", folder, need, folder.shapes, "", "", wrong=wrong)


# `config.init_from.text`: the language model.


def text_plan(folder: Folder, parts: Parts, tokenizer: TextTokenizer, shapes: Mapping[str, Any]) -> Plan:
    """What becomes of a folder with a language model.

    Raises:
      InitFromError: the stage has no language model, or the folder none.
    """
    model = parts.language
    if model is None:
        raise InitFromError("config.init_from.text: this stage has no language model")
    found, source, have, every = _found_text(folder)
    wrong = differences(found.text, model.text, _FREE_TEXT, "config.text.")
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
        tuple(_text_notes(folder, parts)),
        ("delays",) if "delays" in shapes else (),
    )


def _found_text(folder: Folder) -> tuple[Language, Layout, dict[str, tuple[int, ...]], tuple[str, ...]]:
    """A folder's language model: what it is, its layout, the shapes that this makes, and all names in the folder."""
    if isinstance(folder, Imported):
        config = folder.config
        if not isinstance(config, LanguageConfig):
            kind = folder.metadata["kind"]
            raise InitFromError(f"config.init_from.text: {folder.path} is of kind {kind!r}, wanted is 'text'")
        layout = text.layout(config)
        have = theirs_expected(layout, nn.unbox(boxed_shapes(config)))
        return Language(config.text, config.head), layout, have, tuple(n for e in layout.entries for n in e.our_names)
    language = folder.parts.language
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
    # The mark of sentence ends is the last id, so that it moves none: the run may have it and the folder not.
    words = tokenizer.without_sentence_ends()
    if isinstance(folder, Imported):
        same = folder.metadata["tokenizer_json"] in (None, words.to_json(), tokenizer.to_json())
        named = folder.path
    else:
        same = folder.trained.tokenizer.without_sentence_ends() == words
        named = folder.trained.config.text_tokenizer
    return [] if same else [f"it speaks another tokenizer than the run: set config.text_tokenizer={named}"]


def _text_notes(folder: Folder, parts: Parts) -> list[str]:
    notes = []
    if isinstance(folder, Imported) and folder.metadata["tokenizer_json"] is None:
        notes.append("no tokenizer came with it: its ids are taken to be those of config.text_tokenizer")
    if parts.cross_gate:
        notes.append(
            f"config.text.cross_gate is {parts.cross_gate}: video is let in from the first step, and the "
            "language model computes something else than it did; 0.0 starts with the gates closed"
        )
    return notes


def _ours_of(layout: Layout, theirs: str) -> str:
    """The parameter that a tensor is (a part of)."""
    return next(", ".join(entry.our_names) for entry in layout.entries if theirs in entry.their_names)


# `config.init_from.tokenizer`: the video tokenizer.


def tokenizer_plan(folder: Folder, parts: Parts, shapes: Mapping[str, Any]) -> Plan:
    """What becomes of a folder with a video tokenizer.

    Raises:
      InitFromError: the stage has no video tokenizer, or the folder none.
    """
    wanted = parts.tokenizer
    if wanted is None:
        raise InitFromError("config.init_from.tokenizer: this stage has no video tokenizer")
    if isinstance(folder, Imported):
        raise InitFromError(
            f"config.init_from.tokenizer: {folder.path} holds imported weights, wanted is a training of stage 'bflow' "
            "or 'duplex'"
        )
    found = folder.parts.tokenizer
    if found is None:
        raise InitFromError(
            f"config.init_from.tokenizer: {folder.path} is a training of stage {folder.stage!r}, wanted is one of "
            "stage 'bflow' or 'duplex'"
        )
    need = {name: tuple(leaf.shape) for name, leaf in shapes.items()}
    wrong = _tokenizer_differences(found, wanted)
    return identity_plan("tokenizer", folder, need, folder.shapes, TOKENIZER, TOKENIZER, wrong=wrong)


def _tokenizer_differences(found: TokenizerConfig, wanted: TokenizerConfig) -> list[str]:
    """Fields that decide which tokens there are, or what they are, and differ; with what to set."""
    flags = "config.tokenizer."
    parts = {field.name for field in dataclasses.fields(found) if dataclasses.is_dataclass(getattr(found, field.name))}
    lines = differences(found, wanted, {*parts, *_FREE_TOKENIZER, "frame_px"}, flags)
    if found.frame_px != wanted.frame_px:
        theirs, ours = size_flag(found.frame_px), size_flag(wanted.frame_px)
        lines += [f"frame_px is {theirs}, the model's is {ours}: set config.frame_px={theirs}"]
    lines += differences(found.clock, wanted.clock, (), "config.clock.")
    used = parts - {"clock", "anchor", "event", *(() if found.kind != "bflow" else ("baseline",))}
    for name in sorted(used):
        free = (*_FREE_TOKENIZER, "bars", *(("tower",) if name == "flow" else ()))
        lines += differences(getattr(found, name), getattr(wanted, name), free, f"{flags}{name}.")
    if found.motion.bars != wanted.motion.bars:
        theirs, ours = ("pad" if c.motion.bars else "crop" for c in (found, wanted))
        lines.append(f"fit is {theirs}, the model's is {ours}: set config.fit={theirs}")
    lines += differences(found.anchor, wanted.anchor, ("tower",), f"{flags}anchor.")
    for name in ("anchor", "flow"):
        theirs, ours = (getattr(config, name).used_tower for config in (found, wanted))
        theirs_kind, ours_kind = (None if tower is None else tower.kind for tower in (theirs, ours))
        if theirs_kind != ours_kind:
            lines.append(
                f"{name}.tower.kind is {theirs_kind}, the model's is {ours_kind}: set {flags}{name}.tower.kind="
                f"{theirs_kind}"
            )
        elif theirs is not None:
            lines += differences(theirs, ours, (*_FREE_TOKENIZER, "positions"), f"{flags}{name}.tower.")
    lines += differences(found.event, wanted.event, (*_FREE_TOKENIZER, "window_steps"), f"{flags}event.")
    if found.event.window_steps != wanted.event.window_steps:
        window_s = found.clock.step_time_s(found.event.window_steps)
        lines.append(
            f"event.window_steps is {found.event.window_steps}, the model's is {wanted.event.window_steps}: set "
            f"{flags}event.window_s={window_s:g}"
        )
    return lines


# `config.init_from.vision`: every vision tower; `config.init_from.crops`: that of the crops.


def vision_plans(
    part: str, folder: Folder, parts: Parts, shapes: Mapping[str, Any], brought: Mapping[str, str]
) -> list[Plan]:
    """What becomes of a folder with a vision tower, in each tower of the model.

    Args:
      part: of `config.init_from`: "vision" for every tower, "crops" for that of the crops.
      shapes: abstract parameters of the run by path.
      brought: by the other parts that bring towers, what the prefixes of these begin with.

    Raises:
      InitFromError: the run has no place for a vision tower, or the folder has none.
    """
    what = f"config.init_from.{part}"
    towers = [tower for tower in parts.towers if part == "vision" or tower.sees == "crops"]
    if not towers:
        lacking = "vision tower" if part == "vision" else "tower for crops (config.tokenizer.flow.tower)"
        raise InitFromError(f"{what}: this stage has no {lacking}")
    free = [tower for tower in towers if not tower.prefix.startswith(tuple(brought.values()))]
    if not free:
        by = next(name for name, prefix in brought.items() if towers[0].prefix.startswith(prefix))
        raise InitFromError(f"{what}: {towers[0].prefix} is brought by config.init_from.{by} already: name one of them")
    found, have = _found_tower(what, folder)
    need = {name: tuple(leaf.shape) for name, leaf in shapes.items()}
    return [_vision_plan(part, folder, found, have, tower, need) for tower in free]


def _vision_plan(
    part: str,
    folder: Folder,
    found: Tower,
    have: Mapping[str, tuple[int, ...]],
    place: Tower,
    need: Mapping[str, tuple[int, ...]],
) -> Plan:
    wrong, notes = [], []
    unused: tuple[str, ...] = () if place.has_pool else _POOL
    if found.config.kind != place.config.kind:
        wrong.append(
            f"its tower is of kind {found.config.kind!r}, that of {place.prefix} is {place.config.kind!r}: set "
            f"{place.flags}kind={found.config.kind}"
            + (" (or name another folder with config.init_from.crops)" if place.sees == "crops" else "")
        )
    elif isinstance(found.config, VisionConfig):
        tower = found.config if place.has_pool else without_pool(found.config)
        wrong += differences(tower, place.config, _FREE_VISION, place.flags)
        if not place.has_pool and found.config.last_norm == "pooled":
            notes.append(f"its last norm was of what it pooled, in {place.prefix} it is of every token")
    else:
        # It takes pictures of any size, and layers behind the map that is asked for have no use.
        wrong += differences(found.config, place.config, (*_FREE_VISION, "image_px", "output"), place.flags)
        unused = ("",)
    if found.mean is None or found.std is None:
        notes.append(f"it does not say how pictures are normalised: {place.pixel_flags}mean and std are taken as right")
    elif place.mean is not None and place.std is not None:
        for name, theirs, ours in (("mean", found.mean, place.mean), ("std", found.std, place.std)):
            if not np.allclose(theirs, ours, rtol=0, atol=1e-5):
                wrong.append(
                    f"{name} of its pixels is {theirs}, the model's is {ours}: set {place.pixel_flags}{name}={theirs}"
                )
    return identity_plan(part, folder, need, have, place.prefix, found.prefix, unused, wrong=wrong, notes=notes)


def _found_tower(what: str, folder: Folder) -> tuple[Tower, dict[str, tuple[int, ...]]]:
    """A folder's tower, and the shapes of all that is in the folder."""
    if not isinstance(folder, Imported):
        towers = [tower for tower in folder.parts.towers if tower.prefix == VISION]
        if not towers:
            raise InitFromError(
                f"{what}: {folder.path} is a training of stage {folder.stage!r}, wanted is one of "
                "stage 'clip' or 'vlm', or imported weights"
            )
        return towers[0], folder.shapes
    config = folder.config
    if isinstance(config, LanguageConfig | CodecConfig):
        kind = folder.metadata["kind"]
        raise InitFromError(f"{what}: {folder.path} is of kind {kind!r}, wanted is 'vision' or 'contrastive'")
    have = {name: tuple(leaf.shape) for name, leaf in flatten(nn.unbox(boxed_shapes(config))).items()}
    pair = isinstance(config, ContrastiveConfig)
    tower = config.vision if isinstance(config, ContrastiveConfig) else config
    mean, std = _pixels(folder.metadata["preprocessing"])
    return Tower(VISION if pair else "", tower, "", "", mean, std), have


def _pixels(metadata: Mapping[str, Any] | None) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation, of pixels from 0 to 1, of an imported tower's preprocessing."""
    if metadata is None:
        return None, None
    unit = 255 * metadata.get("scale", Preprocessing.scale)
    # To 7 digits: what is told is to be typed.
    per_unit = lambda values: tuple(float(f"{value / unit:.7g}") for value in values)
    return per_unit(metadata["mean"]), per_unit(metadata["std"])
