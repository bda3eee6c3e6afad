"""Sound encoded once: the sound tracks of prepared records as a codec's codes, which a speaking model learns from."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.recoded import write_recoded
from data_pipelines.schema import Codes, Record
from data_pipelines.shards import WriteReport
from data_pipelines.sound import SoundFormat
from mmduplex_jax.codec.codec import Codec
from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.stages.encoding import weights_hash
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.codec import load_codec

# Steps are filled up to a multiple of this, so that records of many lengths are encoded by few programs.
_STEPS = 64
# Beginnings of the parts of a codec that only turn codes into sound.
_DECODER = ("decoder", "upsample")


class SoundCodesError(ValueError):
    """Sound that a codec cannot encode; says why."""


def codec_name(params: PyTree) -> str:
    """Names a codec by the parameters that decide its codes: one whose decoder was trained on has the same name."""
    return weights_hash({name: part for name, part in params.items() if not name.startswith(_DECODER)}, "")[:16]


class SoundEncoder:
    """A codec's encoder for whole records.

    Args:
      config: of the codec.
      params: of the codec, unboxed.
      codebooks: how many codes of each step are kept.
      batch: records at a time.

    Attributes:
      name: of the codec, by its parameters (`Codes.codec`).
      heard: records with sound so far.

    Raises:
      SoundCodesError: the codec has not so many codebooks.
    """

    def __init__(self, config: CodecConfig, params: PyTree, codebooks: int, batch: int):
        if not config.semantic_codebooks <= codebooks <= config.codebooks:
            raise SoundCodesError(
                f"--codebooks={codebooks}: this codec has {config.codebooks}, the first {config.semantic_codebooks} of "
                "them semantic, which all models need"
            )
        self.config, self.codebooks, self.batch = config, codebooks, batch
        self.name, self.heard = codec_name(params), 0
        self._params = jax.tree.map(jnp.asarray, params)

    def facts(self) -> dict[str, Any]:
        """What decides the codes, as JSON values."""
        return {"codec": self.name, "codebooks": self.codebooks}

    def __call__(self, records: Sequence[Record]) -> list[Codes | None]:
        """The codes of at most `batch` records, a row a step; of one without sound those that it has, or None.

        Raises:
          SoundCodesError: a record's steps are not the codec's, or it has other codes and no sound.
          VideoError: its sound does not decode.
        """
        c = self.config
        heard = [(number, record) for number, record in enumerate(records) if record.audio]
        self.heard += len(heard)
        for record in records:
            kept = None if record.audio else record.codes
            if kept is not None and (kept.codec, kept.values.shape[1]) != (self.name, self.codebooks):
                raise SoundCodesError(
                    f"{record.key} has {kept.values.shape[1]} codes a step of codec {kept.codec} and no sound of "
                    f"which codec {self.name} could make {self.codebooks}: encode the shards that still have the sound"
                )
        codes = [record.codes for record in records]
        if not heard:
            return codes
        steps = [record.clock.step_of_tick(record.num_ticks) for _, record in heard]
        samples = np.zeros((self.batch, -(-max(steps) // _STEPS) * _STEPS * c.step_samples), np.float32)
        for row, ((_, record), count) in enumerate(zip(heard, steps)):
            if abs(record.clock.step_hz - c.step_hz) > 1e-9 * c.step_hz:
                raise SoundCodesError(
                    f"{record.key} has {record.clock.step_hz:g} steps a second, the codec {c.step_hz:g}"
                )
            form = SoundFormat(c.sample_rate_hz, count * c.step_samples)
            samples[row, : form.samples] = form.read(record.audio or b"", record.key, 0.0) / 32768
        values = np.asarray(self._encode(self._params, samples), np.int16)
        for row, ((number, _), count) in enumerate(zip(heard, steps)):
            codes[number] = Codes(values[row, :count], self.name)
        return codes

    @functools.cached_property
    def _encode(self) -> Callable[[PyTree, np.ndarray], jax.Array]:
        codec, codebooks = Codec(self.config), self.codebooks
        return jax.jit(lambda params, samples: codec.apply({"params": params}, samples, codebooks, method="encode"))


def encode_sound(
    codec: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    codebooks: int = 0,
    batch: int = 4,
    on_records: Callable[[int], None] = lambda records: None,
) -> tuple[WriteReport, str]:
    """Writes prepared shards again, with a codec's codes in the place of their sound.

    Args:
      codec: its folder (`load_codec`).
      data: prepared shards whose records keep their sound.
      out: gets the shards with codes; gone on with where it stopped.
      codebooks: how many codes of each step are kept; 0 for all.
      batch: records at a time.
      on_records: called with how many records were done since the last call; those of files that are kept count.

    Returns:
      What was written, and the codec's name.

    Raises:
      SoundCodesError: the codec cannot encode the data, or none of it has sound.
      FileNotFoundError, ValueError: as of `load_codec`.
      ShardError: data cannot be read, or `out` not be written.
    """
    weights = load_codec(codec)
    encoder = SoundEncoder(weights.config, weights.params, codebooks or weights.config.codebooks, batch)
    report = write_recoded(data, out, encoder.facts(), encoder, batch=batch, on_records=on_records)
    if not report.kept and not encoder.heard:
        raise SoundCodesError(
            f"no record of {data} has sound, and {out} has them as they were: prepare with "
            "--config.speech.voice=VOICE, or --config.audio.keep=True where the videos have sound"
        )
    return report, encoder.name
