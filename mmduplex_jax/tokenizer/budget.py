"""The budget: when tokens are spent, how many, and so how many there can be. All of the rule stands in this file.

`BudgetConfig` and `BaselineConfig` are its fields, `BudgetRule` is what follows from them (capacities that every
packing and every ring relies on), `spend` the causal integer controller that holds the cap in every sliding second, not
on average. The baselines that B-Flow is judged against have fixed schedules (`schedule`).
"""

import dataclasses
import math
from typing import NamedTuple, Protocol

import jax.numpy as jnp

from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import frame_size
from mmduplex_jax.tokenizer.motion import MotionConfig
from mmduplex_jax.typing import Array, Bool, Int32

KINDS = ("bflow", "uniform", "per_frame", "dense")

_NEVER = 1 << 20

# Ticks after which every fixed schedule repeats: divisible by all intervals and windows up to 10.
SCHEDULE_PERIOD = 5040 * 12


@dataclasses.dataclass(frozen=True)
class BudgetConfig:
    """What may be spent.

    Attributes:
      tokens_per_s_max: the cap of every half-open second.
      flow_token_levels: the numbers of flow tokens a tick may have, rising from 0.
      flow_threshold: saliency over which a peak counts as moving; a quantile of data (see `launch/calibrate.py`).
      nms_radius_px: of non-maximum suppression: a peak nearer than this to a better one is none, in frame pixels; times
        the scale of the better one's crop (`flow.crop_scales`).
      anchor_interval_min_s: shortest time between anchors.
      anchor_interval_max_s: longest time without an anchor.
      disocclusion_threshold: share of disoccluded cells that asks for an anchor.
      saliency_decay: sixteenths of the last tick's saliency that still count, so that what stops or leaves is
        tokenized too.
    """

    tokens_per_s_max: int = 64
    flow_token_levels: tuple[int, ...] = (0, 1, 2, 4, 8)
    flow_threshold: int = 600
    nms_radius_px: int = 9
    anchor_interval_min_s: float = 2.0
    anchor_interval_max_s: float = 4.0
    disocclusion_threshold: float = 0.35
    saliency_decay: int = 12

    def __post_init__(self):
        levels = self.flow_token_levels
        if not levels or levels[0] != 0 or list(levels) != sorted(set(levels)):
            raise ValueError(f"tokenizer.budget.flow_token_levels must rise from 0, got {levels}")


@dataclasses.dataclass(frozen=True)
class BaselineConfig:
    """The fixed schedules that B-Flow is judged against, behind the same interface.

    `uniform`: crops on a fixed grid at a fixed interval, with or without motion features; `per_frame`: one token a
    frame; `dense`: what video language models pay today.

    Attributes:
      grid_side, interval_ticks: of `uniform`: rows and columns of crops every `interval_ticks`; one integer: as many
        of both.
      dense_tokens, dense_hz: of `dense`: `dense_tokens` a frame at `dense_hz`.
    """

    grid_side: tuple[int, int] = (4, 4)
    interval_ticks: int = 4
    dense_tokens: int = 64
    dense_hz: int = 5

    def __post_init__(self):
        object.__setattr__(self, "grid_side", frame_size(self.grid_side, "tokenizer.baseline.grid_side"))


class _Anchor(Protocol):
    @property
    def tokens(self) -> int: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetRule:
    """What a tokenizer may spend, and what follows from it; `TokenizerConfig` is one.

    An anchor takes `anchor.tokens`, or its first ones only where the cap would otherwise leave no room for flow
    (`anchor_tokens_under`): anchors are nested codes, any prefix is a coarser one. So neither anchors nor flow are ever
    silenced for good, whatever the cap, from `cap_min` on; a smaller one is refused (`check_cap`).

    Attributes:
      kind: "bflow", or a baseline: "uniform", "per_frame", "dense".
      clock: steps and ticks.
      anchor: has `tokens`, what an anchor takes.
      motion: says how many cells there are.
      budget, baseline: the fields.
    """

    kind: str
    clock: Clock
    anchor: _Anchor
    motion: MotionConfig = MotionConfig()
    budget: BudgetConfig = BudgetConfig()
    baseline: BaselineConfig = BaselineConfig()

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"tokenizer.kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.kind == "bflow":
            if self.anchor.tokens > self.budget.tokens_per_s_max:
                raise ValueError(
                    f"an anchor's {self.anchor.tokens} tokens (tokenizer.anchor.tokens) do not fit a cap of "
                    f"{self.budget.tokens_per_s_max} a second (tokenizer.budget.tokens_per_s_max)"
                )
            self.check_cap(self.cap, "tokenizer.budget.tokens_per_s_max")

    @property
    def window_ticks(self) -> int:
        """Ticks in the sliding second that the budget holds for."""
        return self.clock.ticks_in_a_second

    @property
    def anchor_tokens(self) -> int:
        """U: token slots of an anchor."""
        return {"bflow": self.anchor.tokens, "uniform": 0, "per_frame": 1, "dense": self.baseline.dense_tokens}[
            self.kind
        ]

    @property
    def flow_slots(self) -> int:
        """K: flow tokens that a tick has room for."""
        rows, columns = self.baseline.grid_side
        return {"bflow": self.budget.flow_token_levels[-1], "uniform": rows * columns}.get(self.kind, 0)

    @property
    def slots(self) -> int:
        """M: token slots of a tick."""
        return self.anchor_tokens + self.flow_slots

    @property
    def cap(self) -> int:
        """Most tokens in any half-open second: the budget that this kind obeys."""
        window = self.window_ticks
        if self.kind == "bflow":
            return self.budget.tokens_per_s_max
        if self.kind == "uniform":
            return self.flow_slots * math.ceil(window / self.baseline.interval_ticks)
        if self.kind == "per_frame":
            return window
        return self.baseline.dense_tokens * min(window, self.baseline.dense_hz)

    @property
    def anchor_interval_min_ticks(self) -> int:
        return max(1, self.clock.ticks_in(self.budget.anchor_interval_min_s))

    @property
    def anchors_in_a_second(self) -> int:
        """The most anchors that any second holds."""
        return math.ceil(self.window_ticks / self.anchor_interval_min_ticks)

    @property
    def flow_tokens_min(self) -> int:
        """What a tick takes that has flow tokens at all."""
        return self.budget.flow_token_levels[1] if len(self.budget.flow_token_levels) > 1 else 0

    @property
    def cap_min(self) -> int:
        """The least cap under which anchors and flow are both spent; fixed schedules spend the same under any cap."""
        return self.flow_tokens_min + self.anchors_in_a_second if self.kind == "bflow" else 1

    def check_cap(self, cap: int, what: str) -> None:
        """ValueError, naming `what`, for a cap that would silence anchors or flow for good."""
        if cap < self.cap_min:
            raise ValueError(
                f"{what} is {cap} tokens a second; anchors and flow both need at least {self.cap_min} "
                f"({self.anchors_in_a_second} anchors in a second and {self.flow_tokens_min} flow tokens)"
            )

    def anchor_tokens_under(self, cap: Int32[Array, ""] | int) -> Int32[Array, ""]:
        """What an anchor takes under a cap: `anchor_tokens`, or as much as leaves room for flow in its second."""
        room = (cap - self.flow_tokens_min) // self.anchors_in_a_second
        return jnp.clip(room, 0, self.anchor_tokens).astype(jnp.int32)

    def anchor_capacity(self, ticks: int) -> int:
        """A: the most anchors that `ticks` ticks can hold."""
        if self.kind == "bflow":
            return 1 + (ticks - 1) // self.anchor_interval_min_ticks
        return 0 if self.kind == "uniform" else ticks

    def token_capacity(self, ticks: int) -> int:
        """N: the most tokens that `ticks` ticks can hold, so that packing loses nothing."""
        return min(self.cap * math.ceil(ticks / self.window_ticks), self.slots * ticks)

    def ring_capacity(self, window_steps: int) -> int:
        """R: entries of a ring that holds every token of the last `window_steps` steps while a tick's are written."""
        return self.token_capacity(math.ceil(window_steps / self.clock.video_stride) + 1) + self.slots


class BudgetState(NamedTuple):
    """What the controller remembers.

    Attributes:
      spent: int32 `[W - 1]`, tokens of the last ticks, oldest first; with this tick they are one second.
      since_anchor: int32, ticks since the last anchor, saturating.
    """

    spent: Int32[Array, "W-1"]
    since_anchor: Int32[Array, ""]


class Spending(NamedTuple):
    """What a tick spends: tokens of an anchor (0 where there is none) and flow tokens, int32."""

    anchor: Int32[Array, ""]
    flow: Int32[Array, ""]


def initial(rule: BudgetRule) -> BudgetState:
    """The controller before the first tick."""
    return BudgetState(jnp.zeros((rule.window_ticks - 1,), jnp.int32), jnp.asarray(_NEVER, jnp.int32))


def spend(
    state: BudgetState,
    disoccluded: Int32[Array, ""],
    moving: Int32[Array, ""],
    rule: BudgetRule,
    cap: Int32[Array, ""] | int | None = None,
) -> tuple[BudgetState, Spending]:
    """One tick of the controller of kind "bflow".

    An anchor is spent when the scene is new, disoccluded or long unseen, if the last one is long enough ago and the
    window has room for it. Flow tokens follow what moves, down the levels as far as the room goes. While no anchor is
    in the window its tokens stay reserved, so that a busy scene cannot starve it.

    Args:
      state: from the last tick.
      disoccluded: cells that nothing in the last tick matches.
      moving: peaks over the threshold.
      rule: the cap, the levels and the intervals.
      cap: a smaller cap than the configuration's (a live stream under load), from `rule.cap_min` on.
    """
    budget = rule.budget
    cap = jnp.minimum(budget.tokens_per_s_max, budget.tokens_per_s_max if cap is None else cap)
    size = rule.anchor_tokens_under(cap)
    used = state.spent.sum()
    wanted = (
        (state.since_anchor >= _NEVER)
        | (disoccluded >= int(budget.disocclusion_threshold * rule.motion.cells))
        | (state.since_anchor >= rule.clock.ticks_in(budget.anchor_interval_max_s))
    )
    bought = wanted & (state.since_anchor >= rule.anchor_interval_min_ticks) & (used + size <= cap) & (size > 0)
    anchor = jnp.where(bought, size, 0)
    since = jnp.where(bought, 1, jnp.minimum(state.since_anchor + 1, _NEVER))
    reserved = jnp.where(since > rule.window_ticks, size, 0)
    room = cap - used - jnp.where(bought, size, reserved)
    levels = jnp.array(budget.flow_token_levels, jnp.int32)
    asked = levels[jnp.searchsorted(levels, jnp.minimum(moving, levels[-1]))]
    flow = jnp.where(levels <= jnp.minimum(asked, room), levels, 0).max()
    spent = jnp.concatenate([state.spent, (flow + anchor)[None]])[1:]
    return BudgetState(spent, since), Spending(anchor, flow)


def schedule(tick: Int32[Array, ""], rule: BudgetRule) -> Spending:
    """What the fixed schedule of `rule.kind` spends on a tick."""

    def every(due: Bool[Array, ""], tokens: int) -> Int32[Array, ""]:
        return jnp.where(due, jnp.int32(tokens), jnp.int32(0))

    nothing, window = jnp.zeros((), jnp.int32), rule.window_ticks
    if rule.kind == "uniform":
        return Spending(nothing, every(tick % rule.baseline.interval_ticks == 0, rule.flow_slots))
    # Spreads `frames` frames over every `window` ticks as evenly as they go (Bresenham's line).
    frames = window if rule.kind == "per_frame" else min(rule.baseline.dense_hz, window)
    return Spending(every((tick * frames) % window < frames, rule.anchor_tokens), nothing)
