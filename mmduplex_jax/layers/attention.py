"""Grouped-query attention over keys that carry a time, the masks that time gives, and the read-out built on it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from mmduplex_jax.layers.dense import dense
from mmduplex_jax.typing import Array, Bool, Float, Int32

IMPLEMENTATIONS = ("einsum", "fused")

# What stands for a logit that does not count: finite, so that differences of it are numbers and rows of nothing but it
# give zeros, not NaN.
MASKED = -1e30
_LAST_AXES = (((3,), (3,)), ((0, 1), (0, 1)))  # contracted, and batched


def attend(
    query: Float[Array, "B S Q E"],
    keys: Float[Array, "B G R E"],
    values: Float[Array, "B G R E"],
    mask: Bool[Array, "B S R"] | None = None,
    *,
    sink_query: Float[Array, "B S Q E"] | None = None,
    num_sinks: int = 0,
    null_logit: Float[Array, "Q"] | None = None,
    fused: bool = False,
) -> Float[Array, "B S Q E"]:
    """Softmax attention in float32; `Q` query heads share `G` key-value heads.

    Args:
      keys: rotated keys, as they are multiplied (`heads_first`).
      mask: which keys a query attends to; None: all.
      sink_query: the queries as the first `num_sinks` keys meet them (their distance is clipped, so that a sink never
        moves out of the distances that training saw; StreamingLLM, Xiao et al., 2023).
      num_sinks: how many of the first keys are sinks.
      null_logit: a learned logit a head for attending to nothing; its value is zero.
      fused: through a kernel that never holds the logits (`attend_fused`), or by einsum; the same but for rounding.

    Returns:
      `[B, S, Q, E]`; zeros where a query attends to no key.

    Raises:
      ValueError: there are sinks without their queries, or the other way round.
    """
    if (sink_query is None) != (not num_sinks):
        raise ValueError(f"num_sinks is {num_sinks}, and sink_query is {'not ' * (sink_query is None)}given")
    implementation = attend_fused if fused else _attend_einsum
    return implementation(query, keys, values, mask, sink_query, num_sinks, null_logit)


def _attend_einsum(
    query: Float[Array, "B S Q E"],
    keys: Float[Array, "B G R E"],
    values: Float[Array, "B G R E"],
    mask: Bool[Array, "B S R"] | None,
    sink_query: Float[Array, "B S Q E"] | None,
    num_sinks: int,
    null_logit: Float[Array, "Q"] | None,
) -> Float[Array, "B S Q E"]:
    (length, heads, width), groups = query.shape[1:], values.shape[1]
    sizes = {"g": groups, "h": heads // groups, "s": length}

    # Plain batched matrix products over [B, G, Q/G·S, E]: on a CPU the gradient of the same einsum takes three times as
    # long. B and G stay apart: a mesh splits them over different axes, which no split of B·G can say.
    rows = lambda q: rearrange(q * width**-0.5, "b s (g h) e -> b g (h s) e", g=groups)
    against = lambda q, k: jax.lax.dot_general(q, k, _LAST_AXES, preferred_element_type=jnp.float32)
    logits = against(rows(query), keys)
    if sink_query is not None:
        sinks = against(rows(sink_query), keys[:, :, :num_sinks])
        logits = jnp.concatenate([sinks, logits[..., num_sinks:]], axis=-1)
    logits = rearrange(logits, "b g (h s) r -> b g h s r", **sizes)
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, MASKED)
    # Over any masked logit, so that a row without any key has weights of exactly zero.
    top = jnp.maximum(logits.max(axis=-1, keepdims=True), MASKED / 10)
    if null_logit is not None:
        null = rearrange(null_logit.astype(jnp.float32), "(g h) -> g h 1 1", g=groups)
        top = jnp.maximum(top, null)
    top = jax.lax.stop_gradient(top)  # it cancels
    weights = jnp.exp(logits - top)
    total = weights.sum(axis=-1, keepdims=True)
    if null_logit is not None:
        total = total + jnp.exp(null - top)
    weights = rearrange(weights.astype(values.dtype), "b g h s r -> b g (h s) r")
    out = jnp.matmul(weights, values, preferred_element_type=jnp.float32)
    out = rearrange(out, "b g (h s) e -> b g h s e", **sizes) / jnp.maximum(total, 1e-30)
    return rearrange(out.astype(values.dtype), "b g h s e -> b s (g h) e")


def attend_fused(
    query: Float[Array, "B S Q E"],
    keys: Float[Array, "B G R E"],
    values: Float[Array, "B G R E"],
    mask: Bool[Array, "B S R"] | None,
    sink_query: Float[Array, "B S Q E"] | None,
    num_sinks: int,
    null_logit: Float[Array, "Q"] | None,
) -> Float[Array, "B S Q E"]:
    """`attend` through `jax.nn.dot_product_attention`, of which cuDNN has a kernel that never holds the logits.

    A kernel knows one product of queries and keys, so sinks and the null become features of it: queries are wider by
    the sinks' queries and by the null's logit, which meet zeros in all keys but theirs. cuDNN is taken on NVIDIA in
    16 bits, XLA's own form elsewhere. The null's logit is rounded to `query`'s dtype. Widths are padded to
    multiples of 8, and lengths to even ones where there is a mask, since cuDNN takes no others.
    """
    dtype, (batch, length, heads, width) = query.dtype, query.shape
    groups, count = values.shape[1], values.shape[2]
    features = [query]
    keys, values = (rearrange(a, "b g r e -> b r g e") for a in (keys, values))
    if sink_query is not None:
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
    # With a mask, its backward pass takes even lengths alone.
    odd = lambda a: 0 if mask is None else a.shape[1] % 2
    padded = lambda a: jnp.pad(a, ((0, 0), (0, odd(a)), (0, 0), (0, wide - a.shape[-1])))
    on_cudnn = jax.default_backend() == "gpu" and dtype in (jnp.bfloat16, jnp.float16)
    out = jax.nn.dot_product_attention(
        padded(query),
        padded(keys.astype(dtype)),
        padded(values.astype(dtype)),
        mask=None if mask is None else jnp.pad(mask, ((0, 0), (0, odd(query)), (0, odd(keys))))[:, None],
        scale=width**-0.5,
        implementation="cudnn" if on_cudnn else "xla",
    )[:, :length, :, :width]
    if mask is None or null_logit is not None:
        return out
    return jnp.where(mask.any(axis=-1)[..., None, None], out, 0)


def heads_first(
    key: Float[Array, "B R G E"], value: Float[Array, "B R G E"]
) -> tuple[Float[Array, "B G R E"], Float[Array, "B G R E"]]:
    """Keys and values as `attend` takes them, and as caches hold them (`kv_cache.Pair`)."""
    return rearrange(key, "b r g e -> b g r e"), rearrange(value, "b r g e -> b g r e")


def causal_window_mask(
    query_step: Int32[Array, "B S"],
    key_step: Int32[Array, "B R"],
    key_valid: Bool[Array, "B R"],
    window_steps: int,
    num_sinks: int = 0,
    *,
    query_order: Int32[Array, "B S"] | None = None,
    key_order: Int32[Array, "B R"] | None = None,
) -> Bool[Array, "B S R"]:
    """Keys that are not later than the query, and in the window (or among the first `num_sinks`).

    Args:
      query_step, key_step: the time that the window counts.
      window_steps: keys must be less than this before the query.
      num_sinks: keys to which the window does not matter.
      query_order, key_order: what "later" means where it is not the step, to break ties (video before text).
    """
    query_order = query_step if query_order is None else query_order
    key_order = key_step if key_order is None else key_order
    past = key_order[:, None, :] <= query_order[:, :, None]
    near = query_step[:, :, None] - key_step[:, None, :] < window_steps
    if num_sinks:
        near = near | (jnp.arange(key_step.shape[1]) < num_sinks)
    return past & near & key_valid[:, None, :]


class AttentionReadout(nn.Module):
    """Queries attend to keys and values that somebody else made; heads are joined, through a gate where one is asked.

    Attributes:
      axes: logical names of the joining kernel's axes.
      queries: neighbouring queries that are joined into one output.
      null: whether a head may attend to nothing, by a learned logit.
      gate: first value of a learned gate, whose `tanh` multiplies the output; None: there is none.
      name_out: of the joining layer.
    """

    width: int
    axes: tuple[str | None, str | None]
    queries: int = 1
    null: bool = True
    gate: float | None = None
    name_out: str = "out"

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "B S Q E"],
        keys: Float[Array, "B G R E"],
        values: Float[Array, "B G R E"],
        mask: Bool[Array, "B S R"],
        fused: bool = False,
    ) -> Float[Array, "B S D"]:
        """Arguments as of `attend`; `S / queries` outputs."""
        own = lambda name, value, size: self.param(
            name, nn.with_logical_partitioning(nn.initializers.constant(value), (None,)), (size,)
        )
        null = own("null", 0.0, query.shape[2]) if self.null else None
        out = attend(query, keys, values, mask, null_logit=null, fused=fused)
        out = rearrange(out, "b (s n) q e -> b s (n q e)", n=self.queries)
        out = dense(self.width, self.axes, name=self.name_out, dtype=out.dtype)(out)
        return out if self.gate is None else out * jnp.tanh(own("gate", self.gate, 1)).astype(out.dtype)
