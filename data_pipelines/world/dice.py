"""Chance, drawn one number at a time, and the rhythm in which things happen."""

import numpy as np

from data_pipelines.world.config import WorldConfig

# Where a clip's silence may begin, as shares of its livelier time: something happens before it and after it.
_QUIET_FROM = (0.35, 0.65)


class Dice:
    """Uniform random numbers one at a time, drawn in blocks since NumPy's single draws are slow."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._block: list[float] = []

    def unit(self) -> float:
        if not self._block:
            self._block = self._rng.random(512).tolist()
        return self._block.pop()

    def between(self, span: tuple[float, float]) -> float:
        return span[0] + (span[1] - span[0]) * self.unit()

    def index(self, count: int) -> int:
        return int(self.unit() * count)

    def pick(self, options):
        return options[int(self.unit() * len(options))]

    def shuffled(self, options, weights: dict | None = None) -> list:
        """A random order; a heavier option tends to come earlier."""
        return sorted(options, key=lambda o: self.unit() ** (1 / (weights[o] if weights else 1.0)), reverse=True)


def rhythm(config: WorldConfig, dice: Dice) -> list[float]:
    """The times of all events, in seconds: calm and busy spans in turn, and perhaps a silence."""
    d = config.dynamics
    quiet_s = dice.between(d.quiet_s) if d.quiet_s[1] else 0.0
    lively_s = config.clip_s - quiet_s
    busy = dice.unit() < 0.6
    t_s = dice.between(d.first_s)
    span_ends_s = dice.between(d.busy_span_s if busy else d.calm_span_s)
    times_s: list[float] = []
    while t_s <= lively_s - d.tail_s:
        times_s.append(t_s)
        t_s += dice.between(d.busy_gap_s if busy else d.calm_gap_s)
        if t_s > span_ends_s:
            busy = not busy
            span_ends_s = t_s + dice.between(d.busy_span_s if busy else d.calm_span_s)
    if quiet_s:
        hushed_s = lively_s * dice.between(_QUIET_FROM)
        times_s = [t_s + quiet_s if t_s > hushed_s else t_s for t_s in times_s]
    return times_s
