"""Anchors: frames tokenized whole (the project's user says b-frames), and the state that they carry on."""

import flax.linen as nn
import jax.numpy as jnp

from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.encoder import Attention, Encoder, EncoderBlock, patchify
from mmduplex_jax.layers.norms import layer_norm
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.typing import Array, Float, Int32, UInt8

_TABLE_INIT = nn.initializers.normal(0.02)


def table(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> Array:
    """A learned table of embeddings."""
    return module.param(name, nn.with_logical_partitioning(_TABLE_INIT, axes), shape)


def pixels(picture: UInt8[Array, "..."], dtype) -> Float[Array, "..."]:
    """Maps bytes to `[-1, 1]`."""
    return (picture.astype(jnp.float32) / 127.5 - 1.0).astype(dtype)


class AnchorEncoder(nn.Module):
    """A ViT read out by nested queries: any prefix is a coarser code (Matryoshka, Hu et al., 2024)."""

    config: TokenizerConfig

    @nn.compact
    def __call__(self, frames: UInt8[Array, "B H W 3"]) -> Float[Array, "B U D"]:
        c, anchor = self.config, self.config.anchor
        dtype = jnp.dtype(c.dtype)
        patches = patchify(pixels(frames, dtype), anchor.patch_px)
        x = dense(anchor.width, ("patch", "embed"), name="patches", dtype=dtype, use_bias=True)(patches)
        x = x + table(self, "positions", (x.shape[1], anchor.width), ("position", "embed")).astype(dtype)
        x = Encoder(anchor.layers, anchor.heads, name="trunk")(x)
        queries = table(self, "queries", (c.anchor_tokens, anchor.width), ("slots", "embed")).astype(dtype)
        queries = jnp.broadcast_to(queries, (len(frames), *queries.shape))
        for i in range(anchor.readout_layers):
            # Queries never look at each other, so that none leans on a later one that may be dropped.
            queries = EncoderBlock(anchor.heads, self_attention=False, name=f"readout_{i}")(queries, x)
        queries = layer_norm("readout_norm", dtype)(queries)
        return dense(c.width, ("embed", "feature"), name="out", dtype=dtype, use_bias=True)(queries)


class SceneState(nn.Module):
    """Slots that gather what anchors have shown; each anchor updates them through a gate, nothing resets them."""

    config: TokenizerConfig

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        self.first = table(self, "first", (c.state.slots, c.width), ("slots", "feature"))
        self.blocks = [EncoderBlock(c.state.heads) for _ in range(c.state.layers)]
        self.gate = dense(c.width, ("feature", None), name="gate", dtype=dtype, use_bias=True)
        self.reader_norm = layer_norm("reader_norm", dtype)
        self.reader = Attention(c.state.heads)

    def initial(self, batch: int) -> Float[Array, "B Z D"]:
        return jnp.broadcast_to(self.first, (batch, *self.first.shape)).astype(jnp.dtype(self.config.dtype))

    def update(self, slots: Float[Array, "B Z D"], anchor: Float[Array, "B U D"]) -> Float[Array, "B Z D"]:
        """The slots after an anchor."""
        new = slots
        for block in self.blocks:
            new = block(new, anchor)
        gate = nn.sigmoid(self.gate(new))
        return slots + gate * (new - slots)

    def read(
        self, tokens: Float[Array, "B N D"], states: Float[Array, "B X Z D"], at: Int32[Array, "B N"]
    ) -> Float[Array, "B N D"]:
        """Tokens that know the scene they are a change of: token `n` looks at the slots of state `at[n]`."""
        batch, count, slots, width = states.shape
        mask = jnp.repeat(at[..., None] == jnp.arange(count), slots, axis=-1)
        context = states.reshape(batch, count * slots, width)
        return tokens + self.reader(self.reader_norm(tokens), context, mask)
