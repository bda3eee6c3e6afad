"""How good is a model of stage `clip`? Zero-shot retrieval beside chance, and classification on the built-in world."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from data_pipelines.pairs import middle_of, piece_around, spell, spread_frames
from data_pipelines.schema import Event, Record
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.evaluator import BATCH, UNSEEN_SEED, Metric, Report, apply_metrics, check_clock
from mmduplex_jax.stages.clip.task import ClipTask, pair_format
from mmduplex_jax.stages.clip.zero_shot import AT, classify, retrieval, world_prompts
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import PyTree


class PairResult(NamedTuple):
    """A pair through both towers: what a metric of stage `clip` is given, one a clip that has a text.

    Attributes:
      key: of the record.
      text: words.
      clip, words: float32 `[F]`, embeddings of length 1.
    """

    key: str
    text: tuple[str, ...]
    clip: np.ndarray
    words: np.ndarray


class ClipEvaluator:
    """Retrieval: of every record the middle piece (or utterance), as long as those trained on, with its text.

    Attributes: of every record in which events are known, the piece around each event.
    """

    def __init__(
        self,
        task: ClipTask,
        config: Any,
        tokenizer: TextTokenizer,
        *,
        batch: int = BATCH,
        seed: int = UNSEEN_SEED,
        metrics: Mapping[str, Metric] | None = None,
    ):
        """`batch` pieces are seen at a time; nothing depends on `seed`."""
        del seed
        self._task, self._config, self._tokenizer, self._batch = task, config, tokenizer, batch
        self._clock, self._metrics = Clock(**config.clock), metrics or {}
        encode = lambda method: lambda params, x: task.model.apply({"params": params}, x, method=method)
        see = encode("encode_clip")
        self._see = jax.jit(lambda params, frames: see(params, task.normalised(frames)))
        self._read = jax.jit(encode("encode_text"))

    def run(self, params: PyTree, records: Iterable[Record], number: int) -> Report:
        """Both towers over clips; see `mmduplex_jax.evals.evaluator.Evaluator`.

        Returns:
          `retrieval` (None where no piece has a text) and `attributes` (None where no event is known), see
          `zero_shot.py`.
        """
        num_ticks, form = self._clock.ticks_in(self._config.data.clip_s), pair_format(self._config)
        pieces: list[np.ndarray] = []
        texts: list[tuple[str, ...]] = []
        keys: list[str] = []
        around: list[np.ndarray] = []
        events: list[Event] = []
        looks = set()
        for record in tqdm(records, total=number, unit="clip", desc="evaluate", disable=None):
            check_clock(record, self._clock)
            middle, words = middle_of(record, num_ticks, form)
            if words:
                pieces.append(self._frames(record, middle))
                texts.append(tuple(words))
                keys.append(record.key)
            for event in record.events:
                piece = piece_around(self._clock.tick_at(event.t_s), num_ticks, record.num_ticks)
                around.append(self._frames(record, piece))
                events.append(event)
                looks.add(record.provenance.get("look"))
        report: Report = {"retrieval": None, "attributes": None}
        pairs: list[PairResult] = []
        if texts:
            numbers = {text: row for row, text in enumerate(dict.fromkeys(texts))}
            labels = np.array([numbers[text] for text in texts])
            clips, read = self._clips(params, pieces), self._texts(params, texts)
            report["retrieval"] = retrieval(clips, read, labels)
            pairs = [PairResult(*row) for row in zip(keys, texts, clips, read, strict=True)]
        if events:
            prompts = world_prompts("rich" if "rich" in looks else "plain")
            vectors = self._texts(params, [prompt.words for prompt in prompts])
            report["attributes"] = classify(self._clips(params, around), events, prompts, vectors)
        return report | {"metrics": apply_metrics(self._metrics, pairs)}

    def _frames(self, record: Record, ticks: range) -> np.ndarray:
        """uint8 `[T, H, W, 3]` as the model was trained."""
        try:
            return spread_frames(record, ticks, self._task.time.frames, self._config.frame_px)
        except ValueError as error:
            raise ValueError(f"{record.key}: {error}") from error

    def _clips(self, params: PyTree, clips: Sequence[np.ndarray]) -> np.ndarray:
        """float32 `[N, F]`."""
        return self._in_batches(lambda rows: self._see(params, rows), np.stack(clips))

    def _texts(self, params: PyTree, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[N, F]`."""
        ids = [spell(text, self._tokenizer, self._task.config.text.length)[0] for text in texts]
        return self._in_batches(lambda rows: self._read(params, rows), np.stack(ids))

    def _in_batches(self, embed: Any, rows: np.ndarray) -> np.ndarray:
        filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % self._batch, axis=0)])
        parts = [embed(filled[begin : begin + self._batch]) for begin in range(0, len(filled), self._batch)]
        return np.concatenate([np.asarray(part) for part in parts])[: len(rows)]


def format_table(report: Report) -> str:
    """The report as a person reads it."""
    lines = []
    if report["retrieval"] is None:
        lines.append("retrieval: no clip has a text")
    else:
        found = report["retrieval"]
        title = f"retrieval among {found['pairs']}"
        lines.append(f"{title:28}" + "".join(f"{f'R@{k}':>8}" for k in AT) + " mean rank")
        for name in ("clip_to_text", "text_to_clip"):
            for who, values in ((name, found[name]), ("  by chance", found[name]["chance"])):
                at = "".join(f"{values[f'r_at_{k}']:8.3f}" for k in AT)
                lines.append(f"{who:28}{at}{values['mean_rank']:10.1f}")
    if report["attributes"] is None:
        lines.append("attributes: these clips come without events, so nothing says what is right")
    else:
        lines += ["", f"{'zero-shot':28}{'accuracy':>8}{'chance':>8}{'most frequent':>15}{'events':>8}"]
        for name, values in report["attributes"].items():
            lines.append(
                f"{name:28}{values['accuracy']:8.3f}{values['chance']:8.3f}{values['most_frequent']:15.3f}"
                f"{values['events']:8d}"
            )
    return "\n".join(lines)
