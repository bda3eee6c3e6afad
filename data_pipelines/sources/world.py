"""The built-in world as a source: clip `i` is a function of (config, seed, i)."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipelines.schema import Record
from data_pipelines.sources import Item
from data_pipelines.world import WorldConfig, make_clip
from data_pipelines.world.config import Appearance, Dynamics
from mmduplex_jax.clock import Clock


@dataclasses.dataclass(frozen=True)
class WorldSource:
    """Clips `0..clips-1` of a seed.

    Attributes:
      world: what the clips are like.
      seed: other seeds give other clips: train and judge on different ones.
      clips: how many.
    """

    world: WorldConfig
    seed: int
    clips: int

    @property
    def clock(self) -> Clock:
        return self.world.clock

    @property
    def flip_safe(self) -> bool:
        return True

    def __len__(self) -> int:
        return self.clips

    def describe(self) -> dict[str, Any]:
        return {"kind": "world", "seed": self.seed, "clips": self.clips, "world": dataclasses.asdict(self.world)}

    def items(self, begin: int, end: int) -> Iterator[Item]:
        for index in range(begin, end):
            clip = make_clip(self.world, self.seed, index)
            key = f"world/{self.world.look}/{self.seed}/{index:06d}"
            yield Item(
                index,
                key,
                Record(
                    key=key,
                    frames=clip.frames,
                    clock=self.clock,
                    words=tuple(clip.words),
                    events=tuple(clip.events),
                    provenance={"source": "world", "look": self.world.look, "seed": self.seed, "index": index},
                    license="Apache-2.0",
                ),
            )


def world_source(config: Mapping[str, Any]) -> WorldSource:
    """The source of `configs/data/world.py`.

    Args:
      config: the configuration as plain values.

    Raises:
      ValueError: a value is out of its range, or a range of the world has an unknown name.
    """
    if config["clips"] < 1:
        raise ValueError(f"config.clips must be positive, got {config['clips']}")
    clock = config["clock"]
    world = WorldConfig(
        look=config["look"],
        clip_s=config["clip_s"],
        frame_px=config["frame_px"],
        step_hz=clock["step_hz"],
        video_stride=clock["video_stride"],
    )
    dynamics: Dynamics = _changed(world.dynamics, config["world"]["dynamics"], "config.world.dynamics")
    appearance: Appearance = _changed(world.appearance, config["world"]["appearance"], "config.world.appearance")
    world = dataclasses.replace(world, dynamics=dynamics, appearance=appearance)
    return WorldSource(world, config["seed"], config["clips"])


def _changed(ranges: Any, changes: Mapping[str, Any], where: str) -> Any:
    """The ranges with those changes that are not None."""
    known = {field.name for field in dataclasses.fields(ranges)}
    unknown = sorted(changes.keys() - known)
    if unknown:
        raise ValueError(f"{where}.{unknown[0]} is unknown, the world has {sorted(known)}")
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(ranges, **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
