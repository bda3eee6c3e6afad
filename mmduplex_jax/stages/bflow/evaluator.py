"""What `launch.evaluate` does with a model of stage `bflow`: do its event tokens find what was said about them?"""

import argparse
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from data_pipelines.geometry import shrink_frames
from data_pipelines.schema import Record
from data_pipelines.utterances import utterances_of
from data_pipelines.world.commentator import split_phrases
from mmduplex_jax.evals.event_matching import TELL_DIRECTION, direction_scores, in_video, right_windows, two_way
from mmduplex_jax.models.dual_stream import TOKEN_CONTROLS
from mmduplex_jax.stages.bflow.task import BFlowTask
from mmduplex_jax.weights.trained import Trained

# Clips of many lengths are padded to whole multiples of this, phrases to multiples of that: few shapes are compiled.
_ROUND_TICKS, _ROUND_TOKENS = 25, 8
# Where nobody knows what happened, a phrase is what is said without such a pause.
_PAUSE_S = 0.5


class _Phrase(NamedTuple):
    """Something that is said: its words, when they begin on average, and, if it names an event, which kind and when."""

    words: tuple[str, ...]
    middle_s: float
    kind: str | None = None
    event_s: float = 0.0


def evaluate_bflow(
    trained: Trained, records: Iterable[Record], number: int, args: argparse.Namespace
) -> dict[str, Any]:
    """Runs tokenizer and heads over clips, forwards and backwards, with progress on stderr.

    Args:
      trained: a model of stage `bflow`.
      records: the clips.
      number: of them.
      args: `batch` of `launch.evaluate`.

    Returns:
      `in_video` and `reversal` (see `in_video` and `two_way` of `evals/event_matching.py`; no reversal where no event
      is known that tells the direction), each by control of the tokens; `directed`, the kinds of event that do tell;
      and `left_out`: how many `phrases` no window is about, how many `events` no window sees in one of the directions.
      JSON values.

    Raises:
      ValueError: there are fewer than two clips, a clip does not have the model's clock, its frames are too small, or a
        word cannot be spelled.
    """
    if number < 2:
        raise ValueError("give --clips of 2 or more: the control `shuffled` is another clip's tokens")
    heads = _Heads(trained)
    config, clock = heads.task.config, trained.clock
    reach_s = clock.step_time_s(config.align.reach_steps)
    window_steps = config.events.reader.window_steps
    scores: dict[str, list[np.ndarray]] = {control: [] for control in TOKEN_CONTROLS}
    directed: dict[str, list[tuple[float, float]]] = {control: [] for control in TOKEN_CONTROLS}
    right: list[np.ndarray] = []
    kinds: list[str] = []
    unseen_events = 0
    with tqdm(total=number, unit="clip", desc="evaluate", disable=None) as progress:
        for batch, counted in _batches(records, min(args.batch, number)):
            forward, backward = heads.see([r.frames for r in batch]), heads.see([r.frames[::-1] for r in batch])
            for row, record in enumerate(batch[:counted]):
                phrases = phrases_of(record)
                if not phrases:
                    continue
                steps = config.event_steps(record.num_ticks)
                centres_s = np.array([clock.step_time_s(int(step)) for step in config.bag_centres(record.num_ticks)])
                said = [" ".join(phrase.words) for phrase in phrases]
                right += list(right_windows(centres_s, said, [phrase.middle_s for phrase in phrases], reach_s))
                texts = heads.read(phrases)
                for control, events, events_backward in zip(TOKEN_CONTROLS, forward, backward):
                    fit = texts @ events[row, : len(steps)].T
                    fit_backward = texts @ events_backward[row, : len(steps)].T
                    scores[control] += list(fit)
                    for phrase, ahead, back in zip(phrases, fit, fit_backward):
                        if phrase.kind not in TELL_DIRECTION:
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
        "in_video": {control: in_video(scores[control], right) for control in TOKEN_CONTROLS},
        "reversal": {control: two_way(directed[control], kinds) for control in TOKEN_CONTROLS} if kinds else None,
        "directed": list(TELL_DIRECTION),
        "left_out": {"phrases": sum(not truth.any() for truth in right), "events": unseen_events},
    }


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
    for attributes, start_s, text in split_phrases([(word.text, word.start_s) for word in record.words]):
        meant = [event for event in record.events if event.attributes == attributes]
        if not meant:
            continue
        event = min(meant, key=lambda event: abs(event.t_s - start_s))
        words = tuple(text.split())
        starts_s = [word.start_s for word in record.words if word.start_s >= start_s][: len(words)]
        phrases.append(_Phrase(words, float(np.mean(starts_s)), event.kind, event.t_s))
    return phrases


class _Heads:
    """The model's two sides, compiled for as few shapes as possible."""

    def __init__(self, trained: Trained):
        assert isinstance(trained.task, BFlowTask)
        self.task = trained.task
        self._trained = trained
        model = trained.task.model
        # Parameters are arguments: as constants they would be compiled into the program.
        see = jax.jit(lambda params, frames: model.apply({"params": params}, frames, TOKEN_CONTROLS, method="see"))
        read = jax.jit(lambda params, ids, valid: model.apply({"params": params}, ids, valid, method="read"))
        self._see, self._read = functools.partial(see, trained.params), functools.partial(read, trained.params)

    def see(self, clips: Sequence[np.ndarray]) -> np.ndarray:
        """float32 `[K, B, X, F]`, by control; the windows of a clip come first, what fills it up after them."""
        ticks = -(-max(len(clip) for clip in clips) // _ROUND_TICKS) * _ROUND_TICKS
        side = self._trained.config.frame_px
        fill = lambda clip: np.concatenate([clip, np.repeat(clip[-1:], ticks - len(clip), axis=0)])
        return np.asarray(self._see(np.stack([fill(shrink_frames(clip, side)) for clip in clips])))

    def read(self, phrases: Sequence[_Phrase]) -> np.ndarray:
        """float32 `[P, F]`."""
        spell = self._trained.tokenizer.encode_word
        spelled = [[token for word in phrase.words for token in spell(word)] for phrase in phrases]
        length = -(-max(map(len, spelled)) // _ROUND_TOKENS) * _ROUND_TOKENS
        rows = -(-len(spelled) // _ROUND_TOKENS) * _ROUND_TOKENS
        ids, valid = np.zeros((rows, length), np.int32), np.zeros((rows, length), bool)
        for row, tokens in enumerate(spelled):
            ids[row, : len(tokens)], valid[row, : len(tokens)] = tokens, True
        return np.asarray(self._read(ids, valid))[: len(spelled)]


def format_bflow_table(report: dict[str, Any]) -> str:
    """The report as a table that a person reads."""
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
