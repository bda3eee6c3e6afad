"""What a training begins with instead of random numbers: `config.init_from`.

    text       the language model: imported weights (`launch.import_weights`), or a training of stage vlm or duplex
    vision     the vision towers: imported weights, or a training of stage clip or vlm; they go to `vision/` (clip, vlm)
               or to the anchors of the tokenizer (bflow, duplex)
    tokenizer  the video tokenizer: a training of stage bflow or duplex
    strict     what is named must be all that the model's part needs, compute the same, and speak the run's tokenizer

Each is a folder, or nothing; a training is a workdir or what `launch.export` wrote. They are read where a run starts,
not where it goes on. The log says which parameters were taken, which were made anew and which of the folder were left.
Everything that does not fit is named in one error. With `config.init_from.strict=False` what fits is taken and the rest
is only told.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.train.task import Task
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.huggingface.reader import WeightsError
from mmduplex_jax.weights.init_from_plan import Folder, InitFromError, Plan, filled, open_folder
from mmduplex_jax.weights.init_from_text import text_plan
from mmduplex_jax.weights.init_from_tokenizer import TOKENIZER, tokenizer_plan
from mmduplex_jax.weights.init_from_vision import vision_plans
from mmduplex_jax.weights.portable import flatten

PARTS = ("text", "vision", "tokenizer")

Fill = Callable[[PyTree], PyTree]


def make_start(
    config: Any, task: Task, tokenizer: TextTokenizer, log: Callable[[str], None]
) -> Callable[[PyTree], Fill] | None:
    """What `train.loop.fit` takes as `start`; None where the config names no folder.

    Args:
      config: resolved; `init_from` has a folder, or nothing, for each of `PARTS`, and `strict`.
      task: what is trained.
      tokenizer: of the run.
      log: where lines for people go.

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
            plans = _plans(named, task, tokenizer, shapes)
        except (FileNotFoundError, WeightsError) as error:
            raise InitFromError(f"config.init_from: {error}") from error
        wrong = [f"{plan.part}: {line}" for plan in plans for line in plan.wrong]
        if wrong and config.init_from.strict:
            raise InitFromError(
                "config.init_from does not fit this run:\n  "
                + "\n  ".join(wrong)
                + "\n-> change the config, or take what fits with --config.init_from.strict=False"
            )
        for line in [*wrong, *_told(plans, shapes)]:
            log(f"init_from {line}")
        return lambda params: filled(params, plans)

    return start


def _named(config: Any) -> dict[str, str]:
    """The folders that a config names, by part."""
    fields = {*PARTS, "strict"}
    have = set(config.init_from) if "init_from" in config else set()
    if have != fields:
        lacks, unknown = sorted(fields - have), sorted(have - fields)
        raise InitFromError(
            f"config.init_from lacks {lacks} and has {unknown}, which nobody reads: write "
            'c.init_from = config_dict.create(text="", vision="", tokenizer="", strict=True)'
        )
    return {part: config.init_from[part] for part in PARTS if config.init_from[part]}


def _plans(named: Mapping[str, str], task: Task, tokenizer: TextTokenizer, shapes: Mapping[str, Any]) -> list[Plan]:
    folders: dict[str, Folder] = {}  # one may be named for several parts
    for path in named.values():
        if path not in folders:
            folders[path] = open_folder(path)
    plans = []
    if "text" in named:
        plans.append(text_plan(folders[named["text"]], task, tokenizer, shapes))
    if "vision" in named:
        but = TOKENIZER if "tokenizer" in named else ""
        plans += vision_plans(folders[named["vision"]], task, shapes, but)
    if "tokenizer" in named:
        plans.append(tokenizer_plan(folders[named["tokenizer"]], task, shapes))
    return plans


def _told(plans: Collection[Plan], shapes: Mapping[str, Any]) -> list[str]:
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
