"""The text side of CLIP (causal, pooled at the end token) and of SigLIP (bidirectional, pooled at the last token)."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.layers.dense import check_activation, dense
from mmduplex_jax.layers.encoder import Encoder
from mmduplex_jax.typing import Array, Bool, Float, Int32

POOLS = ("end", "largest", "last")


@dataclasses.dataclass(frozen=True)
class TextTowerConfig:
    """The shape of a text tower.

    Attributes:
      vocab_size: V.
      length: the most tokens that a text may have (there are as many positions).
      width, layers, heads, hidden: D, depth, Q, F.
      activation: of the MLPs: "gelu", "gelu_tanh" or "quick_gelu".
      norm_epsilon: of the LayerNorms.
      causal: whether a token sees only those before it.
      pool: which token speaks for the text: "end" (the first `end_id`), "largest" (the largest id, as the first CLIPs
        and PE do it: their end token is the last of the vocabulary) or "last" (whatever it is; SigLIP pads all texts).
      end_id: the token that ends a text; for "end" only.
      projection: width of the embedding; 0 for the pooled vector as it is.
      projection_bias: whether the projection has one.
      remat: recompute activations in the backward pass.
      dtype: compute dtype, "float32" or "bfloat16".
    """

    vocab_size: int
    length: int
    width: int
    layers: int
    heads: int
    hidden: int
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    causal: bool = False
    pool: str = "last"
    end_id: int = -1
    projection: int = 0
    projection_bias: bool = False
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        if self.pool not in POOLS:
            raise ValueError(f"pool is one of {', '.join(POOLS)}, not {self.pool!r}")
        check_activation(self.activation)
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.pool == "end" and not 0 <= self.end_id < self.vocab_size:
            raise ValueError(f"pool 'end' needs an end_id in the vocabulary of {self.vocab_size}, got {self.end_id}")

    @property
    def embedding_width(self) -> int:
        return self.projection or self.width


class TextOutput(NamedTuple):
    """What a text tower gives.

    Attributes:
      tokens: `[B, S, D]`, after the last norm.
      pooled: `[B, D]`, the token that speaks for the text.
      embedding: `[B, projection]`, or `pooled` where there is no projection.
    """

    tokens: Float[Array, "B S D"]
    pooled: Float[Array, "B D"]
    embedding: Float[Array, "B F"]


class TextTower(nn.Module):
    """Texts to vectors."""

    config: TextTowerConfig

    @nn.compact
    def __call__(self, ids: Int32[Array, "B S"], valid: Bool[Array, "B S"] | None = None) -> TextOutput:
        """Reads texts.

        Args:
          ids: token ids; padded as the tower was trained (SigLIP: to `length`, and the padding is read too).
          valid: which tokens may be looked at; all where None.

        Raises:
          ValueError: the texts are longer than the tower has positions.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        length = ids.shape[1]
        if length > c.length:
            raise ValueError(f"texts of {length} tokens, the tower has positions for {c.length}: cut them")
        normal = nn.initializers.normal(0.02)
        embed = nn.Embed(
            c.vocab_size,
            c.width,
            dtype=dtype,
            embedding_init=nn.with_logical_partitioning(normal, ("vocab", "embed")),
            name="embed",
        )
        positions = self.param(
            "position", nn.with_logical_partitioning(normal, ("position", "embed")), (c.length, c.width)
        )
        x = embed(ids) + positions[:length].astype(dtype)
        mask = None
        if c.causal or valid is not None:
            mask = jnp.tri(length, dtype=bool) if c.causal else jnp.ones((length, length), bool)
            mask = jnp.broadcast_to(mask, (ids.shape[0], length, length))
            mask = mask if valid is None else mask & valid[:, None]
        x = Encoder(
            c.layers,
            c.heads,
            hidden=c.hidden,
            activation=c.activation,
            norm_epsilon=c.norm_epsilon,
            remat=c.remat,
            name="encoder",
        )(x, mask)
        if c.pool == "last":
            pooled = x[:, -1]
        else:
            at = jnp.argmax(ids == c.end_id if c.pool == "end" else ids, axis=1)
            pooled = jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0]
        if not c.projection:
            return TextOutput(x, pooled, pooled)
        project = dense(c.projection, ("embed", "feature"), name="projection", dtype=dtype, use_bias=c.projection_bias)
        return TextOutput(x, pooled, project(pooled))
