"""The codec: whole sounds in training and preparation, step by step live, through the same parts."""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.codec.config import GATES, CodecConfig
from mmduplex_jax.codec.convolution import CausalConvolution, CausalUpsampling
from mmduplex_jax.codec.quantizer import Seen, SplitQuantizer
from mmduplex_jax.codec.seanet import SeanetDecoder, SeanetEncoder, Tails
from mmduplex_jax.codec.transformer import FrameTransformer, empty_frame_cache
from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree


class StreamState(NamedTuple):
    """What an encoder or a decoder remembers of `B` streams.

    Attributes:
      frame: int32 `[B]`, frames done.
      tails: of SEANet's convolutions, in the order in which they run.
      resampling: the tail of the convolution between frames and steps.
      cache: keys and values of the transformer.
    """

    frame: Int32[Array, "B"]
    tails: Tails
    resampling: Float[Array, "B P D"]
    cache: KVCache


class Codec(nn.Module):
    """Sound to codes and back. Sound is float32 from -1 to 1, `[B, L]`; L is a multiple of `step_samples`."""

    config: CodecConfig

    def setup(self):
        c = self.config
        resample = (c.frames_per_step * 2, c.frames_per_step)
        self.encoder, self.encoder_transformer = SeanetEncoder(c), FrameTransformer(c)
        self.downsample = CausalConvolution(c.width, *resample, use_bias=False, padding="replicate")
        self.quantizer = SplitQuantizer(c)
        self.upsample = CausalUpsampling(c.width, c.frames_per_step, by_channel=c.upsample_by_channel, use_bias=False)
        self.decoder_transformer, self.decoder = FrameTransformer(c), SeanetDecoder(c)

    def __call__(self, samples: Float[Array, "B L"]) -> tuple[Int32[Array, "B S J"], Float[Array, "B L"]]:
        """All codes of a sound, and the sound of these codes."""
        codes = self.encode(samples)
        return codes, self.decode(codes)

    # Whole sounds.

    def latents(self, samples: Float[Array, "B L"]) -> Float[Array, "B S D"]:
        """What is quantised.

        Raises:
          ValueError: L is no multiple of `step_samples` (`whole_steps` fills up).
        """
        return self._latents(samples, None, None)[0]

    def encode(self, samples: Float[Array, "B L"], codebooks: int | None = None) -> Int32[Array, "B S J"]:
        """The first `codebooks` codes of every step (None: all)."""
        return self.quantizer.encode(self.latents(samples), codebooks)

    def wave(self, latents: Float[Array, "B S D"]) -> Float[Array, "B L"]:
        """The sound of quantised latents."""
        return self._gated(self._wave(latents, None, None)[0])

    def decode(self, codes: Int32[Array, "B S J"]) -> Float[Array, "B L"]:
        """The sound of codes, of all or of the first few of every step."""
        return self.wave(self.quantizer.decode(codes))

    def learn(
        self,
        samples: Float[Array, "B L"],
        codebooks: Int32[Array, "B"],
        exact: Bool[Array, "B"],
        valid: Bool[Array, "B"],
        rng: Array,
    ) -> tuple[Float[Array, "B L"], Float[Array, ""], Int32[Array, "B S J"], dict[str, Seen]]:
        """The sound of codes before the gate, and what a training needs besides; see `SplitQuantizer.learn`."""
        latents, commitment, codes, seen = self.quantizer.learn(self.latents(samples), codebooks, exact, valid, rng)
        return self._wave(latents, None, None)[0], commitment, codes, seen

    # Streams.

    def encode_step(
        self, state: StreamState, samples: Float[Array, "B L"], active: Bool[Array, "B"], codebooks: int | None = None
    ) -> tuple[StreamState, Int32[Array, "B S J"]]:
        """The codes of the next samples of every stream, a step or some (as many as the cache has room for).

        Args:
          state: of `LiveCodec.encoder_state`, or the last call's.
          active: rows that take part; the others keep their state, and their codes mean nothing.
        """
        latents, moved = self._latents(samples, state, active)
        assert moved is not None  # as a state went in
        return moved, self.quantizer.encode(latents, codebooks)

    def decode_step(
        self, state: StreamState, codes: Int32[Array, "B S J"], active: Bool[Array, "B"]
    ) -> tuple[StreamState, Float[Array, "B L"]]:
        """The sound of the next codes of every stream; see `encode_step`. Silence for rows that are not active."""
        samples, moved = self._wave(self.quantizer.decode(codes), state, active)
        assert moved is not None  # as a state went in
        return moved, jnp.where(active[:, None], self._gated(samples), 0)

    def _latents(
        self, samples: Array, state: StreamState | None, active: Array | None
    ) -> tuple[Array, StreamState | None]:
        c = self.config
        if samples.shape[1] % c.step_samples or not samples.shape[1]:
            raise ValueError(
                f"a codec takes steps of {c.step_samples} samples, not {samples.shape[1]} samples: fill up with "
                "silence (codec.whole_steps)"
            )
        tails, cache, resampling, frame = _parts(state)
        x, tails = self.encoder(samples[..., None].astype(jnp.dtype(c.dtype)), tails)
        frames = x.shape[1]
        x, cache = self.encoder_transformer(x, cache, frame, active)
        latents, resampling = self.downsample(x, resampling, None if frame is None else frame == 0)
        return latents.astype(jnp.float32), _moved(state, active, frames, tails, resampling, cache)

    def _wave(
        self, latents: Array, state: StreamState | None, active: Array | None
    ) -> tuple[Array, StreamState | None]:
        tails, cache, resampling, frame = _parts(state)
        x, resampling = self.upsample(latents.astype(jnp.dtype(self.config.dtype)), resampling)
        frames = x.shape[1]
        x, cache = self.decoder_transformer(x, cache, frame, active)
        x, tails = self.decoder(x, tails)
        return x[..., 0].astype(jnp.float32), _moved(state, active, frames, tails, resampling, cache)

    def _gated(self, samples: Float[Array, "B L"]) -> Float[Array, "B L"]:
        """Sound with silence in the place of what a listener to the words would take for noise (`config.gate`).

        Each part is judged by itself, so that streams need no memory of it; at its ends the wave jumps by less than
        the gate and the next sample's step.
        """
        if not self.config.gate:
            return samples
        parts = samples.reshape(len(samples), -1, self.config.hop // GATES)
        heard = jnp.abs(parts).max(axis=-1, keepdims=True) >= self.config.gate
        return jnp.where(heard, parts, 0).reshape(samples.shape)


def _parts(state: StreamState | None) -> tuple[Tails | None, KVCache | None, Array | None, Array | None]:
    return (None,) * 4 if state is None else (state.tails, state.cache, state.resampling, state.frame)


def _moved(
    old: StreamState | None, active: Array | None, frames: int, tails: Tails, resampling: Array, cache: KVCache | None
) -> StreamState | None:
    """The state after `frames` frames of the active rows; of the others the old one."""
    if old is None or active is None or cache is None:
        return None
    kept = lambda new, was: jnp.where(active[:, None, None], new, was)
    return StreamState(
        jnp.where(active, old.frame + frames, old.frame),
        jax.tree.map(kept, tails, old.tails),
        kept(resampling, old.resampling),
        cache,  # it wrote the active rows only
    )


@dataclasses.dataclass(frozen=True)
class LiveCodec:
    """Pure functions over (params, state) of one codec; hashable, so that jit can close over it."""

    config: CodecConfig

    def encoder_state(self, batch: int, steps_at_once: int = 1) -> StreamState:
        """The state of `batch` streams that begin, of which each call brings at most `steps_at_once` steps."""
        samples = jax.ShapeDtypeStruct((batch, self.config.step_samples), jnp.float32)
        return self._state(lambda codec, x: codec.encoder(x[..., None]), samples, "downsample", steps_at_once)

    def decoder_state(self, batch: int, steps_at_once: int = 1) -> StreamState:
        """The state of `batch` streams of codes that begin; see `encoder_state`."""
        c = self.config
        frames = jax.ShapeDtypeStruct((batch, c.frames_per_step, c.width), jnp.dtype(c.dtype))
        return self._state(lambda codec, x: codec.decoder(x), frames, "upsample", steps_at_once)

    def encode_step(
        self,
        params: PyTree,
        state: StreamState,
        samples: Float[Array, "B L"],
        active: Bool[Array, "B"],
        codebooks: int | None = None,
    ) -> tuple[StreamState, Int32[Array, "B S J"]]:
        """See `Codec.encode_step`."""
        return Codec(self.config).apply({"params": params}, state, samples, active, codebooks, method="encode_step")

    def decode_step(
        self, params: PyTree, state: StreamState, codes: Int32[Array, "B S J"], active: Bool[Array, "B"]
    ) -> tuple[StreamState, Float[Array, "B L"]]:
        """See `Codec.decode_step`."""
        return Codec(self.config).apply({"params": params}, state, codes, active, method="decode_step")

    def reset_row(self, state: StreamState, row: Int32[Array, ""]) -> StreamState:
        """Begins the stream of a row anew; only that row is written."""

        def put(old: PyTree) -> PyTree:
            if isinstance(old, KVCache):
                return old.reset(row)
            zeros = jnp.zeros_like(jax.lax.slice_in_dim(old, 0, 1))
            return jax.lax.dynamic_update_slice_in_dim(old, zeros, row, 0)

        return jax.tree.map(put, state, is_leaf=lambda node: isinstance(node, KVCache))

    def _state(self, run, example: jax.ShapeDtypeStruct, resampling: str, steps_at_once: int) -> StreamState:
        c, batch, dtype = self.config, example.shape[0], jnp.dtype(self.config.dtype)
        # The tails have the shapes that a run over a whole sound leaves behind.
        run_it = lambda x: Codec(c).init_with_output(jax.random.key(0), x.astype(dtype), method=run)[0][1]
        tails = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(run_it, example))
        kept = c.frames_per_step if resampling == "downsample" else 1
        return StreamState(
            jnp.zeros(batch, jnp.int32),
            tails,
            jnp.zeros((batch, kept, c.width), dtype),
            empty_frame_cache(c, batch, steps_at_once),
        )


def whole_steps(config: CodecConfig, samples: np.ndarray) -> np.ndarray:
    """`[..., L]` filled up with silence to a whole number of steps, as moshi does it."""
    missing = -samples.shape[-1] % config.step_samples
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])


def param_shapes(config: CodecConfig) -> PyTree:
    """Boxed `ShapeDtypeStruct`s of a codec's parameters; computes nothing."""
    samples = jnp.zeros((1, config.step_samples))
    return jax.eval_shape(Codec(config).init, jax.random.key(0), samples)["params"]
