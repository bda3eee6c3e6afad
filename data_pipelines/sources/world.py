"""The built-in world as a source: clip `i` is a function of (config, seed, i)."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipelines.schema import Record
from data_pipelines.sources import Item
from data_pipelines.sources.settings import with_changes
from data_pipelines.world import RealWorldConfig, World, WorldConfig, make_clip
from data_pipelines.world.config import Appearance, Dynamics
from data_pipelines.world.event_words import CLASSES
from data_pipelines.world.real import config as real
from data_pipelines.world.real.pack import read_pack
from data_pipelines.world.real.settings import usable_settings
from mmduplex_jax.clock import Clock


@dataclasses.dataclass(frozen=True)
class WorldSource:
    """Clips `0..clips-1` of a seed.

    Attributes:
      world: what the clips are like.
      seed: other seeds give other clips: train and judge on different ones.
      clips: how many.
    """

    world: World
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
        world, cameras = dataclasses.asdict(self.world), {}
        if isinstance(self.world, RealWorldConfig):
            # What is in the pack decides the clips, not where it lies.
            pack = read_pack(self.world.pack, self.world.exclude_cameras)
            world |= {"look": self.world.look, "pack": {"sha256": pack.fingerprint, "excluded": list(pack.excluded)}}
            cameras = {} if pack.cameras is None else {"cameras": list(pack.cameras)}
        return {"kind": "world", "seed": self.seed, "clips": self.clips, "world": world, **cameras}

    def items(self, begin: int, end: int) -> Iterator[Item]:
        own_classes: list[str] = []
        if isinstance(self.world, RealWorldConfig):
            pack = read_pack(self.world.pack, self.world.exclude_cameras)
            own_classes = sorted(set(pack.classes) - set(CLASSES))
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
                    things=clip.things,
                    provenance={"source": "world", "look": self.world.look, "seed": self.seed, "index": index}
                    | ({"files": list(clip.files)} if clip.files else {})
                    | ({"classes": own_classes} if own_classes else {}),
                    license=clip.licence,
                ),
            )


def world_source(config: Mapping[str, Any]) -> WorldSource:
    """The source of `configs/data/world.py` and `configs/data/world_real.py`.

    Args:
      config: the configuration as plain values.

    Raises:
      ValueError: a value is out of its range, or a range of the world has an unknown name.
    """
    if config["clips"] < 1:
        raise ValueError(f"config.clips must be positive, got {config['clips']}")
    clock = config["clock"]
    if config["look"] == real.LOOK:
        return WorldSource(_real_world(config), config["seed"], config["clips"])
    world = WorldConfig(
        look=config["look"],
        clip_s=config["clip_s"],
        frame_px=config["frame_px"],
        step_hz=clock["step_hz"],
        video_stride=clock["video_stride"],
    )
    dynamics: Dynamics = with_changes(world.dynamics, config["world"]["dynamics"], "config.world.dynamics")
    appearance: Appearance = with_changes(world.appearance, config["world"]["appearance"], "config.world.appearance")
    world = dataclasses.replace(world, dynamics=dynamics, appearance=appearance)
    return WorldSource(world, config["seed"], config["clips"])


def _real_world(config: Mapping[str, Any]) -> RealWorldConfig:
    given, clock = config["world"], config["clock"]
    world = RealWorldConfig(
        pack=given["pack"] or "",
        exclude_cameras=given["exclude_cameras"],
        clip_s=config["clip_s"],
        frame_px=config["frame_px"],
        step_hz=clock["step_hz"],
        video_stride=clock["video_stride"],
        dynamics=with_changes(real.RealDynamics(), given["dynamics"], "config.world.dynamics"),
        appearance=with_changes(real.RealAppearance(), given["appearance"], "config.world.appearance"),
    )
    # What is wrong with the pack is said before any clip is made.
    usable_settings(read_pack(world.pack, world.exclude_cameras), world.dynamics)
    return world
