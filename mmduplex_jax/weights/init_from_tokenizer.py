"""`config.init_from.tokenizer`: the video tokenizer of a run, from a training of `bflow` or `duplex`."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.train.task import Task
from mmduplex_jax.weights.init_from_plan import Folder, Imported, InitFromError, Plan, differences, identity_plan

TOKENIZER = "tokenizer/"
# How the parts run, not what they compute.
_FREE = ("remat", "dtype", "attention")


def tokenizer_of(task: Task) -> TokenizerConfig | None:
    """The video tokenizer of a stage; None where it has none."""
    config = getattr(getattr(task, "config", None), "tokenizer", None)
    return config if isinstance(config, TokenizerConfig) else None


def tokenizer_plan(folder: Folder, task: Task, shapes: Mapping[str, Any]) -> Plan:
    """What becomes of a folder with a video tokenizer.

    Raises:
      InitFromError: the stage has no video tokenizer, or the folder none.
    """
    wanted = tokenizer_of(task)
    if wanted is None:
        raise InitFromError("config.init_from.tokenizer: this stage has no video tokenizer")
    if isinstance(folder, Imported):
        raise InitFromError(
            f"config.init_from.tokenizer: {folder.path} holds imported weights, wanted is a training of stage 'bflow' "
            "or 'duplex'"
        )
    found = tokenizer_of(folder.trained.task)
    if found is None:
        raise InitFromError(
            f"config.init_from.tokenizer: {folder.path} is a training of stage {folder.stage!r}, wanted is one of "
            "stage 'bflow' or 'duplex'"
        )
    need = {name: tuple(leaf.shape) for name, leaf in shapes.items()}
    wrong = _differences(found, wanted)
    return identity_plan("tokenizer", folder, need, folder.shapes, TOKENIZER, TOKENIZER, wrong=wrong)


def _differences(found: TokenizerConfig, wanted: TokenizerConfig) -> list[str]:
    """Fields that decide which tokens there are, or what they are, and differ; with what to set."""
    flags = "config.tokenizer."
    parts = {field.name for field in dataclasses.fields(found) if dataclasses.is_dataclass(getattr(found, field.name))}
    lines = differences(found, wanted, {*parts, *_FREE, "frame_px"}, flags)
    if found.frame_px != wanted.frame_px:
        lines += [
            f"frame_px is {found.frame_px}, the model's is {wanted.frame_px}: set config.frame_px={found.frame_px}"
        ]
    lines += differences(found.clock, wanted.clock, (), "config.clock.")
    used = parts - {"clock", "anchor", "event", *(() if found.kind != "bflow" else ("baseline",))}
    for name in sorted(used):
        lines += differences(getattr(found, name), getattr(wanted, name), _FREE, f"{flags}{name}.")
    lines += differences(found.anchor, wanted.anchor, ("tower",), f"{flags}anchor.")
    lines += differences(
        found.anchor.used_tower, wanted.anchor.used_tower, (*_FREE, "positions"), f"{flags}anchor.tower."
    )
    lines += differences(found.event, wanted.event, (*_FREE, "window_steps"), f"{flags}event.")
    if found.event.window_steps != wanted.event.window_steps:
        window_s = found.clock.step_time_s(found.event.window_steps)
        lines.append(
            f"event.window_steps is {found.event.window_steps}, the model's is {wanted.event.window_steps}: set "
            f"{flags}event.window_s={window_s:g}"
        )
    return lines
