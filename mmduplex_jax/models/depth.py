"""The depth transformer: the codes of one step of sound, one codebook after the other.

A residual quantiser gives a step several codes (`codec/quantizer.py`). The large, temporal transformer has one hidden
state a step; from it and from the step's text token a small transformer says the codes, each knowing those before it
(RQ-Transformer, Lee et al., 2022; Moshi, Défossez et al., 2024; shapes and conventions as of kyutai-labs/moshi e6a55d2,
moshi/models/lm.py and modules/transformer.py). It has no positions: codebook `k` has weights of its own.

Sequences of codes are `[B, S, K]`. Beside the codes `0 … card - 1` they hold

* `ZERO`, where nothing is known: it is embedded as zeros, and no loss asks for it;
* `UNGENERATED`, where something is to be said yet: it is never embedded;
* `card`, which stands before the first code of every codebook ("initial").
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from mmduplex_jax.layers.attention import attend, heads_first
from mmduplex_jax.layers.dense import ACTIVATIONS, RMSNorm, check_activation, layer_norm
from mmduplex_jax.layers.kv_cache import Pair
from mmduplex_jax.sharding import constrain_batch_sharding, in_units
from mmduplex_jax.typing import Array, Bool, Float, Int32

ZERO, UNGENERATED = -1, -2
NORMS = ("rms", "layer")


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    """The shape of a depth transformer.

    Attributes:
      codebooks: K, codes of a step.
      card: codes that a codebook has.
      text_rows: ids that the step's text token may have.
      width, layers, heads: D, depth, Q; heads share no keys.
      hidden: F of the gated MLP.
      schedule: which weights each codebook has, `K` numbers from 0 on; empty: each has its own. (Moshi's later models
        share weights among the last codebooks.)
      low_rank: numbers through which codes and text tokens are embedded; 0: their rows are as wide as the transformer.
      norm: "rms", or "layer" (with a bias).
      remat: recompute activations in the backward pass.
      dtype: compute dtype, "float32" or "bfloat16".
    """

    codebooks: int
    card: int
    text_rows: int
    width: int
    layers: int
    heads: int
    hidden: int
    schedule: tuple[int, ...] = ()
    low_rank: int = 0
    norm: str = "rms"
    norm_epsilon: float = 1e-5
    activation: str = "silu"
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        check_activation(self.activation, "the depth transformer's activation")
        if self.norm not in NORMS:
            raise ValueError(f"the depth transformer's norm is one of {', '.join(NORMS)}, not {self.norm!r}")
        if min(self.codebooks, self.card, self.layers, self.heads) < 1 or self.width % self.heads:
            raise ValueError(
                f"a depth transformer needs codebooks ({self.codebooks}), codes ({self.card}), layers ({self.layers}) "
                f"and a width ({self.width}) that its heads ({self.heads}) divide"
            )
        if self.schedule and (
            len(self.schedule) != self.codebooks or set(self.schedule) != set(range(max(self.schedule) + 1))
        ):
            raise ValueError(
                f"the depth transformer's schedule says which weights each of the {self.codebooks} codebooks has, "
                f"numbered from 0 on without gaps; got {self.schedule}"
            )

    @property
    def weights(self) -> tuple[int, ...]:
        """Which weights each codebook has."""
        return self.schedule or tuple(range(self.codebooks))

    @property
    def initial(self) -> int:
        """What stands before the first code."""
        return self.card


class StepDense(nn.Module):
    """A linear layer with weights for every codebook, `[N, k, in] -> [N, k, features]`.

    Attributes:
      axes: logical names of each kernel's axes.
      schedule: which kernel each codebook has.
    """

    features: int
    axes: tuple[str | None, str | None]
    schedule: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "N k I"], first: int = 0) -> Float[Array, "N k O"]:
        """The layer of codebooks `first …`, as many as `x` has."""
        count = max(self.schedule) + 1
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(batch_axis=(0,)), (None, *self.axes))
        kernel = self.param("kernel", init, (count, x.shape[-1], self.features)).astype(x.dtype)
        used = self.schedule[first : first + x.shape[1]]
        if len(used) == 1:  # a static index: live, no kernel is copied
            return x @ kernel[used[0]]
        chosen = kernel if used == tuple(range(count)) else kernel[jnp.array(used)]
        return jnp.einsum("nki,kio->nko", x, chosen)


class StepEmbedding(nn.Module):
    """Rows of a table for every codebook, `[N, k] -> [N, k, width]`; ids below 0 are zeros.

    Attributes:
      tables, rows: how many there are, and their length.
      low_rank: see `DepthConfig`.
      init: of the tables.
      rows_axis: logical name of the rows.
    """

    tables: int
    rows: int
    width: int
    low_rank: int = 0
    init: Callable | None = None
    rows_axis: str | None = None
    dtype: str = "float32"

    @nn.compact
    def __call__(self, ids: Int32[Array, "N k"], first: int = 0) -> Float[Array, "N k D"]:
        """What stands for ids of tables `first …`, as many as `ids` has."""
        rank = self.low_rank or self.width
        init = self.init or nn.initializers.normal(rank**-0.5)
        axes = (None, self.rows_axis, None if self.low_rank else "embed")
        table = self.param("embedding", nn.with_logical_partitioning(init, axes), (self.tables, self.rows, rank))
        rows = table[jnp.arange(first, first + ids.shape[1]), jnp.maximum(ids, 0)]
        x = jnp.where((ids < 0)[..., None], 0, rows).astype(jnp.dtype(self.dtype))
        if not self.low_rank:
            return x
        return StepDense(self.width, (None, "embed"), tuple(range(self.tables)), name="low_rank")(x, first)


class DepthBlock(nn.Module):
    """One pre-norm layer over codebooks: causal attention without positions, and a gated MLP."""

    config: DepthConfig

    @nn.compact
    def __call__(self, x: Float[Array, "N k D"], past: Pair | None = None) -> tuple[Float[Array, "N k D"], Pair]:
        """Runs the layer.

        Args:
          x: of some codebooks in a row: from the first one on, or behind those of `past`.
          past: keys and values of the codebooks before.

        Returns:
          The outputs, and the keys and values of all codebooks so far.
        """
        c = self.config
        first, width = 0 if past is None else past[0].shape[2], c.width // c.heads
        heads = in_units("heads", width)
        layer = lambda name, features, axes: StepDense(features, axes, c.weights, name=name)
        split = lambda a: rearrange(a, "n k (q e) -> n k q e", q=c.heads)
        into = lambda name, a: split(layer(name, c.width, ("embed", heads))(a, first))
        normed = _norm(c, "attention_norm")(x)
        keys, values = heads_first(into("key", normed), into("value", normed))
        if past is not None:
            keys, values = (jnp.concatenate(pair, axis=2) for pair in zip(past, (keys, values)))
        at = first + jnp.arange(x.shape[1])
        mask = None if len(at) == 1 else (jnp.arange(keys.shape[2]) <= at[:, None])[None]
        out = rearrange(attend(into("query", normed), keys, values, mask), "n k q e -> n k (q e)")
        x = x + layer("out", c.width, (heads, "embed"))(out, first)
        normed = _norm(c, "mlp_norm")(x)
        gate = ACTIVATIONS[c.activation](layer("gate", c.hidden, ("embed", "mlp"))(normed, first))
        up = layer("up", c.hidden, ("embed", "mlp"))(normed, first)
        return x + layer("down", c.width, ("mlp", "embed"))(gate * up, first), (keys, values)


class DepthTransformer(nn.Module):
    """Codes of steps from hidden states of a temporal transformer and the steps' text tokens."""

    config: DepthConfig

    def setup(self):
        c = self.config
        embedding = lambda name, tables, rows, axis: StepEmbedding(
            tables, rows, c.width, c.low_rank, rows_axis=axis, dtype=c.dtype, name=name
        )
        self.hidden_in = StepDense(c.width, ("embed", None), c.weights)
        self.text = embedding("text", 1, c.text_rows, "vocab")
        if c.codebooks > 1:  # no code comes after the last one
            self.codes = embedding("codes", c.codebooks - 1, c.card + 1, None)
        block = nn.remat(DepthBlock) if c.remat else DepthBlock
        self.blocks = [block(c, name=f"block_{i}") for i in range(c.layers)]
        self.heads = StepDense(c.card, ("embed", "vocab"), tuple(range(c.codebooks)))

    def __call__(
        self, hidden: Float[Array, "B S W"], text: Int32[Array, "B S"], codes: Int32[Array, "B S K"]
    ) -> Float[Array, "B S K C"]:
        """float32 logits of every code, teacher-forced.

        Args:
          hidden: of the temporal transformer, one a step.
          text: the steps' text tokens; below 0: nothing is known of them.
          codes: what is to be said; the last one of a step is given to nobody.
        """
        c, (batch, steps) = self.config, text.shape
        flat = lambda a: a.reshape(batch * steps, *a.shape[2:])
        hidden = flat(hidden).astype(jnp.dtype(c.dtype))
        x = self.hidden_in(jnp.broadcast_to(hidden[:, None], (len(hidden), c.codebooks, hidden.shape[-1])))
        before = [self.text(flat(text)[:, None])]
        if c.codebooks > 1:
            before.append(self.codes(flat(codes)[:, :-1]))
        x = x + jnp.concatenate(before, axis=1)
        for block in self.blocks:
            x, _ = block(constrain_batch_sharding(x))
        return self.heads(x).astype(jnp.float32).reshape(batch, steps, c.codebooks, c.card)

    def generate(
        self,
        hidden: Float[Array, "B W"],
        text: Int32[Array, "B"],
        choose: Callable[[int, Float[Array, "B C"]], Int32[Array, "B"]],
    ) -> tuple[Int32[Array, "B K"], Float[Array, "B K C"]]:
        """The codes of one step, one codebook after the other.

        Args:
          hidden: of the step.
          text: the step's text token.
          choose: given a codebook and its logits, the codes to go on with.

        Returns:
          The codes chosen and float32 logits of all codebooks.
        """
        c = self.config
        hidden, code = hidden[:, None].astype(jnp.dtype(c.dtype)), text
        pasts: list[Pair | None] = [None] * c.layers
        chosen, all_logits = [], []
        for k in range(c.codebooks):
            before = self.codes(code[:, None], k - 1) if k else self.text(code[:, None])
            x = self.hidden_in(hidden, k) + before
            for i, block in enumerate(self.blocks):
                x, pasts[i] = block(x, pasts[i])
            logits = self.heads(x, k)[:, 0].astype(jnp.float32)
            code = choose(k, logits)
            chosen.append(code)
            all_logits.append(logits)
        return jnp.stack(chosen, axis=1), jnp.stack(all_logits, axis=1)


def _norm(config: DepthConfig, name: str) -> nn.Module:
    dtype = jnp.dtype(config.dtype)
    if config.norm == "rms":
        return RMSNorm(config.norm_epsilon, dtype, name=name)
    return layer_norm(name, dtype, config.norm_epsilon)


# Delays within the codes ("acoustic delay"): a codebook that is said later knows more of those before it.


def delayed_codes(codes: Int32[Array, "B S K"], delays: Sequence[int], initial: int) -> Int32[Array, "B S K"]:
    """Codes with those of codebook `k` moved `delays[k]` steps back; `initial` stands before them, the last fall out.

    Raises:
      ValueError: there is not one delay, of 0 steps or more, for every codebook.
    """
    _check_delays(delays, codes.shape[2])
    steps = codes.shape[1]
    moved = [
        jnp.pad(codes[:, : max(steps - delay, 0), k], ((0, 0), (min(delay, steps), 0)), constant_values=initial)
        for k, delay in enumerate(delays)
    ]
    return jnp.stack(moved, axis=2)


def undelayed_codes(
    values: Float[Array, "B S K ..."], delays: Sequence[int], fill: float | int
) -> tuple[Float[Array, "B S K ..."], Bool[Array, "S K"]]:
    """The inverse of `delayed_codes`, of codes or of their logits.

    Returns:
      The values at the steps where their codes were before they were delayed, `fill` where those fell out; and which
      did not.

    Raises:
      ValueError: as `delayed_codes`.
    """
    _check_delays(delays, values.shape[2])
    steps, rest = values.shape[1], ((0, 0),) * (values.ndim - 3)
    moved = [
        jnp.pad(values[:, delay:, k], ((0, 0), (0, min(delay, steps)), *rest), constant_values=fill)
        for k, delay in enumerate(delays)
    ]
    kept = jnp.arange(steps)[:, None] + jnp.array(delays) < steps
    return jnp.stack(moved, axis=2), kept


def _check_delays(delays: Sequence[int], codebooks: int) -> None:
    if len(delays) != codebooks or min(delays) < 0:
        raise ValueError(f"{codebooks} codebooks need a delay each, of 0 steps or more; got {tuple(delays)}")


# The loss (kyutai-labs/moshi-finetune): cross-entropy where something is known, weighted, divided by the weights.


def masked_nll(
    logits: Float[Array, "... C"], target: Int32[Array, "..."], valid: Bool[Array, "..."]
) -> Float[Array, "..."]:
    """Negative log-likelihoods in nats; 0 where not `valid`, whatever the logits and targets are there."""
    safe = jnp.where(valid[..., None], logits.astype(jnp.float32), 0)
    chosen = jnp.take_along_axis(safe, jnp.where(valid, target, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(valid, jax.nn.logsumexp(safe, axis=-1) - chosen, 0)


def code_weights(valid: Bool[Array, "... K"], first_codebook_weight: float) -> Float[Array, "... K"]:
    """Weights of codes: 1 where valid, `first_codebook_weight` of the first codebook, which holds the meaning."""
    multiplier = jnp.ones(valid.shape[-1]).at[0].set(first_codebook_weight)
    return valid * multiplier


def weighted_mean(nll: Float[Array, "..."], weights: Float[Array, "..."]) -> Float[Array, ""]:
    """The weighted mean; 0 where no weight is above 0."""
    total = weights.sum()
    return (nll * weights).sum() / jnp.where(total > 0, total, 1)
