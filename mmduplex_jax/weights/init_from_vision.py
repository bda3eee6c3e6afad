"""`config.init_from.vision`: every vision tower of a run, from an imported one or from a training of `clip` or `vlm`.

A run has towers where its model has them: `vision/` (stages clip and vlm), `tokenizer/anchors/tower/` (bflow, duplex)
and `teacher/tower/` (bflow, where a teacher's view is predicted). All of them are filled.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.tokenizer.config import TokenizerConfig, without_pool
from mmduplex_jax.towers.contrastive import ContrastiveConfig
from mmduplex_jax.towers.preprocessing import Preprocessing
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.train.task import Task
from mmduplex_jax.weights.huggingface.source import boxed_shapes
from mmduplex_jax.weights.init_from_plan import Folder, Imported, InitFromError, Plan, differences, identity_plan
from mmduplex_jax.weights.portable import flatten

ANCHORS = "tokenizer/anchors/tower/"
VISION = "vision/"
TEACHER = "teacher/tower/"
# How a tower runs, and how its positions are fitted to other pictures.
_FREE = ("positions", "remat", "dtype", "attention")
_POOL = ("pool/", "projection/")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a model has a vision tower.

    Attributes:
      prefix: of its parameters.
      tower: its shape.
      flags: what sets its fields.
      pixel_flags: what sets `mean` and `std`.
      mean, std: an RGB channel, of pixels from 0 to 1, as they are given to it; None: not known.
    """

    prefix: str
    tower: VisionConfig
    flags: str
    pixel_flags: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @property
    def has_pool(self) -> bool:
        return self.tower.pool != "none"


def places_of(task: Task) -> list[Place]:
    """The towers of a stage's model."""
    config = getattr(task, "config", None)
    places = []
    vision = getattr(config, "vision", None)
    if isinstance(vision, VisionConfig):
        mean, std = getattr(task, "mean", None), getattr(task, "std", None)
        places.append(Place(VISION, vision, "config.vision.", "config.pixels.", mean, std))
    tokenizer = getattr(config, "tokenizer", None)
    if isinstance(tokenizer, TokenizerConfig) and tokenizer.anchor_tokens:
        anchor, flags = tokenizer.anchor, "config.tokenizer.anchor."
        places.append(Place(ANCHORS, anchor.used_tower, f"{flags}tower.", flags, anchor.mean, anchor.std))
    prediction = getattr(config, "prediction", None)
    teacher = getattr(prediction, "teacher", None)
    if prediction is not None and isinstance(teacher, VisionConfig):
        places.append(Place(TEACHER, teacher, "config.teacher.", "config.pixels.", prediction.mean, prediction.std))
    return places


def vision_plans(folder: Folder, task: Task, shapes: Mapping[str, Any], but: str = "") -> list[Plan]:
    """What becomes of a folder with a vision tower, in each place.

    Args:
      folder: of the weights.
      task: of the run.
      shapes: abstract parameters of the run by path.
      but: a place that something else fills, where names start with it.

    Raises:
      InitFromError: the run has no place for a vision tower, or the folder has none.
    """
    places = places_of(task)
    if not places:
        raise InitFromError("config.init_from.vision: this stage has no vision tower")
    free = [place for place in places if not (but and place.prefix.startswith(but))]
    if not free:
        raise InitFromError(
            f"config.init_from.vision: {places[0].prefix} is brought by config.init_from.tokenizer already: name "
            "one of them"
        )
    found, have = _found(folder)
    need = {name: tuple(leaf.shape) for name, leaf in shapes.items()}
    return [_plan(folder, found, have, place, need) for place in free]


def _plan(
    folder: Folder, found: Place, have: Mapping[str, tuple[int, ...]], place: Place, need: Mapping[str, tuple[int, ...]]
) -> Plan:
    wrong, notes = [], []
    tower = found.tower if place.has_pool else without_pool(found.tower)
    wrong += differences(tower, place.tower, _FREE, place.flags)
    if not place.has_pool and found.tower.last_norm == "pooled":
        notes.append(f"its last norm was of what it pooled, in {place.prefix} it is of every token")
    if found.mean is None or found.std is None:
        notes.append(f"it does not say how pictures are normalised: {place.pixel_flags}mean and std are taken as right")
    elif place.mean is not None and place.std is not None:
        for name, theirs, ours in (("mean", found.mean, place.mean), ("std", found.std, place.std)):
            if not np.allclose(theirs, ours, rtol=0, atol=1e-5):
                wrong.append(
                    f"{name} of its pixels is {theirs}, the model's is {ours}: set {place.pixel_flags}{name}={theirs}"
                )
    unused = () if place.has_pool else _POOL
    return identity_plan("vision", folder, need, have, place.prefix, found.prefix, unused, wrong=wrong, notes=notes)


def _found(folder: Folder) -> tuple[Place, dict[str, tuple[int, ...]]]:
    """A folder's tower, and the shapes of all that is in the folder."""
    if not isinstance(folder, Imported):
        towers = [place for place in places_of(folder.trained.task) if place.prefix == VISION]
        if not towers:
            raise InitFromError(
                f"config.init_from.vision: {folder.path} is a training of stage {folder.stage!r}, wanted is one of "
                "stage 'clip' or 'vlm', or imported weights"
            )
        return towers[0], folder.shapes
    config = folder.config
    if isinstance(config, LanguageConfig):
        raise InitFromError(
            f"config.init_from.vision: {folder.path} is of kind 'text', wanted is 'vision' or 'contrastive'"
        )
    have = {name: tuple(leaf.shape) for name, leaf in flatten(nn.unbox(boxed_shapes(config))).items()}
    pair = isinstance(config, ContrastiveConfig)
    tower = config.vision if isinstance(config, ContrastiveConfig) else config
    mean, std = _pixels(folder.metadata["preprocessing"])
    return Place(VISION if pair else "", tower, "", "", mean, std), have


def _pixels(metadata: Mapping[str, Any] | None) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and deviation, of pixels from 0 to 1, of an imported tower's preprocessing."""
    if metadata is None:
        return None, None
    unit = 255 * metadata.get("scale", Preprocessing.scale)
    # To 7 digits: what is told is to be typed.
    per_unit = lambda values: tuple(float(f"{value / unit:.7g}") for value in values)
    return per_unit(metadata["mean"]), per_unit(metadata["std"])
