"""A duplex model answers questions about a video that it watches live, tick by tick, in bounded memory.

It watches at its own clock's pace, and talks meanwhile as it always does: what it says is part of what it remembers.
Subtitles enter its text stream as given words at their times. Then the question is given as words, and

- of options the one is chosen whose words are likeliest a slot, the stream's state copied for each; how likely they
  are for a stream that saw nothing is kept beside it;
- an open answer is decoded greedily;
- where nobody waits for an answer (`Item.listens_until_s`) the video goes on, and what is said on its own is the
  answer.

While a question is read and answered no picture is shown, since it is asked about what was seen until then; but time
goes on: each slot is a step of the clock, for attention too.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.decode import VideoReader
from data_pipelines.packing import pack_words
from data_pipelines.video_source import VideoError
from data_pipelines.words import split_words, spread
from mmduplex_jax.evals.benchmarks.protocol import (
    SCORES,
    SCORES_UNSEEN,
    UNANSWERABLE,
    WORDS_LEFT_OUT,
    BenchmarkError,
    Item,
    Prediction,
    Subtitle,
    TimedText,
    UnanswerableError,
    UnreadableVideoError,
    written_choice,
)
from mmduplex_jax.frame_size import fit_of
from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.streaming.sentences import closed, written_sentences
from mmduplex_jax.streaming.unrolled import live_on_this_machine
from mmduplex_jax.text_tokenizer import TextTokenizer, UnknownWordError
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree, UInt8
from mmduplex_jax.word_decoder import TimedWord, WordDecoder

# A fact of an item: the same question as the begin of a sentence, `{"question": …, "options": …}`, in the words of a
# commentator. Models are asked so whose vocabulary lacks words of the question itself; it is a fact of their answers.
CLOZE = "cloze"
# A fact of an item: what is said while watching is scored, too, so that it is watched even where it cannot be asked.
SAID_COUNTS = "said_counts"
# No slot is given: the model chooses.
_FREE = -1
# Slots are given in pieces of this many, and options side by side in powers of two, so that few programs are compiled.
_PIECE = 32
# Results wait on the device for so many steps, so that it never waits for the host.
_STEPS_AHEAD = 128
# An open answer ends after a second of silence, where nothing comes after five, or after a minute.
_SILENCE_S, _SILENT_S, _ANSWER_S = 1.0, 5.0, 60.0


class Watched(NamedTuple):
    """What is left when a video was watched.

    Attributes:
      state: of the stream, a row.
      said: what the model said by itself, with times from where watching began.
      tokens: video tokens that were spent.
      left_out: words of subtitles that the vocabulary lacks.
    """

    state: PyTree
    said: tuple[TimedWord, ...]
    tokens: int
    left_out: int


class DuplexAnswerer:
    """Answers with one model, one question at a time (see the module's docstring)."""

    def __init__(
        self,
        task: DuplexTask,
        params: PyTree,
        config: Any,
        tokenizer: TextTokenizer,
        *,
        subtitles: bool = True,
    ):
        """Makes ready; the first question compiles.

        Args:
          task: the model's.
          params: its parameters, unboxed.
          config: of its training.
          tokenizer: its words.
          subtitles: whether it gets those of a video.
        """
        self._live, params = live_on_this_machine(task.config, params)
        self._params = jax.device_put(params)
        self._tokenizer, self._subtitles, self._fit = tokenizer, subtitles, fit_of(config)
        self._delay_steps, self._clock = int(config.delay.eval), task.config.clock
        # Of the last video; neighbours in a benchmark are often questions about one.
        self._last: tuple[Any, Watched] | None = None

    def answer(self, item: Item) -> Prediction:
        """See `Answerer.answer`."""
        if item.video is None:
            raise BenchmarkError(f"{item.key}: its video is not there{_named(item)}; see docs/benchmarks.md")
        try:
            question, options, facts = self._asked(item)
        except UnanswerableError as error:
            if not item.facts.get(SAID_COUNTS):
                raise
            return self._prediction(item, self._watched(item), "", {UNANSWERABLE: str(error)})
        if item.listens_until_s is not None or not question:
            watched = self._watch(item, item.listens_until_s, question)
            since_s = (item.asked_s or 0.0) - item.begin_s
            text = " ".join(word.text for word in watched.said if word.t_emit_s >= since_s)
            return self._prediction(item, watched, text, facts)
        watched = self._watched(item)
        if not options:
            state, _ = self._give(watched.state, [question])
            return self._prediction(item, watched, self._decode(state), facts)
        scores = self._scores(watched.state, question, options)
        unseen = self._scores(_programs(self._live).init(self._params), question, options)
        facts |= {SCORES: scores, SCORES_UNSEEN: unseen}
        return self._prediction(item, watched, written_choice(item, int(np.argmax(scores))), facts)

    def _scores(self, state: PyTree, question: Sequence[int], options: Sequence[Sequence[int]]) -> list[float]:
        """Of each option its mean log-likelihood a slot behind the question; the state stays as it is."""
        state, _ = self._give(state, [question])
        _, sums = self._give(state, options)
        return [float(total) / len(slots) for total, slots in zip(sums, options)]

    def _watched(self, item: Item) -> Watched:
        """What is left of a video when it was watched until the question, which is not given yet."""
        key = (item.video, item.begin_s, item.asked_s, item.subtitles)
        if self._last is None or self._last[0] != key:
            self._last = None  # one state at a time
            self._last = key, self._watch(item, item.asked_s, [])
        return self._last[1]

    def _asked(self, item: Item) -> tuple[list[int], list[list[int]], dict[str, Any]]:
        """The slots of the question and of its options, and whether it is asked as a cloze.

        Raises:
          UnanswerableError: the vocabulary cannot spell them.
        """
        try:
            options = [self._slots(option, f"{item.key}, option {option!r}") for option in item.options]
            return self._slots(item.question, f"{item.key}, question"), options, {}
        except UnanswerableError:
            if CLOZE not in item.facts:
                raise
        cloze = item.facts[CLOZE]
        options = [self._slots(option, f"{item.key}, option {option!r}") for option in cloze["options"]]
        return self._slots(cloze["question"], f"{item.key}, question"), options, {CLOZE: True}

    def _prediction(self, item: Item, watched: Watched, text: str, facts: Mapping[str, Any]) -> Prediction:
        said = tuple(
            TimedText(
                item.begin_s + words[0].word.t_emit_s,
                " ".join(word.text for word in words),
                item.begin_s + words[-1].word.t_emit_s,
            )
            for words in written_sentences(watched.said)
        )
        left_out = {WORDS_LEFT_OUT: watched.left_out} if watched.left_out else {}
        return Prediction(text, said, watched.tokens, {**facts, **left_out})

    # Watching.

    def _watch(self, item: Item, until_s: float | None, question: Sequence[int]) -> Watched:
        """Shows a video from `begin_s` to `until_s` (None: to its end), with a question given at its time, if any."""
        clock, stride = self._clock, self._clock.video_stride
        given, left_out = self._given_subtitles(item)
        if question:
            given = self._interrupted(given, clock.steps_in(max(0.0, (item.asked_s or 0.0) - item.begin_s)), question)
        step = _programs(self._live).step
        state = _programs(self._live).init(self._params)
        delay, bias = self._per_row(1), jnp.zeros((1,), jnp.float32)
        said, tokens = _Said(self._tokenizer, clock.step_time_s(self._delay_steps), clock), 0
        waiting: list[tuple[int, bool, Any, Any]] = []

        def collect() -> None:
            nonlocal tokens
            for at, was_given, slot, spent in waiting:
                said.push(at, None if was_given else int(slot[0]))
                tokens += int(spent[0])
            waiting.clear()

        at = 0
        try:
            for frame in self._frames(item, until_s):
                on_device, slots = jax.device_put(frame[None]), [given.get(at + i, _FREE) for i in range(stride)]
                for slot in slots:
                    one = jnp.full((1,), slot, jnp.int32)
                    state, out, spent = step(self._params, state, on_device, one, delay, bias)
                    waiting.append((at, slot != _FREE, out, spent))
                    at += 1
                if len(waiting) >= _STEPS_AHEAD:
                    collect()
        except VideoError as error:
            raise UnreadableVideoError(f"{item.key}: {error}") from error
        collect()
        if not at:
            raise UnreadableVideoError(
                f"{item.key}: {item.video} shows nothing between {item.begin_s} s and {until_s} s"
            )
        return Watched(state, said.whole(), tokens, left_out)

    def _frames(self, item: Item, until_s: float | None) -> Iterator[np.ndarray]:
        """A frame a tick, uint8 `[H, W, 3]`, from `begin_s` on; nothing is held but the one that is shown."""
        assert item.video is not None
        config = self._live.config
        with VideoReader(item.video, config.clock, config.tokenizer.frame_px, self._fit) as reader:
            for tick in reader.ticks():
                if until_s is not None and tick.t_s >= until_s:
                    return
                if tick.t_s >= item.begin_s:
                    yield tick.frame

    def _given_subtitles(self, item: Item) -> tuple[dict[int, int], int]:
        """The slots of a video's subtitles by step, and how many of their words the vocabulary lacks.

        A line's words are spread over it, and run behind the picture as all words do.
        """
        if not self._subtitles or not item.subtitles:
            return {}, 0
        encoded, left_out = [], 0
        for line in sorted(item.subtitles, key=lambda line: line.start_s):
            for word in _spread(line):
                if word.start_s < item.begin_s:
                    continue
                try:
                    encoded.append((self._tokenizer.encode_word(word.text), word.start_s - item.begin_s))
                except UnknownWordError:
                    left_out += 1
        # Words that come faster than the clock queue: room for all of them behind the last one's time.
        last_s = max((start_s for _, start_s in encoded), default=0.0)
        room = self._clock.steps_in(last_s) + sum(1 + len(ids) for ids, _ in encoded) + 1
        pad, word_id = self._tokenizer.pad_id, self._tokenizer.word_id
        slots = pack_words(encoded, self._clock, room, pad, word_id).slots
        given = {at + self._delay_steps: int(slot) for at, slot in enumerate(slots) if slot != pad}
        return given, left_out

    @staticmethod
    def _interrupted(given: Mapping[int, int], asked: int, question: Sequence[int]) -> dict[int, int]:
        """The given slots with a question from step `asked` on; subtitles stand back for as long as it lasts."""
        return {**given, **{asked + number: slot for number, slot in enumerate(question)}}

    # Reading and answering: steps of the text stream alone.

    def _slots(self, text: str, place: str) -> list[int]:
        """The slots of a text: for each word its mark and tokens; END, where the vocabulary has it and a sentence ends.

        Raises:
          UnanswerableError: it has a word that the vocabulary cannot spell; `place` says where.
        """
        slots: list[int] = []
        for word in split_words(text):
            try:
                slots += [self._tokenizer.word_id, *self._tokenizer.encode_word(word)]
            except UnknownWordError as error:
                raise UnanswerableError(f"{place}: {error}") from error
        if slots and self._tokenizer.end_id is not None and closed(text) == text:
            slots.append(self._tokenizer.end_id)
        return slots

    def _give(self, state: PyTree, texts: Sequence[Sequence[int]]) -> tuple[PyTree, np.ndarray]:
        """Gives texts to copies of a stream, one each.

        Returns:
          The state of all rows (there may be more than texts); and float64 `[N]`, of each text the sum of its slots'
          log-likelihoods.
        """
        rows = 1 << (len(texts) - 1).bit_length()
        slots = np.full((rows, -(-max(map(len, texts)) // _PIECE) * _PIECE), _FREE, np.int32)
        for row, text in enumerate(texts):
            slots[row, : len(text)] = text
        state = _programs(self._live).copies(state, rows)
        total = np.zeros(rows)
        for begin in range(0, slots.shape[1], _PIECE):
            piece = jnp.asarray(slots[:, begin : begin + _PIECE])
            state, likelihoods = _programs(self._live).give(self._params, state, piece, self._per_row(rows))
            total += np.asarray(likelihoods, np.float64)
        return state, total[: len(texts)]

    def _decode(self, state: PyTree) -> str:
        """What the model says next, the likeliest slot at each step, until it is silent."""
        steps_in = self._clock.steps_in
        said, at = _Said(self._tokenizer, 0.0, self._clock), 0
        spoke, silent = False, 0
        while at < steps_in(_ANSWER_S):
            state, slots = _programs(self._live).speak(self._params, state, self._per_row(1))
            for slot in np.asarray(slots)[0].tolist():
                said.push(at, slot)
                at += 1
                silent = silent + 1 if slot == self._tokenizer.pad_id else 0
                spoke = spoke or slot not in self._tokenizer.marks
                if slot == self._tokenizer.end_id or silent >= steps_in(_SILENCE_S if spoke else _SILENT_S):
                    return " ".join(word.text for word in said.whole())
        return " ".join(word.text for word in said.whole())

    def _per_row(self, rows: int) -> Int32[Array, "N"]:
        return jnp.full((rows,), self._delay_steps, jnp.int32)


class _Said:
    """Gathers the words that a stream says by itself; a given slot ends a word that it was saying."""

    def __init__(self, tokenizer: TextTokenizer, delay_s: float, clock: Any):
        self._decoder, self._clock = WordDecoder(tokenizer, delay_s), clock
        self._words: list[TimedWord] = []

    def push(self, step: int, slot: int | None) -> None:
        """The slot that was chosen at a step; None: one was given."""
        t_s = self._clock.step_time_s(step)
        word = self._decoder.flush() if slot is None else self._decoder.push(slot, t_s)
        if word is not None:
            self._words.append(word)

    def whole(self) -> tuple[TimedWord, ...]:
        """All words, when the stream is over."""
        last = self._decoder.flush()
        return (*self._words, *(() if last is None else (last,)))


class _Programs(NamedTuple):
    """The compiled functions of a model."""

    init: Any
    step: Any
    copies: Any
    give: Any
    speak: Any


@functools.cache
def _programs(live: LiveModel) -> _Programs:
    config, pad_id, start_id = live.config, live.config.pad_id, live.config.start_id

    def step(
        params: PyTree,
        state: PyTree,
        frame: UInt8[Array, "B H W 3"],
        slot: Int32[Array, "B"],
        delay: Int32[Array, "B"],
        bias: Float[Array, "B"],
    ) -> tuple[PyTree, Int32[Array, "B"], Int32[Array, "B"]]:
        """A step with its picture, and the given slot instead of the chosen one where there is one."""
        state, out = live.live_step(params, state, frame, jnp.ones(len(frame), bool), delay, bias)
        token = jnp.where(slot == _FREE, out.token, slot)
        return state._replace(token=token), token, out.report.n_tokens

    def text_step(
        params: PyTree, state: PyTree, delay: Int32[Array, "B"], active: Bool[Array, "B"]
    ) -> tuple[PyTree, Float[Array, "B V"]]:
        return live.module.apply({"params": params}, state, delay, active, method="text_step")

    def give(
        params: PyTree, state: PyTree, slots: Int32[Array, "B S"], delay: Int32[Array, "B"]
    ) -> tuple[PyTree, Float[Array, "B"]]:
        """Slots one after another; a row whose slots are over keeps its state."""

        def one(state: PyTree, slot: Int32[Array, "B"]) -> tuple[PyTree, Float[Array, "B"]]:
            active = slot != _FREE
            state, logits = text_step(params, state, delay, active)
            likelihood = jax.nn.log_softmax(logits.astype(jnp.float32))
            likelihood = jnp.take_along_axis(likelihood, jnp.maximum(slot, 0)[:, None], axis=1)[:, 0]
            return state._replace(token=jnp.where(active, slot, state.token)), jnp.where(active, likelihood, 0.0)

        state, likelihoods = jax.lax.scan(one, state, slots.T)
        return state, likelihoods.sum(axis=0)

    def speak(params: PyTree, state: PyTree, delay: Int32[Array, "B"]) -> tuple[PyTree, Int32[Array, "B S"]]:
        """A piece of slots that the model chooses, as `LiveModel.live_step` does."""

        def one(state: PyTree, _: None) -> tuple[PyTree, Int32[Array, "B"]]:
            state, logits = text_step(params, state, delay, jnp.ones(len(delay), bool))
            logits = logits.at[:, pad_id].add(config.pad_bias).at[:, start_id].set(-jnp.inf)
            token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            return state._replace(token=token), token

        state, slots = jax.lax.scan(one, state, None, length=_PIECE)
        return state, slots.T

    def copies(state: PyTree, rows: int) -> PyTree:
        at = jnp.zeros((rows,), jnp.int32)
        copy = lambda node: node.gather(at) if isinstance(node, KVCache) else node[at]
        return jax.tree.map(copy, state, is_leaf=lambda node: isinstance(node, KVCache))

    return _Programs(
        init=jax.jit(lambda params: live.init_state(params, 1)),
        step=jax.jit(step, donate_argnums=1),
        copies=jax.jit(copies, static_argnums=1),
        give=jax.jit(give, donate_argnums=1),
        speak=jax.jit(speak, donate_argnums=1),
    )


def _spread(line: Subtitle) -> list[Any]:
    """The words of a line, each at its part of the line's time."""
    return spread(split_words(line.text), line.start_s, max(line.start_s, line.end_s)) if line.text.strip() else []


def _named(item: Item) -> str:
    named = item.facts.get("video_path")
    return f" ({named})" if named else ""
