"""How good is a codec? What its codes sound like beside the sound itself, and how much of its codebooks it uses.

Mel distance and log-spectral distance hear what ears hear; SI-SDR compares the waves themselves, which a codec at a
kilobit a second need not keep. *Unquantised* is the same codec without rounding to codes: the difference is what the
codebooks cost.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from data_pipelines.audio_track import AudioFormat, encode_audio
from data_pipelines.sound import SoundClip
from mmduplex_jax.codec.codec import Codec
from mmduplex_jax.codec.spectra import log_spectral_distance, mel_distance, perplexity, si_sdr
from mmduplex_jax.evals.evaluator import BATCH, UNSEEN_SEED, Metric, Report, apply_metrics
from mmduplex_jax.stages.codec.task import FULL_SCALE, CodecTask
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import PyTree

ROWS = ("codec", "unquantised")
SCORES = ("mel", "log_spectral_db", "si_sdr_db")


@dataclasses.dataclass(frozen=True)
class SoundResult:
    """What a codec did with a piece: what a metric is given.

    Attributes:
      key: of the piece.
      rate_hz: of the sound.
      samples: float32 [L], the piece.
      made: float32 [L], the sound of its codes.
      codes: int32 [S, J].
    """

    key: str
    rate_hz: int
    samples: np.ndarray
    made: np.ndarray
    codes: np.ndarray


class CodecEvaluator:
    """See `mmduplex_jax.evals.evaluator.Evaluator`."""

    def __init__(
        self,
        task: CodecTask,
        config: Any,
        tokenizer: TextTokenizer,
        *,
        batch: int = BATCH,
        seed: int = UNSEEN_SEED,
        metrics: Mapping[str, Metric] | None = None,
        codebooks: int | None = None,
        save_sound: str | None = None,
    ):
        """Compiles nothing yet; ValueError for a number of codes that the codec has not."""
        c = task.config
        self._codebooks = c.codebooks if codebooks is None else codebooks
        if not c.semantic_codebooks <= self._codebooks <= c.codebooks:
            raise ValueError(f"--codebooks={codebooks}: the codec has {c.semantic_codebooks} to {c.codebooks}")
        self._task, self._batch, self._metrics, self._folder = task, batch, metrics or {}, save_sound
        self._run = jax.jit(self._scores)

    def _scores(self, params: PyTree, true: Any) -> tuple[dict[str, Any], Any, Any]:
        c = self._task.config
        losses = self._task.losses
        run = lambda method, *inputs: Codec(c).apply({"params": params["codec"]}, *inputs, method=method)
        latents = run("latents", true)
        codes = run(lambda codec, x: codec.quantizer.encode(x, self._codebooks), latents)
        made = run("decode", codes)
        plain = run(lambda codec, x: codec.wave(codec.quantizer.unquantized(x)), latents)
        scores = {
            row: {
                "mel": mel_distance(true, sound, c.sample_rate_hz, losses.mel_windows, losses.mel_bands),
                "log_spectral_db": log_spectral_distance(true, sound),
                "si_sdr_db": si_sdr(true, sound),
            }
            for row, sound in zip(ROWS, (made, plain), strict=True)
        }
        return scores, made, codes

    def run(self, params: PyTree, records: Iterable[Any], number: int) -> Report:
        """Every score; ValueError where there is no piece."""
        results: list[SoundResult] = []
        scores: dict[str, dict[str, list[float]]] = {row: {score: [] for score in SCORES} for row in ROWS}
        waiting: list[SoundClip] = []

        def flush() -> None:
            rows = np.zeros((self._batch, self._task.form.samples), np.float32)
            for row, clip in zip(rows, waiting):
                row[:] = clip.samples.astype(np.float32) / FULL_SCALE
            found, made, codes = jax.device_get(self._run(params, jnp.asarray(rows)))
            for row, values in found.items():
                for score, value in values.items():
                    scores[row][score] += value[: len(waiting)].tolist()
            rate_hz = self._task.form.rate_hz
            results.extend(SoundResult(clip.key, rate_hz, rows[i], made[i], codes[i]) for i, clip in enumerate(waiting))
            waiting.clear()

        for clip in tqdm(records, total=number, desc="sound", unit="piece", leave=False, disable=None):
            waiting.append(clip)
            if len(waiting) == self._batch:
                flush()
        if waiting:
            flush()
        if not results:
            raise ValueError("there is no sound to evaluate on")
        c = self._task.config
        codes = np.concatenate([result.codes for result in results])
        counts = np.stack([np.bincount(book, minlength=c.codebook_size) for book in codes.T])
        report: Report = {
            row: {score: float(np.mean(v)) for score, v in found.items()} for row, found in scores.items()
        }
        report |= {
            "clips": len(results),
            "seconds": len(results) * self._task.form.length_s,
            "codebooks": self._codebooks,
            "kbit_per_s": self._codebooks * np.log2(c.codebook_size) * c.step_hz / 1000,
            "used": {
                "share": float((counts > 0).mean()),
                "perplexity": float(perplexity(counts).mean()),
                "of": c.codebook_size,
                "perplexities": perplexity(counts).tolist(),
            },
        }
        if self._folder is not None:
            save_sounds(results, self._folder)
        return report | {"metrics": apply_metrics(self._metrics, results)}


def save_sounds(results: Iterable[SoundResult], folder: str | Path) -> None:
    """Writes `0000_true.wav` and `0000_codec.wav` and so on, 16 bits."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, result in enumerate(results):
        for name, sound in (("true", result.samples), ("codec", result.made)):
            samples = np.clip(np.round(sound * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
            data = encode_audio(samples, AudioFormat("pcm", result.rate_hz))
            (Path(folder) / f"{number:04}_{name}.wav").write_bytes(data)


def format_table(report: Report) -> str:
    """The report for people."""
    used = report["used"]
    lines = [
        f"{report['clips']} pieces, {report['seconds']:.0f} s, {report['codebooks']} codes a step, "
        f"{report['kbit_per_s']:.2f} kbit/s",
        f"{'':<12}{'mel':>8}{'log-spectral':>15}{'SI-SDR':>11}",
    ]
    for row in ROWS:
        found = report[row]
        lines.append(f"{row:<12}{found['mel']:>8.3f}{found['log_spectral_db']:>12.2f} dB{found['si_sdr_db']:>8.2f} dB")
    lines.append(
        f"codebooks: {used['share']:.0%} of the entries are used; perplexity {used['perplexity']:.0f} of {used['of']}"
    )
    return "\n".join(lines)
