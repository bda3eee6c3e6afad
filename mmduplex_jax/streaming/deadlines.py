"""What gives way when the machine is too slow for its streams: a policy that is configured, pure and counted.

A round (a tick of every stream that has a frame) must take less time than passes between two ticks; its share of that
time is the load. While the load is too high the pool climbs a ladder, a rung at a time: first fewer video tokens, then
no sound, then fewer ticks, then no new sessions. While it is low, and would be low on the rung below, the pool climbs
down again. Words are never what gives way.
"""

import dataclasses
import math
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Level:
    """A rung of the ladder.

    Attributes:
      cap_share: of the model's cap on video tokens in a second.
      sound: whether streams that speak are heard; else they only write.
      tick_every: of so many ticks of a stream one is looked at, the newest; the others' frames are dropped and counted.
      admits: whether new sessions may join.
    """

    cap_share: float = 1.0
    sound: bool = True
    tick_every: int = 1
    admits: bool = True


LADDER = (
    Level(),
    Level(cap_share=0.75),
    Level(cap_share=0.5),
    Level(cap_share=0.5, sound=False),
    Level(cap_share=0.5, sound=False, tick_every=2),
    Level(cap_share=0.5, sound=False, tick_every=2, admits=False),
    Level(cap_share=0.5, sound=False, tick_every=4, admits=False),
)


@dataclasses.dataclass(frozen=True)
class DeadlinePolicy:
    """When to climb, and what a stream may ask for.

    Attributes:
      ladder: the rungs; the first is the model as it was made. No rung gives back what one below it took.
      load_high: the load over which the pool climbs.
      load_low: the load under which it climbs down; lower than `load_high`, so that it does not swing.
      climb_after_s: how long the load must have been too high, after the last change.
      descend_after_s: how long it must have been low.
      memory_rounds: the load is averaged over about so many rounds, so that a single slow one changes nothing.
      deadline_s: from a frame's arrival to its words; later ones are counted as missed.
      lag_max_s: a frame that has waited so long is dropped when a newer one waits. It bounds, too, how many may wait,
        and how long a stream that stalled may run faster than real time to catch up.
      gather_s: how long a round waits for frames of other streams that are due, after the first one's: longer is
        cheaper a stream, shorter is sooner.
    """

    ladder: tuple[Level, ...] = LADDER
    load_high: float = 0.9
    load_low: float = 0.6
    climb_after_s: float = 0.5
    descend_after_s: float = 5.0
    memory_rounds: float = 5.0
    deadline_s: float = 0.16
    lag_max_s: float = 1.0
    gather_s: float = 0.02

    def __post_init__(self):
        ladder = self.ladder
        if not ladder or ladder[0] != Level():
            raise ValueError(f"the ladder's first rung is the model as it was made, {Level()}; got {ladder[:1]}")
        for rung in ladder:
            if not 0 < rung.cap_share <= 1 or rung.tick_every < 1:
                raise ValueError(f"cap_share must be in (0, 1] and tick_every at least 1, got {rung}")
        for below, above in zip(ladder, ladder[1:]):
            if (
                above.cap_share > below.cap_share
                or above.tick_every < below.tick_every
                or (above.admits and not below.admits)
                or (above.sound and not below.sound)
            ):
                raise ValueError(f"a rung may not give back what one below it took: {above} stands over {below}")
        if not 0 < self.load_low < self.load_high:
            raise ValueError(f"load_low must be over 0 and under load_high, got {self.load_low} and {self.load_high}")
        if self.memory_rounds < 1:
            raise ValueError(f"memory_rounds must be at least 1, got {self.memory_rounds}")
        for name in ("climb_after_s", "descend_after_s", "gather_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("deadline_s", "lag_max_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be over 0, got {getattr(self, name)}")

    def without_sound(self) -> "DeadlinePolicy":
        """The policy of a pool in which nobody speaks: rungs that only take sound are left out."""
        ladder = dict.fromkeys(dataclasses.replace(level, sound=True) for level in self.ladder)
        return dataclasses.replace(self, ladder=tuple(ladder))

    def caps(self, tokens_per_s_max: int, tokens_per_s_min: int) -> tuple[int, ...]:
        """The cap on a stream's video tokens in a second, on each rung.

        Args:
          tokens_per_s_max: the model's.
          tokens_per_s_min: the least under which the model still spends anchors and flow (`BudgetRule.cap_min`).

        Raises:
          ValueError: a rung goes below that.
        """
        caps = tuple(max(1, round(level.cap_share * tokens_per_s_max)) for level in self.ladder)
        for level, cap in zip(self.ladder, caps):
            if cap < tokens_per_s_min:
                raise ValueError(
                    f"{level} leaves {cap} of {tokens_per_s_max} video tokens a second, this model needs "
                    f"{tokens_per_s_min}: raise the rung's cap_share, or the model's tokenizer.budget.tokens_per_s_max"
                )
        return caps


class Measured(NamedTuple):
    """What a round showed.

    Attributes:
      now_s: by the pool's clock; never goes back.
      round_s: how long the device and the host were busy with it; 0 where there was nothing to do.
      tick_s: from one tick of a stream to the next.
      sound_ratio: how many times as long a round takes with sound as without.
    """

    now_s: float
    round_s: float
    tick_s: float
    sound_ratio: float = 1.0


class LoadState(NamedTuple):
    """What the policy remembers.

    Attributes:
      rung: index into the ladder.
      round_s: what a round takes, on average.
      trend: 1 while the load is too high, -1 while it is low, else 0.
      since_s: since when, or since the last change of rung if that was later.
    """

    rung: int = 0
    round_s: float = 0.0
    trend: int = 0
    since_s: float = -math.inf


def decide(policy: DeadlinePolicy, state: LoadState, measured: Measured) -> tuple[LoadState, Level]:
    """The policy after one more round.

    Args:
      policy: what is configured.
      state: from the last call; `LoadState()` at first.
      measured: the round.

    Returns:
      The new state and the rung to stand on, at most one away from the last.
    """
    ladder = policy.ladder
    round_s = state.round_s + (measured.round_s - state.round_s) / policy.memory_rounds
    load = lambda rung: round_s / (measured.tick_s * ladder[rung].tick_every)
    rung = state.rung
    # Sound that comes back takes time that no round took without it.
    sounds_again = rung and ladder[rung - 1].sound and not ladder[rung].sound
    if load(rung) > policy.load_high:
        trend = 1
    elif rung and load(rung - 1) * (measured.sound_ratio if sounds_again else 1.0) < policy.load_low:
        # Asked of the rung below: where the load is low only because there are fewer ticks, it stays.
        trend = -1
    else:
        trend = 0
    since_s = state.since_s if trend == state.trend else measured.now_s
    lasted_s = measured.now_s - since_s
    if trend > 0 and lasted_s >= policy.climb_after_s and rung + 1 < len(ladder):
        rung, since_s = rung + 1, measured.now_s
    elif trend < 0 and lasted_s >= policy.descend_after_s:
        rung, since_s = rung - 1, measured.now_s
    return LoadState(rung, round_s, trend, since_s), ladder[rung]


def load_of(policy: DeadlinePolicy, state: LoadState, tick_s: float) -> float:
    """The share of the time that rounds take, on the rung that the pool stands on."""
    return state.round_s / (tick_s * policy.ladder[state.rung].tick_every)
