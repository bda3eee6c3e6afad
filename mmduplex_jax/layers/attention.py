"""Grouped-query attention over keys that carry a time, and the masks that time gives."""

import jax.numpy as jnp

from mmduplex_jax.typing import Array, Bool, Float, Int32

_MASKED = -1e30  # finite, so that a row without any key gives weights, not NaN; such rows are zeroed below


def attend(
    query: Float[Array, "B S Q E"],
    key: Float[Array, "B R G E"],
    value: Float[Array, "B R G E"],
    mask: Bool[Array, "B S R"],
    *,
    sink_query: Float[Array, "B S Q E"] | None = None,
    num_sinks: int = 0,
    null_logit: Float[Array, "Q"] | None = None,
) -> Float[Array, "B S Q E"]:
    """Softmax attention in float32; `Q` query heads share `G` key-value heads.

    Args:
      query: rotated queries.
      key: rotated keys.
      value: values.
      mask: which keys a query may see.
      sink_query: the queries as the first `num_sinks` keys see them (their distance is clipped, so that a sink never
        moves out of the distances that training saw; StreamingLLM, Xiao et al., 2023).
      num_sinks: how many of the first keys are sinks.
      null_logit: a learned logit a head for attending to nothing; its value is zero.

    Returns:
      `[B, S, Q, E]`; zeros where a query may see no key.
    """
    groups = key.shape[2]
    batch, length, heads, width = query.shape
    scale = width**-0.5

    def scores(q, k):
        q = q.reshape(batch, length, groups, heads // groups, width)
        return jnp.einsum("bsgqe,brge->bgqsr", q, k, preferred_element_type=jnp.float32)

    logits = scores(query, key)
    if num_sinks:
        sinks = scores(sink_query, key[:, :num_sinks])
        logits = jnp.concatenate([sinks, logits[..., num_sinks:]], axis=-1)
    seen = mask[:, None, None]
    logits = jnp.where(seen, logits * scale, _MASKED)
    top = logits.max(axis=-1, keepdims=True)
    if null_logit is not None:
        null = null_logit.astype(jnp.float32).reshape(groups, heads // groups)[None, :, :, None, None]
        top = jnp.maximum(top, null)
    weights = jnp.where(seen, jnp.exp(logits - top), 0.0)
    total = weights.sum(axis=-1, keepdims=True)
    if null_logit is not None:
        total = total + jnp.exp(null - top)
    weights = weights / jnp.maximum(total, 1e-30)
    out = jnp.einsum("bgqsr,brge->bsgqe", weights.astype(value.dtype), value)
    return out.reshape(batch, length, heads, width)


def past_mask(
    query_order: Int32[Array, "B S"],
    key_order: Int32[Array, "B R"],
    query_step: Int32[Array, "B S"],
    key_step: Int32[Array, "B R"],
    key_valid: Bool[Array, "B R"],
    window_steps: int,
    num_sinks: int = 0,
) -> Bool[Array, "B S R"]:
    """Keys that are not later in order, and in the window (or among the first `num_sinks`).

    `order` breaks ties within a step (video before text); `step` is the time that the window counts.
    """
    past = key_order[:, None, :] <= query_order[:, :, None]
    near = query_step[:, :, None] - key_step[:, None, :] < window_steps
    if num_sinks:
        near = near | (jnp.arange(key_step.shape[1]) < num_sinks)
    return past & near & key_valid[:, None, :]
