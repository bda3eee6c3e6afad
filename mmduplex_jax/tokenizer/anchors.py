"""Anchors: frames tokenized whole (the project's user says b-frames), and the state that they carry on."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.encoder import Attention, EncoderBlock
from mmduplex_jax.layers.norms import layer_norm
from mmduplex_jax.tokenizer.config import AnchorConfig, TokenizerConfig
from mmduplex_jax.towers.vision import VisionTower
from mmduplex_jax.typing import Array, Float, Int32, UInt8

_TABLE_INIT = nn.initializers.normal(0.02)


def table(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> Array:
    """A learned table of embeddings."""
    return module.param(name, nn.with_logical_partitioning(_TABLE_INIT, axes), shape)


def normalised(frames: UInt8[Array, "B H W 3"], anchor: AnchorConfig) -> Float[Array, "B H W 3"]:
    """Bytes as the anchors' tower takes them: from 0 to 1, less `mean`, over `std`; float32."""
    mean, std = np.array(anchor.mean), np.array(anchor.std)
    # In this form mean and deviation 0.5 are `bytes / 127.5 - 1` to the last bit.
    return frames.astype(jnp.float32) / (255.0 * std).astype(np.float32) - (mean / std).astype(np.float32)


class AnchorEncoder(nn.Module):
    """A frame through a vision tower and read out, `[B, H, W, 3] -> [B, U, D]`.

    Nested queries read the tower's patches: any prefix of them is a coarser code (Matryoshka, Hu et al., 2024). Or,
    where `anchor.readout` is "pooled", the tower's own embedding is the one token: all that CLIP says of a picture.
    """

    config: TokenizerConfig

    @nn.compact
    def __call__(self, frames: UInt8[Array, "B H W 3"]) -> Float[Array, "B U D"]:
        c, anchor = self.config, self.config.anchor
        dtype = jnp.dtype(c.dtype)
        tower = anchor.used_tower
        seen = VisionTower(tower, name="tower")(normalised(frames, anchor))
        if anchor.readout == "pooled":
            assert seen.embedding is not None  # AnchorConfig refuses towers without a pool
            read = seen.embedding[:, None].astype(dtype)
        else:
            queries = table(self, "queries", (c.anchor_tokens, tower.width), ("slots", "embed")).astype(dtype)
            read = jnp.broadcast_to(queries, (len(frames), *queries.shape))
            for i in range(anchor.readout_layers):
                # Queries never look at each other, so that none leans on a later one that may be dropped.
                block = EncoderBlock(tower.heads, self_attention=False, name=f"readout_{i}")
                read = block(read, seen.tokens.astype(dtype))
        read = layer_norm("readout_norm", dtype)(read)
        return dense(c.width, ("embed", "feature"), name="out", dtype=dtype, use_bias=True)(read)


class SceneState(nn.Module):
    """Slots that gather what anchors have shown; each anchor updates them through a gate, nothing resets them.

    They are bounded (`StateConfig.rms_max`): a stream of hours has slots of the size that training clips have.
    """

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
        return self.bounded(slots + gate * (new - slots))

    def bounded(self, slots: Float[Array, "B Z D"]) -> Float[Array, "B Z D"]:
        """The slots, those made smaller whose root mean square is over the bound; the others keep every bit."""
        mean_square = jnp.square(slots.astype(jnp.float32)).mean(axis=-1, keepdims=True)
        excess = jnp.sqrt(jnp.maximum(mean_square / self.config.state.rms_max**2, 1.0))
        return (slots / excess).astype(slots.dtype)

    def read(
        self, tokens: Float[Array, "B N D"], states: Float[Array, "B X Z D"], at: Int32[Array, "B N"]
    ) -> Float[Array, "B N D"]:
        """Tokens that know the scene they are a change of: token `n` looks at the slots of state `at[n]`."""
        batch, count, slots, width = states.shape
        mask = jnp.repeat(at[..., None] == jnp.arange(count), slots, axis=-1)
        context = states.reshape(batch, count * slots, width)
        return tokens + self.reader(self.reader_norm(tokens), context, mask)


def draw_anchor_keep(
    drop_key: Array, keep_key: Array, batch: int, share: float, tokenizer: TokenizerConfig
) -> Int32[Array, "B"] | None:
    """Nested dropout (Rippel et al., 2014): how many of its anchors' tokens each clip keeps, the first ones.

    It makes every prefix of an anchor a valid, coarser code.

    Args:
      drop_key: says which clips lose some.
      keep_key: says how many stay, from 1 on.
      batch: B.
      share: of clips that lose some; their number is drawn.
      tokenizer: only kind "bflow" has nested tokens that can be dropped.

    Returns:
      int32 `[B]`, for `BFlow.__call__`; None where all clips keep all.
    """
    if not share or tokenizer.kind != "bflow":
        return None
    every = tokenizer.anchor_tokens
    drawn = jax.random.randint(keep_key, (batch,), 1, every + 1)
    return jnp.where(jax.random.bernoulli(drop_key, share, (batch,)), drawn, every)
