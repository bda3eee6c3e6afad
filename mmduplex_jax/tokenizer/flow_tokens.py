"""Flow tokens: crops of pixels on what moves, with where, when and how it moves."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from mmduplex_jax.layers.dense import dense
from mmduplex_jax.layers.encoder import Encoder, Mlp, patchify
from mmduplex_jax.layers.norms import layer_norm
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.token_plan import MAP_CHANNELS
from mmduplex_jax.typing import Array, Float, Int32, UInt8

_AROUND = 5  # cells along a side of the motion patch that a token has
_OCTAVES = 4  # of the Fourier features of a position


def pixels(picture: UInt8[Array, "..."], dtype) -> Float[Array, "..."]:
    """Maps bytes to `[-1, 1]`; integers up to the one division, so that every way of compiling it rounds alike."""
    return ((2 * picture.astype(jnp.int32) - 255).astype(jnp.float32) / 255.0).astype(dtype)


def crops(
    frames: UInt8[Array, "T H W 3"], tick: Int32[Array, "N"], centre_px: Int32[Array, "N 2"], crop_px: int
) -> UInt8[Array, "N h w 3"]:
    """Cuts squares of `crop_px` around centres; outside the frame its rim is repeated."""
    half = crop_px // 2
    padded = jnp.pad(frames, [(0, 0), (half, half), (half, half), (0, 0)], mode="edge")
    cut = lambda t, at: jax.lax.dynamic_slice(padded, (t, at[0], at[1], 0), (1, crop_px, crop_px, 3))[0]
    return jax.vmap(cut)(tick, centre_px)


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


def motion_patches(
    maps: Int32[Array, "T Y X 10"], tick: Int32[Array, "N"], cell: Int32[Array, "N 2"]
) -> Int32[Array, "N 5 5 10"]:
    """The motion around cells, zero outside the picture."""
    half = _AROUND // 2
    padded = jnp.pad(maps, [(0, 0), (half, half), (half, half), (0, 0)])
    size = (1, _AROUND, _AROUND, maps.shape[-1])
    cut = lambda t, at: jax.lax.dynamic_slice(padded, (t, at[0], at[1], 0), size)[0]
    return jax.vmap(cut)(tick, cell)


def _scaled(patches: Int32[Array, "... 10"]) -> Float[Array, "... 10"]:
    """Brings saliency, vectors (plane pixels a tick) and residuals to about unit scale."""
    patches = patches.astype(jnp.float32)
    maps, residual = rearrange(patches[..., :-1], "... (t c) -> ... t c", c=MAP_CHANNELS), patches[..., -1:]
    saliency, vector = maps[..., 0], rearrange(maps[..., 1:], "... t c -> ... (t c)")
    level = lambda grey: jnp.log1p(grey / 200.0)
    return jnp.concatenate([level(saliency), vector / 2.0, level(residual)], axis=-1)


@functools.lru_cache(maxsize=8)
def _fourier_table(side_px: int) -> np.ndarray:
    """Fourier features of every pixel position of a line, float32 `[side_px, 2 · octaves]`.

    Positions are integers, so a table (computed in float64) serves: a sine of 25 radians in float32 is off by 1e-6,
    and by a different one in every way of compiling it.
    """
    place = np.arange(side_px) / side_px * 2.0 - 1.0
    angles = place[:, None] * (np.pi * 2.0 ** np.arange(_OCTAVES))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def _fourier(centre_px: Int32[Array, "... 2"], side_px: int) -> Float[Array, "... 16"]:
    return jnp.asarray(_fourier_table(side_px))[centre_px].reshape(*centre_px.shape[:-1], -1)


class FlowEncoder(nn.Module):
    """Crops and motion to tokens, `[B, N, ...] -> [B, N, D]`."""

    config: TokenizerConfig

    @nn.compact
    def __call__(
        self,
        pictures: UInt8[Array, "B N h w 3"],
        motion: Int32[Array, "B N 5 5 10"],
        cell: Int32[Array, "B N 2"],
        centre_px: Int32[Array, "B N 2"],
        camera: Int32[Array, "B N 2"],
    ) -> Float[Array, "B N D"]:
        c, flow = self.config, self.config.flow
        dtype = jnp.dtype(c.dtype)
        batch, count = centre_px.shape[:2]
        cell_px = c.frame_px / c.motion.grid
        place = centre_px.astype(jnp.float32) / c.frame_px * 2.0 - 1.0
        offset = (centre_px - (cell + 0.5) * cell_px) / flow.crop_px
        parts = [place, offset, _fourier(centre_px, c.frame_px)]
        if flow.motion_features:
            parts += [_scaled(motion).reshape(batch, count, -1), camera.astype(jnp.float32) / 2.0]
        features = jnp.concatenate(parts, axis=-1).astype(dtype)
        token = dense(flow.width, ("patch", "embed"), name="features", dtype=dtype, use_bias=True)(features)

        picture = pixels(pictures, dtype)
        patches = patchify(jnp.concatenate([picture, silhouette(pictures, dtype)], axis=-1), flow.patch_px)
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
