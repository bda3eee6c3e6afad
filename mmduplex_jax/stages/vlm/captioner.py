"""Something that captions: a model of stage `vlm`, compiled for one size of batch, over clips or over files.

Captions are decoded greedily, by chance, or by a beam (`decode`), which knows a model as a function `write(memory,
token) -> (memory, logits)` over `N` captions at once, and for a beam one that copies rows of the memory. All of it is
one compiled program whose loop ends as soon as every caption has. A caption ends with its end mark; the last token that
there is room for is always that.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.decode import VideoReader
from data_pipelines.pairs import end_of_text, spread_ticks
from data_pipelines.sources.folder import VIDEO_SUFFIXES
from data_pipelines.video_source import VideoError, redact
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, fit_of, frame_size
from mmduplex_jax.models.language import LanguageState
from mmduplex_jax.stages.registry import find_stage
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import Array, Bool, Float, Int32, PyTree

HOW = ("greedy", "sample", "beam")
Write = Callable[[PyTree, Array], tuple[PyTree, Array]]
GatherCache = Callable[[PyTree, Array], PyTree]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How tokens are chosen.

    Attributes:
      how: "greedy" (the likeliest, one by one), "sample" (by chance) or "beam" (the likeliest caption of those that
        `width` unfinished or finished ones, kept at every token, lead to).
      temperature: of "sample": logits are divided by it.
      top_p: of "sample": only the likeliest tokens that together reach this probability (Holtzman et al., 2020).
      width: of "beam"; 1 is greedy.
      length_penalty: of "beam": a caption's score is its log-probability over (its number of tokens) ** this; 0 favours
        short captions, 1 compares the mean of a token.
    """

    how: str = "greedy"
    temperature: float = 1.0
    top_p: float = 1.0
    width: int = 4
    length_penalty: float = 0.0

    def __post_init__(self):
        if self.how not in HOW:
            raise ValueError(f"decoding is one of {', '.join(HOW)}, not {self.how!r}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be over 0, got {self.temperature}; the likeliest token: 'greedy'")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be over 0 and at most 1, got {self.top_p}")
        if self.width < 1:
            raise ValueError(f"a beam needs a width of at least 1, got {self.width}")
        if not self.length_penalty >= 0:
            raise ValueError(f"length_penalty must be at least 0, got {self.length_penalty}")


class Written(NamedTuple):
    """Captions.

    Attributes:
      ids: int32 `[B, S]`, the end mark from where a caption ends.
      length: int32 `[B]`, tokens with the end mark.
      log_prob: float32 `[B]`, of the whole caption by the model, its end mark included.
    """

    ids: Int32[Array, "B S"]
    length: Int32[Array, "B"]
    log_prob: Float[Array, "B"]


def decode(
    decoding: Decoding,
    write: Write,
    gather_cache: GatherCache,
    memory: PyTree,
    logits: Float[Array, "B V"],
    *,
    allowed: Bool[Array, "V"],
    end_id: int,
    length: int,
    keys: Array,
) -> Written:
    """Writes captions; to be jitted by the caller.

    Args:
      write: reads a token of every row and gives the logits of the next.
      gather_cache: `(memory, rows int32 [N]) -> memory` of these rows, which may repeat; for "beam".
      memory: what `write` goes on from.
      logits: of the first token.
      allowed: ids that a caption may hold; the end mark may always come.
      end_id: the end mark.
      length: S, the most tokens, end mark included.
      keys: typed keys `[B]` of `jax.random`; for "sample". A row's caption depends on its own key only.
    """
    may = jnp.asarray(allowed).at[end_id].set(True)
    log_probs = lambda raw: jax.nn.log_softmax(jnp.where(may, raw.astype(jnp.float32), -jnp.inf))
    if decoding.how == "beam":
        return _beam(decoding, write, gather_cache, memory, logits, log_probs, end_id, length)
    if decoding.how == "greedy":
        choose = lambda scores, step: scores.argmax(axis=-1)
    else:
        choose = lambda scores, step: jax.vmap(jax.random.categorical)(
            jax.vmap(jax.random.fold_in, (0, None))(keys, step), nucleus(scores / decoding.temperature, decoding.top_p)
        )
    return _one_by_one(choose, write, memory, logits, log_probs, end_id, length)


def nucleus(logits: Float[Array, "B V"], top_p: float) -> Float[Array, "B V"]:
    """Log-probabilities of the fewest likeliest tokens that reach `top_p` together; the others are -inf."""
    log_prob = jax.nn.log_softmax(logits)
    if top_p == 1:
        return log_prob
    falling = -jnp.sort(-log_prob, axis=-1)
    before = jnp.cumsum(jnp.exp(falling), axis=-1) - jnp.exp(falling)
    last = jnp.where(before < top_p, falling, jnp.inf).min(axis=-1, keepdims=True)
    return jax.nn.log_softmax(jnp.where(log_prob >= last, log_prob, -jnp.inf))


class _Row(NamedTuple):
    """Captions so far: how many steps were done, the last tokens, and what is known of each caption."""

    step: Array
    memory: PyTree
    ids: Array
    length: Array
    log_prob: Array
    done: Array


def _one_by_one(
    choose: Callable, write: Write, memory: PyTree, logits: Array, log_probs: Callable, end_id: int, length: int
) -> Written:
    batch = len(logits)

    def add(row: _Row, scores: Array) -> _Row:
        last = row.step == length - 1
        token = jnp.where(row.done | last, end_id, choose(scores, row.step).astype(jnp.int32))
        gained = jnp.take_along_axis(scores, token[:, None], axis=1)[:, 0]
        return _Row(
            row.step + 1,
            row.memory,
            row.ids.at[:, row.step].set(token),
            row.length + ~row.done,
            row.log_prob + jnp.where(row.done, 0.0, gained),
            row.done | (token == end_id),
        )

    def go_on(row: _Row) -> _Row:
        memory, logits = write(row.memory, row.ids[:, row.step - 1])
        return add(row._replace(memory=memory), log_probs(logits))

    start = _Row(
        jnp.zeros((), jnp.int32),
        memory,
        jnp.full((batch, length), end_id, jnp.int32),
        jnp.zeros((batch,), jnp.int32),
        jnp.zeros((batch,), jnp.float32),
        jnp.zeros((batch,), bool),
    )
    end = jax.lax.while_loop(lambda row: ~row.done.all(), go_on, add(start, log_probs(logits)))
    return Written(end.ids, end.length, end.log_prob)


def _beam(
    decoding: Decoding,
    write: Write,
    gather_cache: GatherCache,
    memory: PyTree,
    logits: Array,
    log_probs: Callable,
    end_id: int,
    length: int,
) -> Written:
    """A beam in which finished captions keep their places, so that width 1 is greedy whatever the penalty."""
    batch, vocab = logits.shape
    width = decoding.width
    score = lambda log_prob, tokens: log_prob / tokens.astype(jnp.float32) ** decoding.length_penalty

    def add(row: _Row, scores: Array) -> tuple[_Row, Array]:
        """The best captions that are one token longer, or finished; and whose continuations they are."""
        is_end = jnp.arange(vocab) == end_id
        may = jnp.where((row.step == length - 1) | row.done[..., None], is_end, True)
        gained = jnp.where(row.done[..., None], 0.0, scores.reshape(batch, width, vocab))
        log_prob = jnp.where(may, row.log_prob[..., None] + gained, -jnp.inf)
        tokens = row.length + ~row.done
        _, best = jax.lax.top_k(score(log_prob, tokens[..., None]).reshape(batch, -1), width)
        parent, token = best // vocab, best % vocab
        pick = lambda array: jnp.take_along_axis(array, parent, axis=1)
        ids = jnp.take_along_axis(row.ids, parent[..., None], axis=1).at[:, :, row.step].set(token)
        kept = jnp.take_along_axis(log_prob.reshape(batch, -1), best, axis=1)
        new = _Row(row.step + 1, row.memory, ids, pick(tokens), kept, pick(row.done) | (token == end_id))
        return new, (parent + width * jnp.arange(batch)[:, None]).reshape(-1)

    def unsettled(carry: tuple[_Row, Array]) -> Array:
        row, _ = carry
        # A log-probability only falls; divided by the most that it may be, it bounds every score that it may lead to.
        reach = jnp.where(row.done, -jnp.inf, score(row.log_prob, jnp.full_like(row.length, length)))
        found = jnp.where(row.done, score(row.log_prob, row.length), -jnp.inf)
        return (reach.max(axis=1) > found.max(axis=1)).any()

    def go_on(carry: tuple[_Row, Array]) -> tuple[_Row, Array]:
        row, parents = carry
        memory, logits = write(gather_cache(row.memory, parents), row.ids[:, :, row.step - 1].reshape(-1))
        return add(row._replace(memory=memory), log_probs(logits))

    each = jnp.repeat(jnp.arange(batch), width)
    first = jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf)  # all are the same: one of them counts
    start = _Row(
        jnp.zeros((), jnp.int32),
        gather_cache(memory, each),
        jnp.full((batch, width, length), end_id, jnp.int32),
        jnp.zeros((batch, width), jnp.int32),
        jnp.broadcast_to(first, (batch, width)).astype(jnp.float32),
        jnp.zeros((batch, width), bool),
    )
    end, _ = jax.lax.while_loop(unsettled, go_on, add(start, log_probs(logits[each])))
    best = jnp.where(end.done, score(end.log_prob, end.length), -jnp.inf).argmax(axis=1)[:, None]
    return Written(
        jnp.take_along_axis(end.ids, best[..., None], axis=1)[:, 0],
        jnp.take_along_axis(end.length, best, axis=1)[:, 0],
        jnp.take_along_axis(end.log_prob, best, axis=1)[:, 0],
    )


PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))
# Of `launch.evaluate` and `launch.caption`: what argparse's `add_argument` takes.
DECODING_FLAGS: dict[str, dict[str, Any]] = {
    "decode": {
        "choices": HOW,
        "help": "how captions are written: the likeliest word after word, by chance, or by a beam (default: greedy)",
    },
    "temperature": {"type": float, "help": "of --decode=sample (default: 1.0)"},
    "top_p": {
        "type": float,
        "help": "of --decode=sample: only the likeliest tokens that reach this probability (default: 1.0)",
    },
    "beam_width": {"type": int, "help": "of --decode=beam (default: 4)"},
    "length_penalty": {
        "type": float,
        "help": "of --decode=beam: 0 favours short captions, 1 compares means of a token (default: 0.0)",
    },
}


def decoding_of(decode: str = "greedy", **given: float) -> Decoding:
    """What `DECODING_FLAGS` that were given say; ValueError for values that cannot be, or are of another `decode`."""
    of = {"temperature": "sample", "top_p": "sample", "beam_width": "beam", "length_penalty": "beam"}
    for name in given:
        if of[name] != decode:
            raise ValueError(f"--{name} is of --decode={of[name]}, and this is --decode={decode}")
    values = {"width" if name == "beam_width" else name: value for name, value in given.items()}
    return Decoding(decode, **values)  # type: ignore[arg-type]


class Caption(NamedTuple):
    """What is said about a clip.

    Attributes:
      log_prob: of the text and its end by the model, in nats.
    """

    text: str
    log_prob: float


class Captioner:
    """Writes captions of clips.

    Attributes:
      frames: T, of a clip.
      frame_px: H and W.
      fit: how pictures were fitted to them where it was trained.
      num_ticks: of the piece of video that the frames are spread over.
    """

    def __init__(
        self,
        task: Any,
        config: Any,
        tokenizer: TextTokenizer,
        decoding: Decoding,
        batch_size: int,
        seed: int = 0,
        params: PyTree = None,
    ):
        """Takes a model apart; nothing is compiled yet.

        Args:
          batch_size: clips captioned at a time; what is said of a clip does not depend on it.
          seed: of "sample".
          params: of the model, where `captions` is given none.

        Raises:
          ValueError: the model is of another stage.
        """
        if find_stage(config.stage).OUTPUT != "captions":
            raise ValueError(f"this model is of stage {config.stage!r}; only `vlm` models caption")
        self.frames, self.frame_px = task.config.frames, frame_size(config.frame_px)
        self.fit = fit_of(config)
        self.num_ticks = Clock(**config.clock).ticks_in(config.data.clip_s)
        self._tokenizer, self._batch, self._seed = tokenizer, batch_size, seed
        self._params = params
        # Rows beyond the tokenizer's own ids are marks, and room for other tokenizers.
        allowed = jnp.arange(task.config.language.vocab_size) < tokenizer.base_vocab_size
        model, length = task.model, task.config.length

        def write(params, frames, keys):
            memory, logits = model.apply({"params": params}, task.normalised(frames), length, method="begin")
            return decode(
                decoding,
                lambda memory, token: model.apply({"params": params}, memory, token, method="write"),
                LanguageState.gather,
                memory,
                logits,
                allowed=allowed,
                end_id=end_of_text(tokenizer),
                length=length,
                keys=keys,
            )

        self._write = jax.jit(write)

    def captions(self, clips: Sequence[np.ndarray], first: int = 0, params: PyTree = None) -> list[Caption]:
        """What is said of each clip; it depends on the clip, its number and the seed only.

        Args:
          clips: uint8 `[T, H, W, 3]` each, of `frames` frames of `frame_px` pixels.
          first: the number of the first; those of the others follow.
          params: of the model, if not those that it was made with.

        Raises:
          ValueError: a clip has another shape.
        """
        wanted = (self.frames, *self.frame_px, 3)
        wrong = [number for number, clip in enumerate(clips) if clip.shape != wanted]
        if wrong:
            raise ValueError(
                f"clip {wrong[0]} is {list(clips[wrong[0]].shape)}, the model was trained on {list(wanted)}"
            )
        said: list[Caption] = []
        for begin in range(0, len(clips), self._batch):
            rows = list(clips[begin : begin + self._batch])
            filled = np.stack([*rows, *[rows[-1]] * (self._batch - len(rows))])
            numbers = first + begin + jnp.arange(self._batch)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self._seed), numbers)
            written = jax.tree.map(np.asarray, self._write(self._params if params is None else params, filled, keys))
            # The last of `length` tokens is the end mark.
            said += [
                Caption(self._tokenizer.decode_word(written.ids[row, : written.length[row] - 1].tolist()), log_prob)
                for row, log_prob in enumerate(written.log_prob[: len(rows)].tolist())
            ]
        return said


class Piece(NamedTuple):
    """A piece of a source.

    Attributes:
      start_s, end_s: where in it; both 0 for a picture.
      frames: uint8 `[T, H, W, 3]`.
    """

    source: str
    start_s: float
    end_s: float
    frames: np.ndarray


class Captioned(NamedTuple):
    """What is said about a piece.

    Attributes:
      log_prob: of the caption by the model, in nats.
    """

    source: str
    start_s: float
    end_s: float
    text: str
    log_prob: float


def pieces_of(
    source: str,
    clock: Clock,
    *,
    frames: int,
    num_ticks: int,
    frame_px: FrameSize,
    fit: str,
    every_ticks: int | None = None,
    max_s: float | None = None,
) -> Iterator[Piece]:
    """Cuts a picture or a video into pieces while it is read; no more of it is held than one piece.

    Args:
      source: a file, or an address or a camera's number as `launch.commentate` takes them.
      frames: T, of a piece.
      num_ticks: of a piece.
      frame_px: H and W.
      fit: how a picture of another shape becomes a frame.
      every_ticks: from the begin of a piece to that of the next; `num_ticks` where it is not given.
      max_s: of a video no more is seen.

    Raises:
      VideoError: it is no video, or breaks; pieces that lie before the break come first.
    """
    step = num_ticks if every_ticks is None else every_ticks
    held: deque[np.ndarray] = deque(maxlen=num_ticks)
    last = None if max_s is None else clock.ticks_in(max_s)

    def piece(begin: int, end: int, shown: Sequence[np.ndarray]) -> Piece:
        chosen = spread_ticks(range(len(shown)), frames)
        return Piece(
            redact(source), clock.tick_time_s(begin), clock.tick_time_s(end), np.stack([shown[i] for i in chosen])
        )

    broken: VideoError | None = None
    number, begin, covered = 0, 0, 0
    with VideoReader(source, clock, frame_px, fit, trusted=True) as reader:
        still = reader.info.duration_s is None and not reader.info.live
        try:
            for tick in itertools.islice(reader.ticks(), last):
                held.append(tick.frame)
                number += 1
                if number == begin + num_ticks:
                    yield piece(begin, number, tuple(held))
                    begin, covered = begin + step, number
        except VideoError as error:
            broken = error
    if still and number == 1:
        yield piece(0, 1, tuple(held))._replace(end_s=0.0)
    elif number > max(begin, covered):
        yield piece(max(number - num_ticks, 0), number, tuple(held))
    if broken is not None:
        raise broken


def caption_source(
    captioner: Captioner,
    clock: Clock,
    source: str,
    *,
    batch: int = 8,
    first: int = 0,
    fit: str | None = None,
    **cut: Any,
) -> Iterator[Captioned]:
    """Captions of a picture, or of a video's pieces.

    Args:
      source: see `pieces_of`.
      batch: pieces captioned at a time.
      first: how many pieces were captioned before: of "sample", chance is by the number of a piece.
      fit: of `pieces_of`; as the model was trained where it is not given.
      **cut: `every_ticks` and `max_s` of `pieces_of`.

    Raises:
      VideoError: it is no video, or breaks; captions of what lies before the break come first.
    """
    waiting: list[Piece] = []
    pieces = pieces_of(
        source,
        clock,
        frames=captioner.frames,
        num_ticks=captioner.num_ticks,
        frame_px=captioner.frame_px,
        fit=fit or captioner.fit,
        **cut,
    )
    try:
        for piece in pieces:
            waiting.append(piece)
            if len(waiting) == batch:
                yield from _said(captioner, waiting, first)
                first, waiting = first + batch, []
    except VideoError:
        yield from _said(captioner, waiting, first)
        raise
    yield from _said(captioner, waiting, first)


def _said(captioner: Captioner, pieces: Sequence[Piece], first: int) -> Iterator[Captioned]:
    for piece, caption in zip(pieces, captioner.captions([piece.frames for piece in pieces], first)):
        yield Captioned(piece.source, piece.start_s, piece.end_s, caption.text, caption.log_prob)


def line_of(found: Captioned) -> str:
    """A caption as a person reads it."""
    name = Path(found.source).name
    when = f" [{found.start_s:7.2f}s - {found.end_s:7.2f}s]" if found.end_s else ""
    return f"{name}{when} {found.text}"


def files_of(source: str) -> list[str]:
    """The source itself, or the pictures and videos of a folder (not of those in it), by their names.

    Raises:
      FileNotFoundError: the folder has none.
    """
    if not Path(source).is_dir():
        return [source]
    files = sorted(
        str(path)
        for path in Path(source).iterdir()
        if path.is_file() and path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES
    )
    if not files:
        raise FileNotFoundError(f"the folder {source} holds no pictures and no videos")
    return files
