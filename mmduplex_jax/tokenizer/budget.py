"""The budget: a causal integer controller that holds the cap in every sliding second, not on average."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.typing import Array, Bool, Int32

_NEVER = 1 << 20


class BudgetState(NamedTuple):
    """What the controller remembers.

    Attributes:
      spent: int32 `[W - 1]`, tokens of the last ticks, oldest first; with this tick they are one second.
      since_anchor: int32, ticks since the last anchor, saturating.
    """

    spent: Int32[Array, "W-1"]
    since_anchor: Int32[Array, ""]


class Spending(NamedTuple):
    """What a tick may spend: `anchor` bool, `flow` int32 number of flow tokens."""

    anchor: Bool[Array, ""]
    flow: Int32[Array, ""]


def initial(config: TokenizerConfig) -> BudgetState:
    """The controller before the first tick."""
    return BudgetState(jnp.zeros((config.window_ticks - 1,), jnp.int32), jnp.asarray(_NEVER, jnp.int32))


def spend(
    state: BudgetState,
    disoccluded: Int32[Array, ""],
    moving: Int32[Array, ""],
    config: TokenizerConfig,
    cap: Int32[Array, ""] | int | None = None,
) -> tuple[BudgetState, Spending]:
    """One tick of the controller.

    An anchor is spent when the scene is new, disoccluded or long unseen, if the last one is long enough ago and the
    window has room for it. Flow tokens follow what moves, down the ladder as far as the room goes. While no anchor is
    in the window its tokens stay reserved, so that a busy scene cannot starve it.

    Args:
      state: from the last tick.
      disoccluded: cells that nothing in the last tick matches.
      moving: peaks over the threshold.
      config: the cap, the ladder and the gaps.
      cap: a smaller cap than the configuration's (a live stream under load).
    """
    budget = config.budget
    size = config.anchor_tokens
    cap = jnp.minimum(budget.tokens_per_s_max, budget.tokens_per_s_max if cap is None else cap)
    used = state.spent.sum()
    cells = config.motion.grid**2
    wanted = (
        (state.since_anchor >= _NEVER)
        | (disoccluded >= int(budget.disocclusion_threshold * cells))
        | (state.since_anchor >= config.clock.ticks_in(budget.anchor_interval_max_s))
    )
    anchor = wanted & (state.since_anchor >= config.anchor_interval_min_ticks) & (used + size <= cap)
    since = jnp.where(anchor, 1, jnp.minimum(state.since_anchor + 1, _NEVER))
    reserved = jnp.where(since > config.window_ticks, size, 0)
    room = cap - used - jnp.where(anchor, size, reserved)
    ladder = jnp.array(budget.flow_token_levels, jnp.int32)
    asked = ladder[jnp.searchsorted(ladder, jnp.minimum(moving, ladder[-1]))]
    flow = jnp.where(ladder <= jnp.minimum(asked, room), ladder, 0).max()
    total = flow + jnp.where(anchor, size, 0)
    spent = jnp.concatenate([state.spent, total[None]])[1:]
    return BudgetState(spent, since), Spending(anchor, flow)


def spend_clip(
    disoccluded: Int32[Array, "T"], moving: Int32[Array, "T"], config: TokenizerConfig, state: BudgetState | None = None
) -> Spending:
    """The controller over a clip: `lax.scan` of `spend`. Returns arrays `[T]`."""

    def step(carry, tick):
        return spend(carry, tick[0], tick[1], config)

    return jax.lax.scan(step, initial(config) if state is None else state, (disoccluded, moving))[1]
