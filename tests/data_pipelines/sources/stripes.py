"""Stripes that move to the right, and a word for each clip: the toy source of the how-to."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_pipelines.schema import Record, Word
from data_pipelines.sources import Item, Rejected, causes
from mmduplex_jax.clock import Clock


@dataclasses.dataclass(frozen=True)
class StripesSource:
    """Clip `i` has stripes `i + 1` pixels wide; one whose stripes are as wide as its frames shows nothing."""

    clips: int
    frame_px: int
    clock: Clock = Clock()
    flip_safe: bool = False  # the stripes move to the right, and the words do not say so

    def __len__(self) -> int:
        return self.clips

    def describe(self) -> dict[str, Any]:
        return {"kind": "stripes", "clips": self.clips, "frame_px": self.frame_px}

    def items(self, begin: int, end: int) -> Iterator[Item]:
        for unit in range(begin, end):
            key, width = f"stripes/{unit:04d}", unit + 1
            if width >= self.frame_px:
                yield Item(unit, key, Rejected(causes.CANNOT_DECODE, f"a stripe of {width} px fills the picture"))
                continue
            columns = np.arange(self.frame_px)[None] - np.arange(8)[:, None]
            bright = (columns // width % 2 * 255).astype(np.uint8)
            frames = np.broadcast_to(bright[:, None, :, None], (8, self.frame_px, self.frame_px, 3))
            yield Item(unit, key, Record(key=key, frames=frames, clock=self.clock, words=(Word("stripes", 0.2),)))


def stripes_source(config: Mapping[str, Any]) -> StripesSource:
    """The source of this file's configuration."""
    if config["clips"] < 1:
        raise ValueError(f"config.clips must be positive, got {config['clips']}")
    return StripesSource(config["clips"], config["frame_px"])


def get_config() -> ConfigDict:
    """The configuration of `launch.prepare`."""
    return ConfigDict(
        {
            "source": "stripes",
            "clips": 8,
            "frame_px": 16,
            "units_per_shard": 4,
            "image": {"format": "png", "quality": 90},
        }
    )
