"""The shape of a codec; as it stands Mimi's (Défossez et al., 2024; kyutai-labs/moshi e6a55d2, models/loaders.py)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mmduplex_jax.layers.dense import check_activation
from mmduplex_jax.layers.transformer import StackConfig

GATES = 4  # parts of a frame that `CodecConfig.gate` looks at, each by itself


@dataclasses.dataclass(frozen=True)
class CodecConfig:
    """Hashable; lengths are samples of sound, frames (samples over `hop`) or steps (one row of codes).

    Attributes:
      sample_rate_hz: of the sound, mono.
      ratios: by which the decoder's convolutions lengthen, in its order; the encoder shortens in the opposite order.
      filters: channels next to the sound; they double with every ratio.
      decoder_filters: the same of the decoder; 0 where both have as many.
      kernel, residual_kernel, last_kernel: taps of the first convolution, of the residual blocks' and of the last.
      residual_layers: residual blocks before every shortening (after every lengthening).
      dilation_base: the n-th of them dilates by this to the power n.
      compress: how many times narrower a residual block is inside.
      width: D, of the transformers and the latents.
      layers, heads, hidden, activation, norm_epsilon: of each of the two transformers.
      rope_base: of their rotary positions.
      layer_scale: where the factors of their residual branches begin.
      context_frames: how far they look back, the present frame included.
      frames_per_step: frames that a step of codes stands for.
      upsample_by_channel: whether the lengthening from steps to frames is of every channel by itself, as Mimi's is.
      codebooks: codes a step, at most.
      semantic_codebooks: the first of them, which have a quantiser of their own.
      codebook_size, codebook_width: entries of a codebook, and their width.
      gate: decoded sound is silent in each quarter of a frame (10 ms in Mimi) that stays below this, of a full scale
        of 1; 0 for none, as in Mimi. It is not learned through.
      remat: recompute the activations of blocks in the backward pass.
      dtype: compute dtype, "float32" or "bfloat16".
    """

    sample_rate_hz: int = 24_000
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    filters: int = 64
    decoder_filters: int = 0
    kernel: int = 7
    residual_kernel: int = 3
    last_kernel: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2
    width: int = 512
    layers: int = 8
    heads: int = 8
    hidden: int = 2048
    activation: str = "gelu"
    norm_epsilon: float = 1e-5
    rope_base: float = 10_000.0
    layer_scale: float = 0.01
    context_frames: int = 250
    frames_per_step: int = 2
    upsample_by_channel: bool = True
    codebooks: int = 32
    semantic_codebooks: int = 1
    codebook_size: int = 2048
    codebook_width: int = 256
    gate: float = 0.0
    remat: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "ratios", tuple(self.ratios))  # JSON has lists
        check_activation(self.activation, "the codec's activation")
        if not 0 < self.semantic_codebooks < self.codebooks:
            raise ValueError(
                f"a codec has semantic codebooks and others: semantic_codebooks ({self.semantic_codebooks}) must be "
                f"from 1 to codebooks ({self.codebooks}) - 1"
            )
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(f"width ({self.width}) must be heads ({self.heads}) times an even number")
        for name in ("filters", "decoder_filters"):
            if getattr(self, name) % self.compress:
                raise ValueError(f"{name} ({getattr(self, name)}) must be a multiple of compress ({self.compress})")
        if not 0 <= self.gate < 1:
            raise ValueError(f"gate ({self.gate}) is a share of full scale, from 0 to below 1")
        if self.gate and self.hop % GATES:
            raise ValueError(f"a gate looks at quarters of a frame: {self.hop} samples are no multiple of {GATES}")
        if self.frames_per_step < 2:
            raise ValueError(f"frames_per_step must be at least 2, got {self.frames_per_step}: 1 needs none")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "CodecConfig":
        """From a configuration (a ConfigDict); TypeError for a field that there is not."""
        return cls(**dict(values))

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return math.prod(self.ratios)

    @property
    def step_samples(self) -> int:
        """Samples a step; 1,920 in Mimi."""
        return self.hop * self.frames_per_step

    @property
    def step_hz(self) -> float:
        """Steps a second; 12.5 in Mimi."""
        return self.sample_rate_hz / self.step_samples

    @property
    def stack(self) -> StackConfig:
        """What the layers of both transformers share with those of `layers/transformer.py`: attention and its cache."""
        return StackConfig(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.heads,
            head_width=self.width // self.heads,
            hidden=self.hidden,
            rope_base=self.rope_base,
            norm_epsilon=self.norm_epsilon,
            window_steps=self.context_frames,
            dtype=self.dtype,
        )
