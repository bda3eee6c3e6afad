"""Sights as named arrays: as encoded clips keep them, and as a training's batch has them.

Only the rows of tokens that there are, are kept: places and motion as int16, which holds them all; what tokens look at
as bytes, or as the features that a frozen tower makes of it.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.sight import AROUND, FlowSight, Sight
from mmduplex_jax.tokenizer.token_plan import MOTION_CHANNELS
from mmduplex_jax.typing import Array

PREFIX = "sight_"
ANCHORS, CROPS = "sight_anchors", "sight_crops"  # what tokens look at
# Which of the packed tokens are flow tokens: the rows of their arrays.
FLOW_ROWS = "sight_flow_rows"
_OF_TOKENS = ("tick", "slot", "anchors_before")
_OF_FLOW = ("cell", "centre_px", "scale", "camera", "motion")


class SightArray(NamedTuple):
    """An array of a sight.

    Attributes:
      name: in a batch.
      shape: of a clip's.
      dtype: as it is kept, NumPy's name.
      rows: the array that says which rows are kept; "" for the first ones.
      fill: what the others hold.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    rows: str = ""
    fill: int = 0


def sight_arrays(config: TokenizerConfig, ticks: int, features: Mapping[str, str]) -> tuple[SightArray, ...]:
    """The arrays of clips of `ticks` ticks.

    Args:
      config: of the tokenizer.
      ticks: T.
      features: by `ANCHORS` and `CROPS`, in which dtype the features of their tower are kept; pixels where it is not
        there.
    """
    count = config.token_capacity(ticks)
    arrays = [
        SightArray("sight_tick", (count,), "int16", fill=ticks - 1),
        SightArray("sight_slot", (count,), "int16", fill=config.slots - 1),
        SightArray("sight_valid", (count,), "bool"),
        SightArray("sight_anchors_before", (count,), "int16"),
    ]

    def looks(name: str, number: int, rows: str, picture: tuple[int, ...], features_shape: Any) -> SightArray:
        if name not in features:
            return SightArray(name, (number, *picture), "uint8", rows)
        return SightArray(name, (number, *features_shape[0]), features[name], rows)

    if config.anchor_tokens:
        room = config.anchor_capacity(ticks)
        arrays.append(looks(ANCHORS, room, "", (*config.frame_px, 3), config.anchor_features))
    if config.flow_slots:
        flow = {"cell": (2,), "centre_px": (2,), "scale": (), "camera": (2,)}
        flow["motion"] = (AROUND, AROUND, MOTION_CHANNELS)
        arrays += [SightArray(PREFIX + name, (count, *shape), "int16", FLOW_ROWS) for name, shape in flow.items()]
        side = config.flow.crop_px
        shape = config.crop_features if CROPS in features else None
        arrays.append(looks(CROPS, count, FLOW_ROWS, (side, side, 3), shape))
    return tuple(arrays)


def kept_rows(sight: Sight, clip: int, config: TokenizerConfig) -> dict[str, np.ndarray]:
    """The rows that are kept of a clip's sight, by name, and `FLOW_ROWS`; of what is looked at its pictures.

    Args:
      sight: of some clips, on the host.
      clip: which of them.
      config: of the tokenizer.

    Raises:
      ValueError: a clip's tokens do not fit their room.
    """
    if not sight.fits[clip]:
        raise ValueError("a clip has more tokens than the budget's rule allows")
    valid = np.asarray(sight.valid[clip])
    number = int(valid.sum())
    assert valid[:number].all()  # packed
    kept = {PREFIX + name: np.asarray(getattr(sight, name)[clip, :number]) for name in _OF_TOKENS}
    kept["sight_valid"] = valid[:number]
    flow = np.flatnonzero(kept["sight_slot"] >= config.anchor_tokens)
    if sight.looks is not None:
        anchors = int(kept["sight_anchors_before"].max(initial=0))
        kept[ANCHORS] = np.asarray(sight.looks[clip, :anchors])
    if sight.flow is not None:
        kept[FLOW_ROWS] = flow
        kept |= {PREFIX + name: np.asarray(getattr(sight.flow, name)[clip][flow]) for name in _OF_FLOW}
        kept[CROPS] = np.asarray(sight.flow.looks[clip][flow])
    return {name: _narrow(name, array) for name, array in kept.items()}


def _narrow(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "i":
        return array
    limits = np.iinfo(np.int16)
    if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
        raise ValueError(f"{name} has values from {array.min()} to {array.max()}, which 16 bits do not hold")
    return array.astype(np.int16)


def sight_of(batch: Mapping[str, Array]) -> Sight:
    """The sight of a batch's arrays, `[B, ...]` each."""
    integers = lambda name: batch[PREFIX + name].astype(jnp.int32)
    flow = None
    if CROPS in batch:
        flow = FlowSight(**{name: integers(name) for name in _OF_FLOW}, looks=batch[CROPS])
    tick, slot, before = (integers(name) for name in _OF_TOKENS)
    valid = batch["sight_valid"]
    return Sight(tick, slot, valid, jnp.ones(len(valid), bool), before, batch.get(ANCHORS), flow)


def batch_shapes(arrays: tuple[SightArray, ...], batch: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch has of them."""
    return {array.name: jax.ShapeDtypeStruct((batch, *array.shape), np.dtype(array.dtype)) for array in arrays}


def size_bytes(arrays: tuple[SightArray, ...]) -> int:
    """Bytes of a clip's arrays with all rows."""
    return sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
