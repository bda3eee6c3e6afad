"""Random tail drop: some clips' anchors lose their last tokens, so that every prefix is a valid, coarser code."""

import jax
import jax.numpy as jnp

from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.typing import Array, Int32


def draw_anchor_keep(
    drop_key: Array, keep_key: Array, batch: int, share: float, tokenizer: TokenizerConfig
) -> Int32[Array, "B"] | None:
    """How many of its anchors' tokens each clip keeps, int32 `[B]` (`BFlow.__call__`); None where all keep all.

    Args:
      drop_key: says which clips lose some.
      keep_key: says how many stay, from 1 on.
      batch: B.
      share: of clips that lose some; their number is drawn.
      tokenizer: only kind "bflow" has nested tokens that can be dropped.
    """
    if not share or tokenizer.kind != "bflow":
        return None
    every = tokenizer.anchor_tokens
    drawn = jax.random.randint(keep_key, (batch,), 1, every + 1)
    return jnp.where(jax.random.bernoulli(drop_key, share, (batch,)), drawn, every)
