"""A model of stage `vlm` answers questions about a few frames of a video, with the question as the begin of its text.

It sees as many frames as it was trained with, where LongVideoBench's loader takes them (but for rounding to a picture),
and no subtitles: it has no place for text between frames. Of options the one is chosen whose tokens are likeliest
behind the question, by the mean of their log-likelihoods; an open answer is decoded greedily.
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
from mmduplex_jax.evals.benchmarks.protocol import (
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

# A fact of an answer: the options' mean log-likelihoods a token.
SCORES = "scores"
# Texts are as long as a multiple of this.
_PIECE = 64


class VlmAnswerer:
    """Answers with one model, one question at a time (see the module's docstring)."""

    def __init__(
        self, task: VlmTask, params: PyTree, config: Any, tokenizer: TextTokenizer, *, subtitles: bool = False
    ):
        """Makes ready; the first question compiles.

        Args:
          task: the model's.
          params: its parameters, unboxed.
          config: of its training.
          tokenizer: its words.
          subtitles: not of models that have no place for them.
        """
        del subtitles
        self._params, self._tokenizer, self._config = jax.device_put(params), tokenizer, task.config
        self._fitted = FrameFitter(frame_size(config.frame_px), fit_of(config))
        # As much text as there is room for behind the frames.
        self._room = task.config.language.text.window_steps - task.config.prefix + 1
        allowed = np.arange(task.config.language.vocab_size) < tokenizer.base_vocab_size
        allowed[end_of_text(tokenizer)] = True

        def read(
            params: PyTree, frames: UInt8[Array, "1 T H W 3"], ids: Int32[Array, "1 S"]
        ) -> tuple[Float[Array, "S"], Int32[Array, "S"]]:
            """Of every token its log-likelihood, and the likeliest in its place."""
            inputs = (task.normalised(frames), ids)
            logits = task.model.apply({"params": params}, *inputs, method="caption_logits")[0]
            likelihoods = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[0][:, None], axis=1)[:, 0]
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
        longest = len(question) + max(map(len, options), default=self._config.length)
        if longest > self._room:
            raise UnanswerableError(
                f"{item.key}: question and answer take {longest} tokens, and there is room for {self._room}"
            )
        try:
            frames = self._frames(item)
        except VideoError as error:
            raise UnreadableVideoError(f"{item.key}: {error}") from error
        if not options:
            return Prediction(self._decode(frames, question), tokens=self._config.prefix)
        scores = []
        for option in options:
            likelihoods, _ = self._read(self._params, frames, self._padded([*question, *option]))
            scores.append(float(np.mean(np.asarray(likelihoods)[len(question) : len(question) + len(option)])))
        chosen = written_choice(item, int(np.argmax(scores)))
        return Prediction(chosen, tokens=self._config.prefix, facts={SCORES: scores})

    def _frames(self, item: Item) -> np.ndarray:
        """uint8 `[1, T, H, W, 3]`: one a second at most, in equal steps; of a short video the last one comes again."""
        end_s = item.duration_s if item.asked_s is None else item.asked_s
        if end_s is None:
            raise UnanswerableError(f"{item.key}: the benchmark does not say how long the video is")
        assert item.video is not None
        number = self._config.frames
        shown = max(1, min(number, int(end_s - item.begin_s)))
        times_s = [item.begin_s + (end_s - item.begin_s) / shown * i for i in range(shown)]
        times_s += [times_s[-1]] * (number - shown)
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
        """The ids and PAD behind them, which they do not see, so that few lengths are compiled."""
        length = min(self._room, -(-(len(ids) + 1) // _PIECE) * _PIECE)
        padded = np.full((1, length), self._tokenizer.pad_id, np.int32)
        padded[0, : len(ids)] = ids
        return padded

    def _decode(self, frames: np.ndarray, question: Sequence[int]) -> str:
        """What comes behind the question, as long as a caption may be."""
        ids = list(question)
        while len(ids) < min(self._room, len(question) + self._config.length):
            _, likeliest = self._read(self._params, frames, self._padded(ids))
            token = int(np.asarray(likeliest)[len(ids)])
            if token == end_of_text(self._tokenizer):
                break
            ids.append(token)
        return self._tokenizer.decode_word(ids[len(question) :]) if len(ids) > len(question) else ""
