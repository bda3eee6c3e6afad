"""The loss of a codec: its sound beside the true one, in spectra of many windows, and a discriminator where wanted.

The codebooks are averaged (`codec/quantizer.moved`); everything else is learned by gradients. The discriminator learns
in the same step: the codec's losses see it as it is, its own loss sees the decoded sound as it is.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines.sound import SoundFormat
from mmduplex_jax.codec.codec import Codec
from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.codec.discriminator import (
    Discriminator,
    DiscriminatorConfig,
    discriminator_loss,
    feature_loss,
    generator_loss,
)
from mmduplex_jax.codec.quantizer import Codebooks, Seen, moved, together
from mmduplex_jax.codec.spectra import SILENCE, mel_distance, stft_distance
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.train.task import LOSS_WEIGHT, TOKENS, Batch
from mmduplex_jax.typing import Array, Float, PyTree

FULL_SCALE = 32768  # of int16


@dataclasses.dataclass(frozen=True)
class CodecLosses:
    """`config.loss`: weights of the parts of the loss, and what they look at.

    Attributes:
      mel_weight, mel_windows, mel_bands: of `mel_distance`.
      stft_weight, stft_windows: of `stft_distance`.
      silence: magnitudes below it are all alike to both, of a full scale of 1. The slope of a logarithm is steepest in
        what nobody hears: where sound is digitally silent, making it so drowns out all else unless this is raised.
      hush: the same for moments in which the true sound has nothing above it. Between words it may be higher than
        within them, whose consonants are faint.
      wave_weight: of the mean distance of the samples themselves.
      commitment_weight: of the quantiser's commitment.
      adversarial_weight, feature_weight: of the discriminator's opinion and of feature matching; both 0: there is none.
      quantizer_dropout: the share of rows of which only the first codes of a step count, how many by chance.
      exact_rate: the share of rows that are not quantised.
      codebooks: of the other rows so many codes count; 0 for all.
      decay: of the codebooks' averages.
      restart_below: entries used less than this part of the mean begin anew.
    """

    mel_weight: float = 1.0
    mel_windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    mel_bands: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320)
    stft_weight: float = 1.0
    stft_windows: tuple[int, ...] = (512, 1024, 2048)
    silence: float = SILENCE
    hush: float = 0.0
    wave_weight: float = 0.1
    commitment_weight: float = 0.25
    adversarial_weight: float = 0.0
    feature_weight: float = 0.0
    quantizer_dropout: float = 0.5
    exact_rate: float = 0.0
    codebooks: int = 0
    decay: float = 0.99
    restart_below: float = 0.1

    def __post_init__(self):
        for name in ("mel_windows", "mel_bands", "stft_windows"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.mel_windows) != len(self.mel_bands):
            raise ValueError(
                f"config.loss.mel_windows has {len(self.mel_windows)} numbers and mel_bands {len(self.mel_bands)}: a "
                "number of bands for each window"
            )
        odd = [window for window in (*self.mel_windows, *self.stft_windows) if window < 8 or window % 4]
        if odd:
            raise ValueError(f"windows of spectra are multiples of 4 from 8 on, config.loss has {odd}")
        rates = {name: getattr(self, name) for name in ("quantizer_dropout", "exact_rate", "decay", "restart_below")}
        wrong = {name: value for name, value in rates.items() if not 0 <= value <= 1}
        if wrong or self.decay == 1:
            raise ValueError(f"config.loss has shares from 0 to 1 (decay below 1), got {wrong or {'decay': 1.0}}")

    @property
    def is_adversarial(self) -> bool:
        return bool(self.adversarial_weight or self.feature_weight)


@dataclasses.dataclass(frozen=True)
class CodecTask:
    """Stage `codec`.

    Attributes:
      config: of the codec.
      losses: of the loss.
      discriminator: of the discriminator; None without one.
      form: of the pieces of sound.
      averaged: see `train.task.AveragingTask`.
    """

    config: CodecConfig
    losses: CodecLosses
    discriminator: DiscriminatorConfig | None
    form: SoundFormat
    averaged: str = r"codec/quantizer/\w+/(sums|usage|initialized)$"

    def init(self, rng: Array) -> PyTree:
        """Parameters of the codec, and of the discriminator where there is one."""
        samples = jnp.zeros((1, self.config.step_samples))
        keys = jax.random.split(rng)
        params = {"codec": Codec(self.config).init(keys[0], samples)["params"]}
        if self.discriminator is not None:
            params["discriminator"] = Discriminator(self.discriminator).init(keys[1], samples)["params"]
        return params

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Sound, and which rows hold any."""
        return {
            "samples": jax.ShapeDtypeStruct((batch_size, self.form.samples), jnp.int16),
            "valid": jax.ShapeDtypeStruct((batch_size,), jnp.bool_),
        }

    def loss(self, params: PyTree, batch: Batch, rng: Array) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """See `loss_and_sums`."""
        return self.loss_and_sums(params, batch, rng)[:2]

    def loss_and_sums(
        self, params: PyTree, batch: Batch, rng: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]], dict[str, Seen]]:
        """The loss, its parts, and what the codebooks were asked for."""
        c, k = self.losses, self.config
        true, valid = batch["samples"].astype(jnp.float32) / FULL_SCALE, batch["valid"]
        rows = valid.astype(jnp.float32)
        keys = jax.random.split(rng, 4)
        some = jax.random.randint(keys[0], rows.shape, k.semantic_codebooks, k.codebooks + 1)
        count = c.codebooks or k.codebooks
        codebooks = jnp.where(jax.random.uniform(keys[1], rows.shape) < c.quantizer_dropout, some, count)
        exact = jax.random.uniform(keys[2], rows.shape) < c.exact_rate
        made, commitment, _, seen = Codec(k).apply(
            {"params": params["codec"]}, true, codebooks, exact, valid, keys[3], method="learn"
        )
        mean = lambda values: (values * rows).sum() / jnp.maximum(rows.sum(), 1)
        found = {
            "mel": mean(mel_distance(true, made, k.sample_rate_hz, c.mel_windows, c.mel_bands, c.silence, c.hush)),
            "stft": mean(stft_distance(true, made, c.stft_windows, c.silence, c.hush)),
            "wave": mean(jnp.abs(true - made).mean(axis=1)),
            "commitment": commitment,
        }
        loss = sum(getattr(c, f"{name}_weight") * value for name, value in found.items())
        if self.discriminator is not None:
            judge = lambda params, sound: Discriminator(self.discriminator).apply({"params": params}, sound)
            own = params["discriminator"]
            still = jax.lax.stop_gradient(own)
            opinion = judge(still, made)
            found["adversarial"] = generator_loss(opinion, rows)
            found["feature"] = feature_loss(judge(still, true), opinion, rows)
            loss += c.adversarial_weight * found["adversarial"] + c.feature_weight * found["feature"]
            found["discriminator"] = discriminator_loss(judge(own, true), judge(own, jax.lax.stop_gradient(made)), rows)
            loss += found["discriminator"]
        used = {name: jnp.mean(books.counts > 0) for name, books in seen.items()}
        found |= {f"used/{name}": share for name, share in used.items()}
        steps = true.shape[1] // k.step_samples
        return loss, found | {LOSS_WEIGHT: rows.sum(), TOKENS: rows.sum() * steps}, seen

    def add_sums(self, sums: dict[str, Seen], more: dict[str, Seen]) -> dict[str, Seen]:
        """See `train.task.AveragingTask`."""
        return {name: together(seen, more[name]) for name, seen in sums.items()}

    def average(self, params: PyTree, sums: dict[str, Seen]) -> PyTree:
        """Parameters with codebooks that were moved by a batch."""
        codec = params["codec"]
        parts = {}
        for name, own in codec["quantizer"].items():
            books = Codebooks(*(own[field] for field in Codebooks._fields))
            parts[name] = own | moved(books, sums[name], self.losses.decay, self.losses.restart_below)._asdict()
        return params | {"codec": codec | {"quantizer": parts}}


def sound_format(config: Any) -> SoundFormat:
    """What a sample is: `config.data.clip_s` of sound, a whole number of steps (ValueError: it is not)."""
    codec = CodecConfig.from_mapping(config.codec)
    steps = config.data.clip_s * codec.step_hz
    if steps < 1 or abs(steps - round(steps)) > 1e-6:
        raise ValueError(
            f"config.data.clip_s ({config.data.clip_s}) is {steps:g} steps of {1 / codec.step_hz:g} s: it must be a "
            "whole number of them"
        )
    return SoundFormat(codec.sample_rate_hz, round(steps) * codec.step_samples)


def build_task(config: Any, tokenizer: TextTokenizer) -> CodecTask:
    """The task of a resolved config; ValueError where it contradicts itself."""
    losses = CodecLosses(**config.loss)
    discriminator = DiscriminatorConfig(**config.discriminator) if losses.is_adversarial else None
    return CodecTask(CodecConfig.from_mapping(config.codec), losses, discriminator, sound_format(config))
