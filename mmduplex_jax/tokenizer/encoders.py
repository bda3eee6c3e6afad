"""What a token holds: an anchor the whole frame, and the state that carries on from it; a flow token a crop that moves.

Anchors (some say b-frames) are read out of a vision tower. Flow tokens are crops of pixels on what moves, with where,
when and how it moves.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from mmduplex_jax.frame_size import FrameSize
from mmduplex_jax.layers.dense import dense, layer_norm, scaled_init
from mmduplex_jax.layers.dropout import dropout
from mmduplex_jax.layers.encoder import Attention, Encoder, EncoderBlock, Mlp, patchify
from mmduplex_jax.layers.resample import resize_grid
from mmduplex_jax.tokenizer.config import FlowConfig, TokenizerConfig
from mmduplex_jax.tokenizer.sight import FlowSight
from mmduplex_jax.tokenizer.token_plan import MAP_CHANNELS
from mmduplex_jax.towers.kinds import features_of
from mmduplex_jax.towers.vision import VisionConfig, normalise
from mmduplex_jax.typing import Array, Float, Int32, UInt8

_TABLE_INIT = nn.initializers.normal(0.02)
_OCTAVES = 4  # of the Fourier features of a position


def table(module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> Array:
    """A learned table of embeddings."""
    return module.param(name, nn.with_logical_partitioning(_TABLE_INIT, axes), shape)


class AnchorEncoder(nn.Module):
    """A frame through a vision tower (`look`) and read out (`read`), `[B, H, W, 3] -> [B, P, F] -> [B, U, D]`.

    Nested queries read the tower's tokens: any prefix of them is a coarser code (Matryoshka, Hu et al., 2024). Or,
    where `anchor.readout` is "pooled", the tower's own embedding is the one token: all that CLIP says of a picture.
    """

    config: TokenizerConfig

    def setup(self):
        c, anchor = self.config, self.config.anchor
        dtype = jnp.dtype(c.dtype)
        self.tower = anchor.used_tower.build()
        if anchor.readout == "queries":
            width = anchor.readout_width
            self.queries = table(self, "queries", (c.anchor_tokens, width), ("slots", "embed"))
            if not isinstance(anchor.tower, VisionConfig):
                # A map does not say where its places are, and its features are of any size and number.
                places = math.prod(anchor.tower.map_size(c.anchor_px))
                self.positions = table(self, "positions", (places, width), ("position", "embed"))
                self.tokens_norm = layer_norm("tokens_norm", dtype)
            if width != anchor.tower.width or not isinstance(anchor.tower, VisionConfig):
                self.tokens_in = dense(width, ("patch", "embed"), name="tokens_in", dtype=dtype, use_bias=True)
            # Queries never look at each other, so that none leans on a later one that may be dropped.
            block = functools.partial(EncoderBlock, anchor.readout_heads, self_attention=False)
            self.readout = [block() for _ in range(anchor.readout_layers)]
        self.readout_norm = layer_norm("readout_norm", dtype)
        self.out = dense(c.width, ("embed", "feature"), name="out", dtype=dtype, use_bias=True)

    def __call__(self, frames: UInt8[Array, "B H W 3"]) -> Float[Array, "B U D"]:
        return self.read(self.look(frames))

    def look(self, frames: UInt8[Array, "B H W 3"]) -> Float[Array, "B P F"]:
        """What the tower tells of frames: of each place, or (readout "pooled") of the whole, `P = 1`."""
        c, anchor = self.config, self.config.anchor
        pictures = normalise(frames, anchor.mean, anchor.std)
        if c.anchor_px != frames.shape[1:3]:
            pictures = resize_grid(pictures, *c.anchor_px, "bilinear", antialias=True)
        return _looked(self.tower(pictures), anchor.readout == "pooled")

    def read(self, features: Float[Array, "B P F"]) -> Float[Array, "B U D"]:
        """Tokens of what the tower tells."""
        c, anchor = self.config, self.config.anchor
        read = features = features.astype(jnp.dtype(c.dtype))
        if anchor.readout == "queries":
            if not isinstance(anchor.tower, VisionConfig):
                features = self.tokens_in(self.tokens_norm(features)) + self.positions.astype(features.dtype)
            elif anchor.readout_width != anchor.tower.width:
                features = self.tokens_in(features)
            queries = self.queries.astype(features.dtype)
            read = jnp.broadcast_to(queries, (len(features), *queries.shape))
            for block in self.readout:
                read = block(read, features)
        return self.out(self.readout_norm(read))


class CropTower(nn.Module):
    """What a flow token's tower makes of crops, enlarged to `tower_px`, `[X, h, w, 3] -> [X, P, F]`."""

    config: FlowConfig

    def setup(self):
        assert self.config.used_tower is not None  # there is none without a tower
        self.tower = self.config.used_tower.build()

    def __call__(self, crops: UInt8[Array, "X h w 3"]) -> Float[Array, "X P F"]:
        flow = self.config
        pictures = normalise(crops, flow.mean, flow.std)
        if flow.looked_px != flow.crop_px:
            pictures = resize_grid(pictures, flow.looked_px, flow.looked_px, "bilinear", antialias=False)
        return _looked(self.tower(pictures), flow.readout == "pooled")


def _looked(output: Any, pooled: bool) -> Float[Array, "B P F"]:
    """The vectors that are read out of what a tower's module gives."""
    features = features_of(output)
    if not pooled:
        return features.tokens
    assert features.pooled is not None  # configurations refuse towers without a pool
    return features.pooled[:, None]


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
        self.reader = Attention(c.state.heads, out_init=scaled_init(c.context_init_scale))

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
    if not share or tokenizer.kind != "bflow" or not tokenizer.anchor_tokens:
        return None
    every = tokenizer.anchor_tokens
    drawn = jax.random.randint(keep_key, (batch,), 1, every + 1)
    return jnp.where(jax.random.bernoulli(drop_key, share, (batch,)), drawn, every)


def pixels(picture: UInt8[Array, "..."], dtype) -> Float[Array, "..."]:
    """Maps bytes to `[-1, 1]`; integers up to the one division, so that every way of compiling it rounds alike."""
    return ((2 * picture.astype(jnp.int32) - 255).astype(jnp.float32) / 255.0).astype(dtype)


def silhouette(crops: UInt8[Array, "... h w 3"], dtype) -> Float[Array, "... h w 1"]:
    """How far every pixel stands out from the crop's rim, from 0 to 2 where it does most.

    Crops are centred on a thing, so the rim shows what is behind it and this its outline, whatever their colours are:
    without it shapes have to be learned for every pair of colours anew, and are what a small model learns last.

    In integers up to the one division: on a crop of one colour all contrast would be rounding, and be enlarged by it.
    """
    side = crops.shape[-2]
    rim = np.ones((side, side, 1), np.int32)
    rim[1:-1, 1:-1] = 0
    count = int(rim.sum())
    crops = crops.astype(jnp.int32)
    behind = (crops * rim).sum(axis=(-3, -2), keepdims=True)
    contrast = jnp.abs(count * crops - behind).sum(axis=-1, keepdims=True)  # in steps of 1 / count of a byte
    most = contrast.max(axis=(-3, -2), keepdims=True).astype(jnp.float32)
    return (2 * contrast.astype(jnp.float32) / (most + 0.1 * 127.5 * count)).astype(dtype)


def _scaled(patches: Int32[Array, "... 10"]) -> Float[Array, "... 10"]:
    """Brings saliency, vectors (plane pixels a tick) and residuals to about unit scale."""
    patches = patches.astype(jnp.float32)
    maps, residual = rearrange(patches[..., :-1], "... (t c) -> ... t c", c=MAP_CHANNELS), patches[..., -1:]
    saliency, vector = maps[..., 0], rearrange(maps[..., 1:], "... t c -> ... (t c)")
    level = lambda grey: jnp.log1p(grey / 200.0)
    return jnp.concatenate([level(saliency), vector / 2.0, level(residual)], axis=-1)


@functools.lru_cache(maxsize=16)
def _fourier_table(side_px: int) -> np.ndarray:
    """Fourier features of every pixel position of a line, float32 `[side_px, 2 · octaves]`.

    Positions are integers, so a table (computed in float64) serves: a sine of 25 radians in float32 is off by 1e-6,
    and by a different one in every way of compiling it.
    """
    place = np.arange(side_px) / side_px * 2.0 - 1.0
    angles = place[:, None] * (np.pi * 2.0 ** np.arange(_OCTAVES))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def _fourier(centre_px: Int32[Array, "... 2"], frame_px: FrameSize) -> Float[Array, "... 16"]:
    down, across = (jnp.asarray(_fourier_table(side))[centre_px[..., i]] for i, side in enumerate(frame_px))
    return jnp.concatenate([down, across], axis=-1)


class FlowEncoder(nn.Module):
    """Crops (or what a tower makes of them) and motion to tokens, `[B, N, ...] -> [B, N, D]`."""

    config: TokenizerConfig

    @nn.compact
    def __call__(self, sight: FlowSight) -> Float[Array, "B N D"]:
        cell, centre_px = sight.cell, sight.centre_px
        c, flow = self.config, self.config.flow
        dtype = jnp.dtype(c.dtype)
        batch, count = centre_px.shape[:2]
        cell_px = 2.0 * c.plane_scale
        place = centre_px.astype(jnp.float32) / np.array(c.frame_px, np.float32) * 2.0 - 1.0
        offset = (centre_px - (cell + 0.5) * cell_px) / flow.crop_px
        parts = [place, offset, _fourier(centre_px, c.frame_px)]
        if flow.motion_features:
            parts += [_scaled(sight.motion).reshape(batch, count, -1), sight.camera.astype(jnp.float32) / 2.0]
        features = jnp.concatenate(parts, axis=-1).astype(dtype)
        token = dense(flow.width, ("patch", "embed"), name="features", dtype=dtype, use_bias=True)(features)
        if len(flow.crop_scales) > 1:
            scales = table(self, "scales", (len(flow.crop_scales), flow.width), (None, "embed")).astype(dtype)
            token += scales[jnp.searchsorted(jnp.asarray(flow.crop_scales), sight.scale)]

        if flow.pixels:
            if flow.tower is None:
                picture = pixels(sight.looks, dtype)
                patches = patchify(jnp.concatenate([picture, silhouette(sight.looks, dtype)], axis=-1), flow.patch_px)
            else:
                # Towers' features are of any size.
                patches = layer_norm("features_norm", dtype)(sight.looks.astype(dtype))
                patches = dropout(self, patches, flow.dropout)
                if not flow.layers:
                    # Without a trunk that knows where they are, places side by side; their mean would lose that.
                    patches = rearrange(patches, "b n p f -> b n 1 (p f)")
            x = dense(flow.width, ("patch", "embed"), name="patches", dtype=dtype, use_bias=True)(patches)
            if flow.layers:
                init = nn.with_logical_partitioning(nn.initializers.normal(0.02), ("position", "embed"))
                x = x + self.param("positions", init, (x.shape[-2], flow.width)).astype(dtype)
                x = jnp.concatenate([token[:, :, None], x], axis=2).reshape(batch * count, -1, flow.width)
                x = Encoder(flow.layers, flow.heads, remat=flow.remat, name="trunk")(x)
                token = x[:, 0].reshape(batch, count, flow.width)
            else:
                # Normalised, or the pixels' small numbers drown in the motion's and what a thing is gets learned last.
                token = token + nn.gelu(layer_norm("pixels_norm", dtype)(x.mean(axis=2)))
        token = token + Mlp(2, name="mlp")(layer_norm("mlp_norm", dtype)(token))
        token = layer_norm("norm", dtype)(token)
        return dense(c.width, ("embed", "feature"), name="out", dtype=dtype, use_bias=True)(token)
