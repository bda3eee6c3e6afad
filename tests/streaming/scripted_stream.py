"""A model that says a script and a source that shows numbers: for tests of everything around them."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from data_pipelines.decode import Picture, Tick
from data_pipelines.video_source import VideoError, VideoInfo
from mmduplex_jax.clock import Clock
from mmduplex_jax.models.live import StepOutput, TokenReport
from mmduplex_jax.streaming.pool import Session
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.tokenizer.bflow import FLOW

CLOCK = Clock()
FRAME_PX = 32


def words_that_may_go_on(*words: str) -> TextTokenizer:
    """One token a word, but for all that a stream knows another one may follow, as in most vocabularies."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unknown word>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return TextTokenizer(tokenizer)


TOKENIZER = words_that_may_go_on("red", "circle", "enters", "left", "<&>")


def script(said: dict[int, str], steps: int) -> np.ndarray:
    """int32 `[steps]` slots in which each word of `said` has its WORD mark at its step and its token at the next."""
    slots = np.full(steps, TOKENIZER.pad_id, np.int32)
    for step, text in said.items():
        slots[step] = TOKENIZER.word_id
        slots[step + 1] = TOKENIZER.encode_word(text)[0]
    return slots


class State(NamedTuple):
    step: jax.Array


class ScriptedLive:
    """Says `slots[step]`, and at each tick spends as many tokens as its frame's first pixel says, up to the cap."""

    def __init__(self, slots: np.ndarray, tokens_max: int = 8):
        self._slots, self._tokens_max = np.asarray(slots, np.int32), tokens_max

    def init_state(self, params, batch):
        return State(jnp.zeros((batch,), jnp.int32))

    def reset_row(self, params, state, row):
        return State(state.step.at[row].set(0))

    def live_step(self, params, state, frame, active, delay, pad_bias, *, cap):
        tick = (state.step % CLOCK.video_stride == 0)[:, None]
        rank = jnp.arange(self._tokens_max)[None]
        valid = active[:, None] & tick & (rank < jnp.minimum(frame[:, 0, 0, :1].astype(jnp.int32), cap[:, None]))
        number = valid.sum(axis=1, dtype=jnp.int32)
        row = 8 + (2 * rank + state.step[:, None]) % 16
        centre = jnp.stack([row, jnp.full_like(row, 16)], axis=-1)
        report = TokenReport(
            valid, number == self._tokens_max, number, jnp.where(valid[..., None], centre, 0), jnp.where(valid, 8, 0),
            jnp.full_like(valid, FLOW, jnp.int32),
        )  # fmt: skip
        token = jnp.asarray(self._slots)[jnp.minimum(state.step, len(self._slots) - 1)]
        logits = jnp.zeros((frame.shape[0], TOKENIZER.vocab_size))
        return State(state.step + active), StepOutput(token, state.step, logits, report)


def session(slots: np.ndarray, delay_steps: int = 0) -> Session:
    return Session(ScriptedLive(slots), {}, TOKENIZER, CLOCK, FRAME_PX, delay_steps=delay_steps)


class ScriptedReader:
    """Ticks whose frames hold the tokens to spend; breaks after them if told to."""

    def __init__(
        self,
        spend: Sequence[int],
        *,
        broken: str = "",
        live: bool = False,
        every_s: float = 0.0,
        with_pictures: bool = False,
    ):
        self.info = VideoInfo("scripted", 64, 48, 25.0, None, "none", live)
        self.length_s = 0.0
        self.closed = False
        self._spend, self._broken, self._every_s, self._with_pictures = spend, broken, every_s, with_pictures

    def ticks(self) -> Iterator[Tick]:
        for k, number in enumerate(self._spend):
            time.sleep(self._every_s)
            t_s = CLOCK.tick_time_s(k)
            self.length_s = t_s + CLOCK.tick_s
            frame = np.full((FRAME_PX, FRAME_PX, 3), number, np.uint8)
            yield Tick(k, t_s, frame, self._pictures(k) if self._with_pictures else ())
        if self._broken:
            raise VideoError(self._broken)

    def _pictures(self, k: int) -> tuple[Picture, ...]:
        """Pictures at 25 Hz, each with its number as its grey."""
        shown = range(1) if k == 0 else range(4 * (k - 1) + 1, 4 * k + 1)
        return tuple(Picture(i / 25, np.full((48, 64, 3), i % 256, np.uint8)) for i in shown)

    def close(self) -> None:
        self.closed = True
