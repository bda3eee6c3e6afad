"""How good is a model of stage `bflow`? Which moment of its video is a phrase about, and which way does time run?"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from data_pipelines.geometry import shrink_frames
from data_pipelines.pairs import utterances_of
from data_pipelines.schema import Record
from data_pipelines.world.grammar import splitter_of
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.evaluator import BATCH, UNSEEN_SEED, Metric, Report, apply_metrics, check_clock
from mmduplex_jax.models.dual_stream import TOKEN_CONTROLS
from mmduplex_jax.stages.bflow.task import BFlowTask
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import Bool, Float, Int, PyTree

# Clips of many lengths are padded to whole multiples of this, phrases to multiples of that: few shapes are compiled.
_ROUND_TICKS, _ROUND_TOKENS = 25, 8
# Where nobody knows what happened, a phrase is what is said without such a pause.
_PAUSE_S = 0.5
# Events whose words are wrong of the clip played backwards: what enters, leaves; what stops, starts; what appears,
# vanishes. What bounces, collides, swerves or passes behind something does so either way; and "red square turns blue"
# and "blue square turns red" are the same words: a bag has no order.
DIRECTED_KINDS = ("appears", "enters", "leaves", "starts", "stops", "vanishes")


class _Phrase(NamedTuple):
    """Something that is said: its words, when they begin on average, and, if it names an event, which kind and when."""

    words: tuple[str, ...]
    middle_s: float
    kind: str | None = None
    event_s: float = 0.0


class PhraseResult(NamedTuple):
    """A phrase beside the event tokens of its clip: what a metric of stage `bflow` is given, one a phrase.

    Attributes:
      fit: float32 `[X]`, how well it fits each window of the clip.
      right: bool `[X]`, which windows it is about.
    """

    key: str
    words: tuple[str, ...]
    fit: np.ndarray
    right: np.ndarray


class BFlowEvaluator:
    """Tokenizer and heads over clips, forwards and backwards, compiled for as few shapes as possible."""

    def __init__(
        self,
        task: BFlowTask,
        config: Any,
        tokenizer: TextTokenizer,
        *,
        batch: int = BATCH,
        seed: int = UNSEEN_SEED,
        metrics: Mapping[str, Metric] | None = None,
    ):
        """`batch` clips are seen at a time; nothing depends on `seed`."""
        del seed
        self._task, self._tokenizer, self._batch, self._metrics = task, tokenizer, batch, metrics or {}
        self._clock, self._frame_px = Clock(**config.clock), config.frame_px
        model = task.model
        # Parameters are arguments: as constants they would be compiled into the program.
        self._compiled_events = jax.jit(
            lambda params, frames: model.apply({"params": params}, frames, TOKEN_CONTROLS, method="embed_events")
        )
        self._compiled_phrases = jax.jit(
            lambda params, ids, valid: model.apply({"params": params}, ids, valid, method="embed_phrases")
        )

    def run(self, params: PyTree, records: Iterable[Record], number: int) -> Report:
        """Clips through the model; see `mmduplex_jax.evals.evaluator.Evaluator`.

        Returns:
          `in_video` and `reversal` (see `in_video` and `two_way`; no reversal where no event is known that tells the
          direction), each by control of the tokens; `directed`, the kinds of event that do tell; and `left_out`: how
          many `phrases` no window is about, how many `events` no window sees in one of the directions.
        """
        if number < 2:
            raise ValueError("give --clips of 2 or more: the control `shuffled` is another clip's tokens")
        config, clock = self._task.config, self._clock
        results: list[PhraseResult] = []
        reach_s = clock.step_time_s(config.align.reach_steps)
        window_steps = config.events.reader.window_steps
        scores: dict[str, list[np.ndarray]] = {control: [] for control in TOKEN_CONTROLS}
        directed: dict[str, list[tuple[float, float]]] = {control: [] for control in TOKEN_CONTROLS}
        right: list[np.ndarray] = []
        kinds: list[str] = []
        unseen_events = 0
        with tqdm(total=number, unit="clip", desc="evaluate", disable=None) as progress:
            for batch, counted in _batches(records, min(self._batch, number)):
                for record in batch:
                    check_clock(record, clock)
                forward = self._embed_events(params, [record.frames for record in batch])
                backward = self._embed_events(params, [record.frames[::-1] for record in batch])
                for row, record in enumerate(batch[:counted]):
                    phrases = phrases_of(record)
                    if not phrases:
                        continue
                    steps = config.event_steps(record.num_ticks)
                    centres_s = np.array(
                        [clock.step_time_s(int(step)) for step in config.bag_centres(record.num_ticks)]
                    )
                    said = [" ".join(phrase.words) for phrase in phrases]
                    right += list(right_windows(centres_s, said, [phrase.middle_s for phrase in phrases], reach_s))
                    texts = self._embed_phrases(params, phrases)
                    results += [
                        PhraseResult(record.key, phrase.words, fit, truth)
                        for phrase, fit, truth in zip(
                            phrases, texts @ forward[0][row, : len(steps)].T, right[-len(phrases) :], strict=True
                        )
                    ]
                    for control, events, events_backward in zip(TOKEN_CONTROLS, forward, backward):
                        fit = texts @ events[row, : len(steps)].T
                        fit_backward = texts @ events_backward[row, : len(steps)].T
                        scores[control] += list(fit)
                        for phrase, ahead, back in zip(phrases, fit, fit_backward):
                            if phrase.kind not in DIRECTED_KINDS:
                                continue
                            at, last = clock.step_at(phrase.event_s), clock.step_of_tick(record.num_ticks - 1)
                            pair = direction_scores(ahead, back, steps, at, last, window_steps)
                            if pair is None:
                                unseen_events += control == TOKEN_CONTROLS[0]
                                continue
                            directed[control].append(pair)
                            if control == TOKEN_CONTROLS[0]:
                                kinds.append(phrase.kind)
                progress.update(counted)
        return {
            "metrics": apply_metrics(self._metrics, results),
            "in_video": {control: in_video(scores[control], right) for control in TOKEN_CONTROLS},
            "reversal": {control: two_way(directed[control], kinds) for control in TOKEN_CONTROLS} if kinds else None,
            "directed": list(DIRECTED_KINDS),
            "left_out": {"phrases": sum(not truth.any() for truth in right), "events": unseen_events},
        }

    def _embed_events(self, params: PyTree, clips: Sequence[np.ndarray]) -> np.ndarray:
        """float32 `[K, B, X, F]`, by control; the windows of a clip come first, what fills it up after them."""
        ticks = -(-max(len(clip) for clip in clips) // _ROUND_TICKS) * _ROUND_TICKS
        side = self._frame_px
        fill = lambda clip: np.concatenate([clip, np.repeat(clip[-1:], ticks - len(clip), axis=0)])
        return np.asarray(self._compiled_events(params, np.stack([fill(shrink_frames(clip, side)) for clip in clips])))

    def _embed_phrases(self, params: PyTree, phrases: Sequence[_Phrase]) -> np.ndarray:
        """float32 `[P, F]`."""
        spell = self._tokenizer.encode_word
        spelled = [[token for word in phrase.words for token in spell(word)] for phrase in phrases]
        length = -(-max(map(len, spelled)) // _ROUND_TOKENS) * _ROUND_TOKENS
        rows = -(-len(spelled) // _ROUND_TOKENS) * _ROUND_TOKENS
        ids, valid = np.zeros((rows, length), np.int32), np.zeros((rows, length), bool)
        for row, tokens in enumerate(spelled):
            ids[row, : len(tokens)], valid[row, : len(tokens)] = tokens, True
        return np.asarray(self._compiled_phrases(params, ids, valid))[: len(spelled)]


def format_table(report: Report) -> str:
    """The report as a person reads it."""
    lines = [f"{'tokens':44}" + "".join(f"{control:>10}" for control in TOKEN_CONTROLS) + "    chance     of"]
    found = report["in_video"]
    of = found["real"]
    if of["phrases"]:
        title = f"in-video event R@1, of {of['windows']:.1f} windows"
        values = "".join(f"{found[control]['r_at_1']:10.3f}" for control in TOKEN_CONTROLS)
        lines.append(f"{title:44}{values}{of['chance']:10.3f}{of['phrases']:7d}")
    else:
        lines.append("in-video event R@1: nothing is said in these clips")
    if report["reversal"] is None:
        lines.append("forward or backward: these clips come without events, so nothing says which words tell")
    else:
        found = report["reversal"]
        values = "".join(f"{found[control]['accuracy']:10.3f}" for control in TOKEN_CONTROLS)
        lines.append(f"{'forward or backward':44}{values}{0.5:10.3f}{found['real']['events']:7d}")
        for kind in found["real"]["by_kind"]:
            values = "".join(f"{found[control]['by_kind'][kind]:10.3f}" for control in TOKEN_CONTROLS)
            lines.append(f"  {kind:42}{values}")
    return "\n".join(lines)


def _batches(records: Iterable[Record], size: int) -> Iterator[tuple[list[Record], int]]:
    """Batches of one size, and how many of each count: the last is filled up with clips of the one before it."""
    before: list[Record] = []
    iterator = iter(records)
    while batch := list(itertools.islice(iterator, size)):
        yield batch + before[: size - len(batch)], len(batch)
        before = batch


def phrases_of(record: Record) -> list[_Phrase]:
    """What is said in a clip: where events are known, what names one of them; otherwise what is said in one go."""
    if not record.events:
        return [
            _Phrase(
                tuple(record.words[n].text for n in found), float(np.mean([record.words[n].start_s for n in found]))
            )
            for found in utterances_of(record, _PAUSE_S)
        ]
    phrases = []
    for attributes, start_s, text in splitter_of(record)([(word.text, word.start_s) for word in record.words]):
        meant = [event for event in record.events if event.attributes == attributes]
        if not meant:
            continue
        event = min(meant, key=lambda event: abs(event.t_s - start_s))
        words = tuple(text.split())
        starts_s = [word.start_s for word in record.words if word.start_s >= start_s][: len(words)]
        phrases.append(_Phrase(words, float(np.mean(starts_s)), event.kind, event.t_s))
    return phrases


def right_windows(
    centres_s: Float[np.ndarray, "X"], phrases: Sequence[str], middles_s: Sequence[float], reach_s: float
) -> Bool[np.ndarray, "P X"]:
    """Which windows of a video each of its phrases is about: those whose bag of words holds its middle.

    Args:
      centres_s: the middles of the windows' bags.
      phrases: what is said in the video; where the same is said twice, either time is right.
      reach_s: how far a bag reaches to either side.
    """
    near = np.abs(np.asarray(middles_s)[:, None] - centres_s) <= reach_s
    said = np.array(phrases, dtype=object)
    return np.array([near[said == phrase].any(axis=0) for phrase in phrases]).reshape(near.shape)


def in_video(scores: Sequence[Float[np.ndarray, "X"]], right: Sequence[Bool[np.ndarray, "X"]]) -> dict[str, Any]:
    """How often a phrase's best window of its video is one that it is about.

    Args:
      scores: of every phrase, those of the windows of its video.
      right: of every phrase, which of them it is about; a phrase without any takes no part.

    Returns:
      `r_at_1` (of windows that are equally good, each is taken with equal chance), `chance`, the same for a window
      drawn at random, `windows`, how many there are on average, and `phrases`, how many took part; the first three None
      where that is 0.
    """
    pairs = [(score, truth) for score, truth in zip(scores, right, strict=True) if truth.any()]
    if not pairs:
        return {"r_at_1": None, "chance": None, "windows": None, "phrases": 0}
    hits = [float(truth[score == score.max()].mean()) for score, truth in pairs]
    return {
        "r_at_1": float(np.mean(hits)),
        "chance": float(np.mean([truth.mean() for _, truth in pairs])),
        "windows": float(np.mean([len(truth) for _, truth in pairs])),
        "phrases": len(pairs),
    }


def after(event_steps: Int[np.ndarray, "X"], step: int, window_steps: int) -> Int[np.ndarray, "Y"]:
    """Which event tokens see what happens at `step`: those that stand there or less than `window_steps` after it."""
    since = event_steps - step
    return np.flatnonzero((since >= 0) & (since < window_steps))


def direction_scores(
    forward: Float[np.ndarray, "X"],
    backward: Float[np.ndarray, "X"],
    event_steps: Int[np.ndarray, "X"],
    step: int,
    last_step: int,
    window_steps: int,
) -> tuple[float, float] | None:
    """How well a phrase fits an event as it happened, and the event played backwards: the best of as many windows each.

    Args:
      forward: how well each window of the clip fits the phrase.
      backward: the same of the clip played backwards.
      event_steps: where windows end.
      step: when it happened.
      last_step: the step of the clip's last frame, which is the first one backwards.
      window_steps: how far back a window looks.

    Returns:
      Two scores; None where no window sees it one way or the other.
    """
    ahead, back = (after(event_steps, at, window_steps) for at in (step, last_step - step))
    number = min(len(ahead), len(back))
    if not number:
        return None
    return float(forward[ahead[:number]].max()), float(backward[back[:number]].max())


def two_way(scores: Sequence[tuple[float, float]], kinds: Sequence[str]) -> dict[str, Any]:
    """How often the clip as it was is preferred to the clip played backwards; half a point where both are as good.

    What looks at a clip without regard to the order of its frames has 0.5: both clips are the same to it.

    Args:
      scores: of every event, as `direction_scores` gives them.

    Returns:
      `accuracy` (None where there are no events), `chance`, `events`, and `by_kind`, of each kind.
    """
    points = np.array([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in scores])
    named = np.array(kinds, dtype=object)
    return {
        "accuracy": float(points.mean()) if len(points) else None,
        "chance": 0.5,
        "events": len(points),
        "by_kind": {kind: float(points[named == kind].mean()) for kind in sorted(set(kinds))},
    }
