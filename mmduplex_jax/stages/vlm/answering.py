"""A model of stage `vlm` answers questions about a few frames of a video, with the question behind them.

It sees as many frames as it was trained with, where LongVideoBench's loader takes them (but for rounding to a picture),
and between them the subtitles that this loader shows (`longvideobench.interleave`). Of options the one is chosen whose
tokens are likeliest behind the question, by the mean of their log-likelihoods; an open answer is decoded greedily.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.geometry import FrameFitter
from data_pipelines.moments import pictures_at
from data_pipelines.pairs import end_of_text
from data_pipelines.video_source import VideoError
from data_pipelines.words import split_words
from mmduplex_jax.evals.benchmarks.longvideobench import interleave
from mmduplex_jax.evals.benchmarks.protocol import (
    SCORES,
    WORDS_LEFT_OUT,
    BenchmarkError,
    Item,
    Prediction,
    UnanswerableError,
    UnreadableVideoError,
    written_choice,
)
from mmduplex_jax.frame_size import fit_of, frame_size
from mmduplex_jax.stages.vlm.task import VlmTask
from mmduplex_jax.text_tokenizer import TextTokenizer, UnknownWordError
from mmduplex_jax.typing import Array, Float, Int32, PyTree, UInt8

# Texts are as long as a multiple of this.
_PIECE = 64


class VlmAnswerer:
    """Answers with one model, one question at a time (see the module's docstring)."""

    def __init__(self, task: VlmTask, params: PyTree, config: Any, tokenizer: TextTokenizer, *, subtitles: bool = True):
        """Makes ready; the first question compiles.

        Args:
          task: the model's.
          params: its parameters, unboxed.
          config: of its training.
          tokenizer: its words.
          subtitles: whether it gets those of a video.
        """
        self._subtitles = subtitles
        self._params, self._tokenizer, self._config = jax.device_put(params), tokenizer, task.config
        self._fitted = FrameFitter(frame_size(config.frame_px), fit_of(config))
        # Tokens of frames and text that there is room for: the last is never read.
        self._room = task.config.language.text.window_steps + 1
        allowed = np.arange(task.config.language.vocab_size) < tokenizer.base_vocab_size
        allowed[end_of_text(tokenizer)] = True

        def read(
            params: PyTree, frames: UInt8[Array, "1 T H W 3"], sequence: Int32[Array, "1 S"]
        ) -> tuple[Float[Array, "S-1"], Int32[Array, "S-1"]]:
            """Of every token but the first its log-likelihood (where it is text), and the likeliest in its place."""
            inputs = (task.normalised(frames), sequence)
            logits = task.model.apply({"params": params}, *inputs, method="mixed_logits")[0]
            ids = jnp.maximum(sequence[0, 1:], 0)
            likelihoods = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, None], axis=1)[:, 0]
            vocabulary = logits[:, : len(allowed)]
            return likelihoods, jnp.where(allowed, vocabulary, -jnp.inf).argmax(axis=-1).astype(jnp.int32)

        self._read = jax.jit(read)

    def answer(self, item: Item) -> Prediction:
        """See `Answerer.answer`."""
        if item.video is None:
            raise BenchmarkError(f"{item.key}: its video is not there; see docs/benchmarks.md")
        if not item.question or item.listens_until_s is not None:
            raise UnanswerableError(f"{item.key}: a model that sees some frames says nothing on its own")
        question = self._tokens(item.question, f"{item.key}, question")
        options = [self._tokens(option, f"{item.key}, option {option!r}") for option in item.options]
        times_s = self._times_s(item)
        shown, left_out = self._shown(item, times_s)
        before = [*shown, *question]
        longest = len(before) + max(map(len, options), default=self._config.length)
        if longest > self._room:
            text = len(shown) - self._config.prefix
            subtitles = f", {text} of them subtitles (--subtitles=no asks without)" if text else ""
            raise UnanswerableError(
                f"{item.key}: frames, question and answer take {longest} tokens{subtitles}, and there is room for "
                f"{self._room}"
            )
        try:
            frames = self._frames(item, times_s)
        except VideoError as error:
            raise UnreadableVideoError(f"{item.key}: {error}") from error
        facts: dict[str, Any] = {WORDS_LEFT_OUT: left_out} if left_out else {}
        if not options:
            return Prediction(self._decode(frames, before), tokens=self._config.prefix, facts=facts)
        scores = []
        for option in options:
            likelihoods, _ = self._read(self._params, frames, self._padded([*before, *option]))
            scores.append(float(np.mean(np.asarray(likelihoods)[len(before) - 1 : len(before) - 1 + len(option)])))
        chosen = written_choice(item, int(np.argmax(scores)))
        return Prediction(chosen, tokens=self._config.prefix, facts={SCORES: scores, **facts})

    def _times_s(self, item: Item) -> list[float]:
        """When frames are looked at: one a second at most, in equal steps; of a short video the last one again."""
        end_s = item.duration_s if item.asked_s is None else item.asked_s
        if end_s is None:
            raise UnanswerableError(f"{item.key}: the benchmark does not say how long the video is")
        number = self._config.frames
        shown = max(1, min(number, int(end_s - item.begin_s)))
        times_s = [item.begin_s + (end_s - item.begin_s) / shown * i for i in range(shown)]
        return times_s + [times_s[-1]] * (number - shown)

    def _shown(self, item: Item, times_s: Sequence[float]) -> tuple[list[int], int]:
        """The tokens of the frames (see `VlmModel.mixed_logits`), with subtitles between them; and how many of their
        words the vocabulary lacks.
        """
        tokens, left_out, per_frame = list[int](), 0, self._config.prefix // self._config.frames
        for one in interleave(times_s, item.subtitles if self._subtitles else ()):
            if isinstance(one, int):
                tokens += [-1 - (one * per_frame + number) for number in range(per_frame)]
                continue
            for word in split_words(one.text):
                try:
                    tokens += self._tokenizer.encode_word(word)
                except UnknownWordError:
                    left_out += 1
        return tokens, left_out

    def _frames(self, item: Item, times_s: Sequence[float]) -> np.ndarray:
        """uint8 `[1, T, H, W, 3]`: what is shown at these times."""
        assert item.video is not None
        pictures, pixel_aspect = pictures_at(item.video, item.video.name, times_s)
        return np.stack([self._fitted(one.frame, pixel_aspect, one.orientation) for one in pictures])[None]

    def _tokens(self, text: str, place: str) -> list[int]:
        """The ids of a text; UnanswerableError for a word that the vocabulary cannot spell."""
        ids: list[int] = []
        for word in split_words(text):
            try:
                ids += self._tokenizer.encode_word(word)
            except UnknownWordError as error:
                raise UnanswerableError(f"{place}: {error}") from error
        return ids

    def _padded(self, ids: Sequence[int]) -> np.ndarray:
        """A sequence and PAD behind it, which it does not see, so that few lengths are compiled."""
        length = min(self._room, -(-(len(ids) + 1) // _PIECE) * _PIECE)
        padded = np.full((1, length), self._tokenizer.pad_id, np.int32)
        padded[0, : len(ids)] = ids
        return padded

    def _decode(self, frames: np.ndarray, before: Sequence[int]) -> str:
        """What comes behind a question, as long as a caption may be."""
        ids = list(before)
        while len(ids) < min(self._room, len(before) + self._config.length):
            _, likeliest = self._read(self._params, frames, self._padded(ids))
            token = int(np.asarray(likeliest)[len(ids) - 1])
            if token == end_of_text(self._tokenizer):
                break
            ids.append(token)
        return self._tokenizer.decode_word(ids[len(before) :]) if len(ids) > len(before) else ""
