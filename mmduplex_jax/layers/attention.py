"""Grouped-query attention over keys that carry a time, and the masks that time gives."""

import jax
import jax.numpy as jnp

from mmduplex_jax.typing import Array, Bool, Float, Int32

IMPLEMENTATIONS = ("einsum", "fused")

_MASKED = -1e30  # finite, so that a row without any key gives zeros, not NaN
_LAST_AXES = (((3,), (3,)), ((0, 1), (0, 1)))  # contracted, and batched


def attend(
    query: Float[Array, "B S Q E"],
    keys: Float[Array, "B G R E"],
    values: Float[Array, "B G R E"],
    mask: Bool[Array, "B S R"],
    *,
    sink_query: Float[Array, "B S Q E"] | None = None,
    num_sinks: int = 0,
    null_logit: Float[Array, "Q"] | None = None,
) -> Float[Array, "B S Q E"]:
    """Softmax attention in float32; `Q` query heads share `G` key-value heads.

    Args:
      query: rotated queries.
      keys: rotated keys, laid out as they are multiplied (`heads_first`).
      values: values, the same.
      mask: which keys a query may see.
      sink_query: the queries as the first `num_sinks` keys see them (their distance is clipped, so that a sink never
        moves out of the distances that training saw; StreamingLLM, Xiao et al., 2023).
      num_sinks: how many of the first keys are sinks.
      null_logit: a learned logit a head for attending to nothing; its value is zero.

    Returns:
      `[B, S, Q, E]`; zeros where a query may see no key.
    """
    batch, length, heads, width = query.shape
    groups, count = values.shape[1], values.shape[2]
    per_group = heads // groups

    # Plain batched matrix products over [B, G, Q/G·S, E]: on a CPU the gradient of the same einsum takes three times as
    # long. B and G stay apart: a mesh splits them over different axes, which no split of B·G can say.
    def rows(q):
        q = (q * width**-0.5).reshape(batch, length, groups, per_group, width)
        return q.transpose(0, 2, 3, 1, 4).reshape(batch, groups, per_group * length, width)

    against = lambda q, k: jax.lax.dot_general(q, k, _LAST_AXES, preferred_element_type=jnp.float32)
    logits = against(rows(query), keys)
    if num_sinks:
        sinks = against(rows(sink_query), keys[:, :, :num_sinks])
        logits = jnp.concatenate([sinks, logits[..., num_sinks:]], axis=-1)
    logits = logits.reshape(batch, groups, per_group, length, count)
    logits = jnp.where(mask[:, None, None], logits, _MASKED)
    # Over any masked logit, so that a row that sees no key has weights of exactly zero.
    top = jnp.maximum(logits.max(axis=-1, keepdims=True), _MASKED / 10)
    if null_logit is not None:
        null = null_logit.astype(jnp.float32).reshape(groups, per_group)[None, :, :, None, None]
        top = jnp.maximum(top, null)
    top = jax.lax.stop_gradient(top)  # it cancels
    weights = jnp.exp(logits - top)
    total = weights.sum(axis=-1, keepdims=True)
    if null_logit is not None:
        total = total + jnp.exp(null - top)
    weights = weights.astype(values.dtype).reshape(batch, groups, per_group * length, count)
    out = jnp.matmul(weights, values, preferred_element_type=jnp.float32)
    out = out.reshape(batch, groups, per_group, length, width) / jnp.maximum(total, 1e-30)
    return out.astype(values.dtype).transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def attend_fused(
    query: Float[Array, "B S Q E"],
    keys: Float[Array, "B G R E"],
    values: Float[Array, "B G R E"],
    mask: Bool[Array, "B S R"] | None,
    *,
    sink_query: Float[Array, "B S Q E"] | None = None,
    num_sinks: int = 0,
    null_logit: Float[Array, "Q"] | None = None,
) -> Float[Array, "B S Q E"]:
    """`attend` through `jax.nn.dot_product_attention`, of which cuDNN has a kernel that never holds the logits.

    A kernel knows one product of queries and keys, so sinks and the null become features of it: queries are wider by
    the sinks' queries and by the null's logit, which meet zeros in all keys but theirs. With a mask of None everything
    is seen. cuDNN is taken on NVIDIA in 16 bits, XLA's own form elsewhere. The null's logit is rounded to `query`'s
    dtype.
    """
    dtype, (batch, length, heads, width) = query.dtype, query.shape
    groups, count = values.shape[1], values.shape[2]
    features, keys, values = [query], keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3)
    if num_sinks and sink_query is not None:
        sink = (jnp.arange(count) < num_sinks)[None, :, None, None]
        features.append(sink_query)
        keys = jnp.concatenate([jnp.where(sink, 0, keys), jnp.where(sink, keys, 0)], axis=-1)
    if null_logit is not None:
        logit = (null_logit.astype(jnp.float32) * width**0.5).astype(dtype)  # the kernel scales all of the product
        features.append(jnp.broadcast_to(logit[:, None], (batch, length, heads, 1)))
        null = jnp.zeros((batch, 1, groups, keys.shape[-1] + 1), dtype).at[..., -1].set(1)
        keys = jnp.concatenate([jnp.pad(keys, ((0, 0), (0, 0), (0, 0), (0, 1))), null], axis=1)
        values = jnp.pad(values, ((0, 0), (0, 1), (0, 0), (0, 0)))
        mask = None if mask is None else jnp.pad(mask, ((0, 0), (0, 0), (0, 1)), constant_values=True)
    query = jnp.concatenate(features, axis=-1)
    wide = -(-query.shape[-1] // 8) * 8  # what the kernel takes; values must be as wide
    padded = lambda a: jnp.pad(a, ((0, 0), (0, 0), (0, 0), (0, wide - a.shape[-1])))
    on_cudnn = jax.default_backend() == "gpu" and dtype in (jnp.bfloat16, jnp.float16)
    out = jax.nn.dot_product_attention(
        padded(query),
        padded(keys.astype(dtype)),
        padded(values.astype(dtype)),
        mask=None if mask is None else mask[:, None],
        scale=width**-0.5,
        implementation="cudnn" if on_cudnn else "xla",
    )[..., :width]
    if mask is None or null_logit is not None:
        return out
    return jnp.where(mask.any(axis=-1)[..., None, None], out, 0)


def heads_first(
    key: Float[Array, "B R G E"], value: Float[Array, "B R G E"]
) -> tuple[Float[Array, "B G R E"], Float[Array, "B G R E"]]:
    """Keys and values as `attend` takes them, and as rings hold them (`ring.Buffers`)."""
    return key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)


def causal_window_mask(
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
