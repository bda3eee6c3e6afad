"""What `launch.evaluate` does with a model of stage `clip`: zero-shot retrieval, and classification on the world."""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from data_pipelines.pairs import middle_of, spell, spread_frames
from data_pipelines.schema import Event, Record
from data_pipelines.utterances import piece_around
from mmduplex_jax.evals.attributes import classify, world_prompts
from mmduplex_jax.evals.retrieval import AT, retrieval
from mmduplex_jax.stages.clip.task import ClipTask
from mmduplex_jax.stages.registry import pair_format
from mmduplex_jax.weights.trained import Trained


def evaluate_clip(trained: Trained, records: Iterable[Record], number: int, args: argparse.Namespace) -> dict[str, Any]:
    """Runs both towers over clips, with progress on stderr.

    Retrieval: of every record the middle piece (or utterance), as long as the pieces that were trained on, with its
    text. Attributes: of every record in which events are known, the piece around each event.

    Args:
      trained: a model of stage `clip`.
      records: the clips.
      number: of them.
      args: `batch` of `launch.evaluate`: pieces that are looked at at a time.

    Returns:
      `retrieval` (see `evals/retrieval.py`; None where no piece has a text) and `attributes` (see
      `evals/attributes.py`; None where no event is known), as JSON values.

    Raises:
      ValueError: a clip does not have the model's clock, its frames are too small, or a word cannot be spelled.
    """
    towers = _Towers(trained, args.batch)
    num_ticks, form = trained.clock.ticks_in(trained.config.data.clip_s), pair_format(trained.config)
    assert form is not None  # stage `clip` is about pairs
    pieces: list[np.ndarray] = []
    texts: list[tuple[str, ...]] = []
    around: list[np.ndarray] = []
    events: list[Event] = []
    looks = set()
    for record in tqdm(records, total=number, unit="clip", desc="evaluate", disable=None):
        if record.clock != trained.clock:
            raise ValueError(f"{record.key} has {record.clock}, the model {trained.clock}: prepare the clips with it")
        middle, words = middle_of(record, num_ticks, form)
        if words:
            pieces.append(towers.frames(record, middle))
            texts.append(tuple(words))
        for event in record.events:
            piece = piece_around(trained.clock.tick_at(event.t_s), num_ticks, record.num_ticks)
            around.append(towers.frames(record, piece))
            events.append(event)
            looks.add(record.provenance.get("look"))
    report: dict[str, Any] = {"retrieval": None, "attributes": None}
    if texts:
        numbers = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        labels = np.array([numbers[text] for text in texts])
        report["retrieval"] = retrieval(towers.see(pieces), towers.read(texts), labels)
    if events:
        prompts = world_prompts("rich" if "rich" in looks else "plain")
        vectors = towers.read([prompt.words for prompt in prompts])
        report["attributes"] = classify(towers.see(around), events, prompts, vectors)
    return report


class _Towers:
    """Both towers, compiled for one size of batch."""

    def __init__(self, trained: Trained, batch_size: int):
        assert isinstance(trained.task, ClipTask)
        task = trained.task
        self._task, self._trained, self._batch = task, trained, batch_size
        params = {"params": trained.params}
        self._see = jax.jit(lambda x: task.model.apply(params, task.normalised(x), method="encode_clip"))
        self._read = jax.jit(lambda ids: task.model.apply(params, ids, method="encode_text"))

    def frames(self, record: Record, ticks: range) -> np.ndarray:
        """uint8 `[T, H, W, 3]` as the model was trained."""
        try:
            return spread_frames(record, ticks, self._task.time.frames, self._trained.config.frame_px)
        except ValueError as error:
            raise ValueError(f"{record.key}: {error}") from error

    def see(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """float32 `[N, F]`."""
        return self._in_batches(self._see, np.stack(clips))

    def read(self, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[N, F]`."""
        length = self._task.config.text.length
        ids = [spell(text, self._trained.tokenizer, length)[0] for text in texts]
        return self._in_batches(self._read, np.stack(ids))

    def _in_batches(self, embed: Any, rows: np.ndarray) -> np.ndarray:
        filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % self._batch, axis=0)])
        parts = [embed(filled[begin : begin + self._batch]) for begin in range(0, len(filled), self._batch)]
        return np.concatenate([np.asarray(part) for part in parts])[: len(rows)]


def format_clip_table(report: dict[str, Any]) -> str:
    """The report as a table that a person reads."""
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
