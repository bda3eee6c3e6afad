"""Clips: a scene, drawn and commented. A clip is a function of (config, seed, index)."""

import dataclasses

import numpy as np

from data_pipelines.schema import Event, Word
from data_pipelines.world.commentator import comment
from data_pipelines.world.config import LOOKS, WorldConfig
from data_pipelines.world.looks import Painter
from data_pipelines.world.planner import Dice, plan_scene
from data_pipelines.world.scene import Scene


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is seen, what happens and what is said. Times in seconds from the first frame.

    Attributes:
      frames: uint8 [T, px, px, 3] RGB, one at each tick of the clock.
      events: in order of time.
      words: in order of time.
    """

    frames: np.ndarray
    events: tuple[Event, ...]
    words: tuple[Word, ...]


def make_clip(config: WorldConfig, seed: int, index: int) -> Clip:
    """The `index`-th clip of a seed. The same arguments give the same clip, in any process."""
    scene, words, rng = plan_clip(config, seed, index)
    clock = config.clock
    times_s = np.array([clock.tick_time_s(tick) for tick in range(clock.ticks_in(config.clip_s))])
    return Clip(Painter(config, scene, rng).frames(times_s), scene.events, words)


def make_events(config: WorldConfig, seed: int, index: int) -> tuple[Event, ...]:
    """The events of the same clip, without drawing it."""
    return plan_clip(config, seed, index)[0].events


def plan_clip(config: WorldConfig, seed: int, index: int) -> tuple[Scene, tuple[Word, ...], np.random.Generator]:
    """What happens and is said, and the generator that decides about the looks.

    Raises:
      ValueError: seed or index is negative.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"a clip's seed and index must not be negative, got {seed} and {index}")
    rng = np.random.default_rng([seed, index, LOOKS.index(config.look)])
    dice = Dice(rng)
    d = config.dynamics
    while True:
        scene = plan_scene(config, dice)
        picks = [dice.unit() for _ in scene.events]
        words = comment(scene.events, picks, d.variants, d.lag_s, config.clip_s)
        if words is not None:
            return scene, words, rng
