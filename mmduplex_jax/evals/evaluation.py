"""Clips through the model, batch by batch: what it says by itself, and how likely it finds what should be said."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.geometry import check_shrinks, shrink_frames
from data_pipelines.packing import pack_spoken
from data_pipelines.schema import Record, Word
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.evals.free_running import Live, make_decoder
from mmduplex_jax.evals.report import ClipResult, motion_by_tick
from mmduplex_jax.frame_size import FrameSize, frame_size
from mmduplex_jax.models.dual_stream import shifted
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree, UInt8
from mmduplex_jax.word_decoder import decode_words

# Clips of many lengths are padded to whole multiples of this, so that few shapes are compiled.
_ROUND_TICKS = 25
# Words in order, `(text, seconds)` each, to phrases `(attributes or None, seconds, text)`: the grammar of a clip.
Splitter = Callable[[Sequence[tuple[str, float]]], Sequence[tuple[tuple[str, str, str] | None, float, str]]]
# `(params, frames, slots_in, delay) -> logits`: a model's teacher-forced pass over whole clips.
Forward = Callable[[PyTree, Array, Array, Array], Float[Array, "B S V"]]


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
        frame_px: FrameSize,
        splitter_of: Callable[[Record], Splitter],
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
          frame_px: height and width of the frames that the model takes; larger ones are shrunk.
          splitter_of: a clip's grammar: what cuts words into phrases and reads them.
          delay_steps: steps that the text runs behind the picture.
          pad_bias: added to PAD's logit: more is quieter.
          batch_size: clips that are decoded at a time.
        """
        self._decode = make_decoder(live, clock)
        self._word_nll = make_word_nll(forward, tokenizer)
        self._tokenizer, self._clock, self._splitter_of = tokenizer, clock, splitter_of
        self._frame_px = frame_size(frame_px)
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
                split = self._splitter_of(record)
                spoken, oracle = (self._words(slots[row, :steps]) for slots in (decoded.slots, true_slots))
                results.append(
                    ClipResult(
                        duration_s=self._clock.step_time_s(steps),
                        events=record.events,
                        said=_phrases(spoken, split),
                        oracle=_phrases(oracle, split),
                        video_tokens=decoded.video_tokens[row, : record.num_ticks],
                        motion=motion_by_tick(record.frames),
                        key=record.key,
                        words=record.words,
                        spoken=spoken,
                        oracle_words=oracle,
                    )
                )
        nll = self._word_nll(params, frames, true_slots, np.arange(len(records)) < counted, self._delay_steps)
        return results, nll

    def _words(self, slots: np.ndarray) -> list[Word]:
        return [
            Word(word.text, word.t_emit_s, ends_sentence=bool(word.ends_sentence))
            for word in decode_words(slots, self._tokenizer, self._clock)
        ]

    def _check(self, record: Record) -> None:
        if record.clock != self._clock:
            raise ClipError(
                f"{record.key} has {record.clock}, the model {self._clock}: evaluate on data prepared with the model's "
                "clock"
            )
        try:
            check_shrinks(record.frame_px, self._frame_px)
        except ValueError as error:
            raise ClipError(f"{record.key}: {error}") from error


def _lengthened(frames: np.ndarray, ticks: int) -> np.ndarray:
    """`[T, ...]` to `[ticks, ...]`: the last picture stays. Nothing of it is counted, since the model is causal."""
    return np.concatenate([frames, np.repeat(frames[-1:], ticks - len(frames), axis=0)])


def phrases_in(slots: np.ndarray, tokenizer: TextTokenizer, clock: Clock, split: Splitter) -> list[Phrase]:
    """The phrases in a clip's slots, timed by the step at which their first word was said.

    The words are those that a viewer of the stream sees (`word_decoder`), also where a model leaves a mark out.

    Args:
      slots: int32 `[S]` from the clip's first step on, on the stream's clock (the delay is in them).
      tokenizer: of the slots.
      clock: what a step is in seconds.
      split: cuts words into phrases and reads them.
    """
    return _phrases([Word(word.text, word.t_emit_s) for word in decode_words(slots, tokenizer, clock)], split)


def _phrases(words: Sequence[Word], split: Splitter) -> list[Phrase]:
    return [
        Phrase(attributes, start_s, text)
        for attributes, start_s, text in split([(word.text, word.start_s) for word in words])
    ]


def delayed_slots(
    words: Sequence[Word], tokenizer: TextTokenizer, clock: Clock, num_steps: int, delay_steps: int
) -> np.ndarray:
    """The commentator's words as int32 `[num_steps]` slots, said `delay_steps` late, as a perfect model says them."""
    if not 0 <= delay_steps < num_steps:
        raise ValueError(f"a delay of {delay_steps} steps does not fit into a clip of {num_steps} steps")
    slots = np.full(num_steps, tokenizer.pad_id, np.int32)
    slots[delay_steps:] = pack_spoken(words, tokenizer, clock, num_steps - delay_steps).packed.slots
    return slots


def make_word_nll(forward: Forward, tokenizer: TextTokenizer) -> Callable[..., tuple[float, int]]:
    """A compiled function `(params, frames, slots, counted, delay_steps) -> (summed NLL in nats, number of tokens)`.

    `slots` int32 `[B, S]` are what should be said, with the delay in them; `counted` bool `[B]` says which rows count.
    Of those, the words' tokens do, marks (and what stands for words that cannot be spelled) do not; so training has it
    in its `word_nll`.
    """

    @jax.jit
    def run(
        params: PyTree,
        frames: UInt8[Array, "B T H W C"],
        slots: Int32[Array, "B S"],
        counted: Bool[Array, "B"],
        delay: Int32[Array, "B"],
    ) -> tuple[Float[Array, ""], Int32[Array, ""]]:
        logits = forward(params, frames, shifted(slots, tokenizer.start_id), delay).astype(jnp.float32)
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), slots[..., None], axis=-1)[..., 0]
        words = (slots < tokenizer.base_vocab_size) & counted[:, None]
        return jnp.where(words, nll, 0.0).sum(), words.sum(dtype=jnp.int32)

    def word_nll(
        params: PyTree, frames: np.ndarray, slots: np.ndarray, counted: np.ndarray, delay_steps: int
    ) -> tuple[float, int]:
        total, count = run(params, frames, slots, counted, jnp.full((len(frames),), delay_steps, jnp.int32))
        return float(total), int(count)

    return word_nll


def mean_nll(parts: Sequence[tuple[float, int]]) -> float | None:
    """Nats a token over all batches; None where no word was spoken."""
    tokens = sum(count for _, count in parts)
    return sum(total for total, _ in parts) / tokens if tokens else None
