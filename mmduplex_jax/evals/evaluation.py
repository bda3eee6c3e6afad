"""Clips through the model, batch by batch: what it says by itself, and how likely it finds what should be said."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data_pipelines.geometry import shrink_frames
from data_pipelines.schema import Record
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.free_running import Live, make_decoder
from mmduplex_jax.evals.report import ClipResult
from mmduplex_jax.evals.speech import Splitter, delayed_slots, phrases_in
from mmduplex_jax.evals.spending import motion_by_tick
from mmduplex_jax.evals.teacher_forced import Forward, make_word_nll
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import PyTree

# Clips of many lengths are padded to whole multiples of this, so that few shapes are compiled.
_ROUND_TICKS = 25


class ClipError(ValueError):
    """A clip that does not fit the model; says which and what to do."""


class Evaluation:
    """One model, ready to be run over clips."""

    def __init__(
        self,
        live: Live,
        forward: Forward,
        tokenizer: TextTokenizer,
        clock: Clock,
        frame_px: int,
        split: Splitter,
        *,
        delay_steps: int,
        pad_bias: float = 0.0,
        batch_size: int = 32,
    ):
        """Takes the model apart; nothing is compiled yet.

        Args:
          live: the model's live step.
          forward: its teacher-forced pass.
          tokenizer: its words.
          clock: of the model; the clips must have the same.
          frame_px: side of the frames that the model takes; larger ones are shrunk.
          split: cuts words into phrases and reads them.
          delay_steps: steps that the text runs behind the picture.
          pad_bias: added to PAD's logit: more is quieter.
          batch_size: clips that are decoded at a time.
        """
        self._decode = make_decoder(live, clock)
        self._word_nll = make_word_nll(forward, tokenizer.pad_id, tokenizer.word_id, tokenizer.start_id)
        self._tokenizer, self._clock, self._frame_px, self._split = tokenizer, clock, frame_px, split
        self._delay_steps, self._pad_bias, self._batch_size = delay_steps, pad_bias, batch_size

    def run(self, params: PyTree, records: Iterable[Record]) -> Iterator[tuple[list[ClipResult], tuple[float, int]]]:
        """Yields, of each batch, a result a clip, and the words' summed NLL with the number of tokens in it.

        The last batch is filled up with clips of the one before, so that its shape is not compiled anew and so that a
        clip's neighbour in the batch is always another clip; what fills it is not counted.

        Raises:
          ClipError: a clip does not have the model's clock or frame size.
        """
        before: list[Record] = []
        iterator = iter(records)
        while batch := list(itertools.islice(iterator, self._batch_size)):
            for record in batch:
                self._check(record)
            filler = before[: self._batch_size - len(batch)] if before else []
            yield self._run_batch(params, [*batch, *filler], len(batch))
            before = batch

    def _run_batch(
        self, params: PyTree, records: Sequence[Record], counted: int
    ) -> tuple[list[ClipResult], tuple[float, int]]:
        stride = self._clock.video_stride
        ticks = -(-max(record.num_ticks for record in records) // _ROUND_TICKS) * _ROUND_TICKS
        frames = np.stack([_lengthened(shrink_frames(record.frames, self._frame_px), ticks) for record in records])
        decoded = self._decode(params, frames, self._delay_steps, self._pad_bias)
        true_slots = np.full((len(records), ticks * stride), self._tokenizer.pad_id, np.int32)
        results = []
        for row, record in enumerate(records):
            steps = record.num_ticks * stride
            true_slots[row, :steps] = delayed_slots(
                record.words, self._tokenizer, self._clock, steps, self._delay_steps
            )
            if row < counted:
                results.append(
                    ClipResult(
                        duration_s=self._clock.step_time_s(steps),
                        events=record.events,
                        said=self._phrases(decoded.slots[row, :steps]),
                        oracle=self._phrases(true_slots[row, :steps]),
                        video_tokens=decoded.video_tokens[row, : record.num_ticks],
                        motion=motion_by_tick(record.frames),
                    )
                )
        nll = self._word_nll(params, frames, true_slots, np.arange(len(records)) < counted, self._delay_steps)
        return results, nll

    def _phrases(self, slots: np.ndarray):
        return phrases_in(slots, self._tokenizer, self._clock, self._split)

    def _check(self, record: Record) -> None:
        if record.clock != self._clock:
            raise ClipError(
                f"{record.key} has {record.clock}, the model {self._clock}: evaluate on data prepared with the model's "
                "clock"
            )
        if record.frame_px < self._frame_px:
            raise ClipError(
                f"{record.key} has frames of {record.frame_px} px, the model takes {self._frame_px}: evaluate on data "
                "prepared with the model's frame_px or more"
            )


def _lengthened(frames: np.ndarray, ticks: int) -> np.ndarray:
    """`[T, ...]` to `[ticks, ...]`: the last picture stays. Nothing of it is counted, since the model is causal."""
    return np.concatenate([frames, np.repeat(frames[-1:], ticks - len(frames), axis=0)])
