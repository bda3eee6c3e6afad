"""Something that captions: a model of stage `vlm`, compiled for one size of batch, over clips or over files."""

from collections import deque
from collections.abc import Iterator, Sequence
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
from mmduplex_jax.models.language import LanguageState
from mmduplex_jax.stages.vlm.caption_decoding import HOW, Decoding, decode
from mmduplex_jax.stages.vlm.task import VlmTask
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.train.task import Task
from mmduplex_jax.typing import PyTree

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
      text: words.
      log_prob: of the text and its end by the model, in nats.
    """

    text: str
    log_prob: float


class Captioner:
    """Writes captions of clips.

    Attributes:
      frames: T, of a clip.
      frame_px: H = W.
      num_ticks: of the piece of video that the frames are spread over.
    """

    def __init__(
        self,
        task: Task,
        config: Any,
        tokenizer: TextTokenizer,
        decoding: Decoding,
        batch_size: int,
        seed: int = 0,
        params: PyTree = None,
    ):
        """Takes a model apart; nothing is compiled yet.

        Args:
          task: of stage `vlm`.
          config: of its training.
          tokenizer: its words.
          decoding: how tokens are chosen.
          batch_size: clips captioned at a time; what is said of a clip does not depend on it.
          seed: of "sample".
          params: of the model, where `captions` is given none.

        Raises:
          ValueError: the model is of another stage.
        """
        if not isinstance(task, VlmTask):
            raise ValueError(f"this model is of stage {config.stage!r}; only `vlm` models caption")
        self.frames, self.frame_px = task.config.frames, config.frame_px
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
        wanted = (self.frames, self.frame_px, self.frame_px, 3)
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
      source: its file.
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
      source, start_s, end_s: the piece.
      text: its caption.
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
    frame_px: int,
    fit: str = "crop",
    every_ticks: int | None = None,
    max_s: float | None = None,
) -> Iterator[Piece]:
    """Cuts a picture or a video into pieces while it is read; no more of it is held than one piece.

    Args:
      source: a file, or an address or a camera's number as `launch.commentate` takes them.
      clock: of the model.
      frames: T, of a piece.
      num_ticks: of a piece.
      frame_px: H = W.
      fit: how a wide picture becomes a square.
      every_ticks: from the begin of a piece to that of the next; `num_ticks` where it is not given.
      max_s: of a video no more is seen.

    Raises:
      VideoError: it is no video, or breaks; pieces that lie before the break come first.
    """
    step = num_ticks if every_ticks is None else every_ticks
    held: deque[np.ndarray] = deque(maxlen=num_ticks)
    last = None if max_s is None else clock.ticks_in(max_s)

    def piece(begin: int, end: int, seen: Sequence[np.ndarray]) -> Piece:
        chosen = spread_ticks(range(len(seen)), frames)
        return Piece(
            redact(source), clock.tick_time_s(begin), clock.tick_time_s(end), np.stack([seen[i] for i in chosen])
        )

    broken: VideoError | None = None
    number, begin, covered = 0, 0, 0
    with VideoReader(source, clock, frame_px, fit, trusted=True) as reader:
        still = reader.info.duration_s is None and not reader.info.live
        ticks = reader.ticks()
        while last is None or number < last:
            try:
                held.append(next(ticks).frame)
            except StopIteration:
                break
            except VideoError as error:
                broken = error
                break
            number += 1
            if number == begin + num_ticks:
                yield piece(begin, number, tuple(held))
                begin, covered = begin + step, number
    if still and number == 1:
        yield piece(0, 1, tuple(held))._replace(end_s=0.0)
    elif number > max(begin, covered):
        yield piece(max(number - num_ticks, 0), number, tuple(held))
    if broken is not None:
        raise broken


def caption_source(
    captioner: Captioner, clock: Clock, source: str, *, batch: int = 8, first: int = 0, **cut: Any
) -> Iterator[Captioned]:
    """Captions of a picture, or of a video's pieces.

    Args:
      captioner: the model.
      clock: of the model.
      source: see `pieces_of`.
      batch: pieces captioned at a time.
      first: how many pieces were captioned before: of "sample", chance is by the number of a piece.
      **cut: `fit`, `every_ticks` and `max_s` of `pieces_of`.

    Raises:
      VideoError: it is no video, or breaks; captions of what lies before the break come first.
    """
    waiting: list[Piece] = []
    broken: VideoError | None = None
    pieces = pieces_of(
        source, clock, frames=captioner.frames, num_ticks=captioner.num_ticks, frame_px=captioner.frame_px, **cut
    )
    while True:
        try:
            waiting.append(next(pieces))
        except StopIteration:
            break
        except VideoError as error:
            broken = error
            break
        if len(waiting) == batch:
            yield from _said(captioner, waiting, first)
            first, waiting = first + batch, []
    yield from _said(captioner, waiting, first)
    if broken is not None:
        raise broken


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
