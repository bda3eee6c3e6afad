"""How good is a model of stage `clip`? Zero-shot retrieval beside chance, and classification on the built-in world.

Does a clip find its text, and a text its clip? Which colour, which shape, what happened, on which side? The answers of
a question ("red", "green", ...) are described by the commentator's own phrases: every phrase that says "red", whatever
else it says. An answer's vector is the mean of its phrases' (the prompt ensemble of CLIP).
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from data_pipelines.pairs import middle_of, piece_around, spell, spread_frames
from data_pipelines.schema import Event, Record
from data_pipelines.world import WorldConfig
from data_pipelines.world.commentator import PATTERNS, SIDES, phrase
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.evaluator import BATCH, UNSEEN_SEED, Metric, Report, apply_metrics, check_clock
from mmduplex_jax.stages.clip.task import ClipTask, pair_format
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import Float, Int, PyTree

AT = (1, 5, 10)  # R@k
ATTRIBUTES = ("colour", "shape", "kind", "side")
_SIDED = ("enters", "leaves")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A phrase, and what it answers: attribute to value, for those of ATTRIBUTES that it speaks of."""

    words: tuple[str, ...]
    answers: Mapping[str, str]


def answers_of(event: Event) -> dict[str, str]:
    """What is true of an event; a side only of what enters or leaves."""
    colour, shape = event.subject.split()
    answers = {"colour": colour, "shape": shape, "kind": event.kind}
    return answers | ({"side": event.detail} if event.kind in _SIDED else {})


def world_prompts(look: str) -> list[Prompt]:
    """Every phrase that the commentator of a look may say (ValueError: the look is unknown)."""
    dynamics = WorldConfig(look=look).dynamics
    subjects = [f"{colour} {shape}" for colour in dynamics.colours for shape in dynamics.shapes]
    prompts = []
    for kind in dynamics.kinds:
        pattern = PATTERNS[kind][0]
        for subject in subjects:
            details: Sequence[str] = ("",)
            if "{side}" in pattern:
                details = SIDES
            elif "{o}" in pattern:
                details = [other for other in subjects if other != subject]
            elif "{c}" in pattern:
                details = [colour for colour in dynamics.colours if colour != subject.split()[0]]
            events = [Event(0.0, kind, subject, detail) for detail in details]
            prompts += [
                Prompt(phrase(event, variant), answers_of(event))
                for event in events
                for variant in range(dynamics.variants)
            ]
    return prompts


def classify(
    clips: Float[np.ndarray, "N F"],
    events: Sequence[Event],
    prompts: Sequence[Prompt],
    vectors: Float[np.ndarray, "P F"],
) -> dict[str, Any]:
    """How often the nearest answer is the right one, by attribute.

    Args:
      clips: embeddings of length 1, each of a clip around an event.
      vectors: their embeddings, of length 1.

    Returns:
      By attribute: `accuracy`, `chance` (one over the number of answers), `most_frequent` (what always giving the most
      frequent answer would reach), `events`, and `by_answer`, the accuracy among the events of each answer. An
      attribute that no event has is left out.

    Raises:
      ValueError: an event has a value that no prompt speaks of.
    """
    report = {}
    for attribute in ATTRIBUTES:
        rows = [row for row, event in enumerate(events) if attribute in answers_of(event)]
        if not rows:
            continue
        truth = np.array([answers_of(events[row])[attribute] for row in rows])
        classes = sorted({prompt.answers[attribute] for prompt in prompts if attribute in prompt.answers})
        unknown = sorted(set(truth) - set(classes))
        if unknown:
            raise ValueError(
                f"{attribute} {str(unknown[0])!r} is in the clips and in no prompt: name the look they are of"
            )
        means = [
            vectors[[prompt.answers.get(attribute) == name for prompt in prompts]].mean(axis=0) for name in classes
        ]
        centres = np.stack([mean / np.linalg.norm(mean) for mean in means])
        said = np.array(classes)[(clips[rows] @ centres.T).argmax(axis=1)]
        counts = {name: int((truth == name).sum()) for name in classes}
        report[attribute] = {
            "accuracy": float((said == truth).mean()),
            "chance": 1 / len(classes),
            "most_frequent": max(counts.values()) / len(rows),
            "events": len(rows),
            "by_answer": {name: float((said[truth == name] == name).mean()) for name, count in counts.items() if count},
        }
    return report


def ranks(scores: Float[np.ndarray, "N M"], right: Float[np.ndarray, "N M"]) -> Int[np.ndarray, "N"]:
    """The place, from 1, of the best right answer of each row; who is as good as it stands before it.

    Args:
      scores: of every row with every candidate.
      right: bool, which candidates are right answers; at least one a row.

    Raises:
      ValueError: a score is not finite, or a row has no right answer.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite: the model's parameters or inputs are not")
    if not right.any(axis=1).all():
        raise ValueError(f"row {int(np.argmin(right.any(axis=1)))} has no right answer")
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return 1 + ((scores >= best) & ~right).sum(axis=1)


def retrieval(
    clips: Float[np.ndarray, "N F"], texts: Float[np.ndarray, "N F"], labels: Int[np.ndarray, "N"]
) -> dict[str, Any]:
    """R@1, 5, 10 and the mean rank both ways, each with what guessing reaches.

    Args:
      clips: embeddings of length 1.
      texts: those of the texts that belong to them.
      labels: rows of one label have the same text; each is as right as the other.

    Returns:
      By direction ("clip_to_text", "text_to_clip"): `r_at_1`, …, `mean_rank`, and under `chance` the same for
      candidates in random order. Candidates are counted as they are, the same text as often as it comes.
    """
    right = labels[:, None] == labels
    scores = clips @ texts.T
    directions = {"clip_to_text": scores, "text_to_clip": scores.T}
    return {"pairs": len(labels)} | {
        name: _summary(ranks(values, right)) | {"chance": _chance(right)} for name, values in directions.items()
    }


def _summary(found: np.ndarray) -> dict[str, float]:
    return {f"r_at_{k}": float((found <= k).mean()) for k in AT} | {"mean_rank": float(found.mean())}


def _chance(right: np.ndarray) -> dict[str, float]:
    """The same numbers, expected of a random order: of `m` candidates `r` are right."""
    candidates, answers = right.shape[1], right.sum(axis=1)
    missed = np.ones(len(right))
    at = {}
    for place in range(min(max(AT), candidates)):
        # All of the first `place + 1` are wrong if the first `place` are and one of the other wrong ones comes next.
        missed = missed * np.clip(candidates - answers - place, 0, None) / (candidates - place)
        at[place + 1] = float((1 - missed).mean())
    last = at[max(at)]
    return {f"r_at_{k}": at.get(k, last) for k in AT} | {
        # Of wrong candidates, one in `r + 1` stands before the best right one.
        "mean_rank": float((1 + (candidates - answers) / (answers + 1)).mean())
    }


class PairResult(NamedTuple):
    """A pair through both towers: what a metric of stage `clip` is given, one a clip that has a text.

    Attributes:
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
        embed = encode("encode_clip")
        self._embed_clips = jax.jit(lambda params, frames: embed(params, task.normalised(frames)))
        self._embed_texts = jax.jit(encode("encode_text"))

    def run(self, params: PyTree, records: Iterable[Record], number: int) -> Report:
        """Both towers over clips; see `mmduplex_jax.evals.evaluator.Evaluator`.

        Returns:
          `retrieval` (None where no piece has a text) and `attributes`, of `classify` (None where no event is known).
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
        return self._in_batches(lambda rows: self._embed_clips(params, rows), np.stack(clips))

    def _texts(self, params: PyTree, texts: Sequence[Sequence[str]]) -> np.ndarray:
        """float32 `[N, F]`."""
        ids = [spell(text, self._tokenizer, self._task.config.text.length)[0] for text in texts]
        return self._in_batches(lambda rows: self._embed_texts(params, rows), np.stack(ids))

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
