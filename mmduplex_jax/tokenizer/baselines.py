"""The schedules that B-Flow is judged against, behind the same interface.

- `uniform`: crops on a fixed grid at a fixed interval, with or without motion features;
- `per_frame`: one token a frame;
- `dense`: 64 tokens a frame at 5 frames a second, what video language models pay today.
"""

import jax.numpy as jnp

from mmduplex_jax.tokenizer.budget import Spending
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.typing import Array, Int32

PERIOD = 5040 * 12  # ticks after which every schedule repeats: divisible by all intervals and windows up to 10


def grid(config: TokenizerConfig) -> tuple[Int32[Array, "K 2"], Int32[Array, "K 2"]]:
    """Cells and centres (in frame pixels) of a fixed grid of crops that covers the frame."""
    side = config.baseline.grid_side if config.kind == "uniform" else 0
    along = (2 * jnp.arange(side) + 1) * config.frame_px // max(2 * side, 1)
    centre = jnp.stack(jnp.meshgrid(along, along, indexing="ij"), axis=-1).reshape(-1, 2).astype(jnp.int32)
    return centre * config.motion.grid // config.frame_px, centre


def schedule(tick: Int32[Array, ""], config: TokenizerConfig) -> Spending:
    """What the fixed schedule of `config.kind` spends on a tick."""
    nothing = jnp.zeros((), jnp.int32)
    if config.kind == "uniform":
        due = tick % config.baseline.interval_ticks == 0
        return Spending(jnp.zeros((), bool), jnp.where(due, config.flow_slots, nothing))
    if config.kind == "per_frame":
        return Spending(jnp.ones((), bool), nothing)
    window, frames = config.window_ticks, min(config.baseline.dense_hz, config.window_ticks)
    # Spreads `frames` frames over every `window` ticks as evenly as they go (Bresenham's line).
    return Spending((tick * frames) % window < frames, nothing)
