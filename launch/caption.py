"""Say what a picture shows, or what happens in each piece of a video.

    python -m launch.caption --checkpoint=runs/vlm_quickstart --source=picture.png
    python -m launch.caption --checkpoint=runs/vlm_quickstart --source=match.mp4              piece after piece
    python -m launch.caption --checkpoint=runs/vlm_quickstart --source=holiday --json=captions.json      a whole folder
    python -m launch.caption --checkpoint=runs/vlm_quickstart --source=match.mp4 --decode=beam --beam_width=8

The model is one of stage `vlm`. A video is cut into pieces as long as those that it was trained on, and a piece is seen
by as many frames, evenly spread; the last ends with the video and may overlap the one before. --every_s lets a piece
begin more often. Of a picture all frames are the same. Of a folder, files with the name of a picture or a video are
captioned, in the order of names; one that is none is told and left out.

    match.mp4 [  0.00s -   2.56s] red circle enters left

Exit codes: 0; 1 a source is no video or broken (what was captioned before it is kept); 2 flags or a checkpoint that do
not fit; 130 Ctrl-C.
"""

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.decode import VideoReader
from data_pipelines.geometry import FITS
from data_pipelines.pairs import spread_ticks
from data_pipelines.source_info import VideoError
from data_pipelines.sources.folder_listing import VIDEO_SUFFIXES
from mmduplex_jax.clock import Clock
from mmduplex_jax.stages.vlm.captioner import Captioner, add_decoding_flags, decoding_of
from mmduplex_jax.weights.trained import load_trained

_INTERRUPTED = 130
PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"))


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
        return Piece(source, clock.tick_time_s(begin), clock.tick_time_s(end), np.stack([seen[i] for i in chosen]))

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


def parser() -> argparse.ArgumentParser:
    """The flags, with a help that teaches."""
    flags = argparse.ArgumentParser(
        prog="python -m launch.caption", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--checkpoint", metavar="DIR", required=True, help="a training of stage `vlm`: its workdir, or a portable one")
    add("--source", metavar="FILE|DIR|URL", required=True, help="a picture, a video, or a folder of them")
    add_decoding_flags(flags)
    add("--every_s", type=float, metavar="SECONDS", help="from piece to piece (default: a piece's length)")
    add("--max_s", type=float, metavar="SECONDS", help="of a video no more is seen")
    add(
        "--fit",
        choices=FITS,
        default="crop",
        help="how a wide picture becomes the model's square: its centre, or all of it between bars (default: crop)",
    )
    add("--batch", type=int, default=8, help="pieces captioned at a time (default: %(default)s)")
    add("--seed", type=int, default=0, help="of --decode=sample (default: %(default)s)")
    add("--json", metavar="FILE", help="write the captions here")
    add("--only_check_args", action="store_true", help="read the flags and stop")
    return flags


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not go together or a file that cannot be written."""
    decoding_of(args)
    if args.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {args.batch}")
    for name in ("every_s", "max_s"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be more than 0 seconds, got {value}")
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise ValueError(f"--json={args.json}: there is no folder {Path(args.json).absolute().parent}")


def caption(args: argparse.Namespace) -> int:
    """Captions everything, printing as it goes; returns the exit code.

    Raises:
      FileNotFoundError: there is no checkpoint, or nothing in the folder.
      ValueError: flags or the checkpoint do not fit.
    """
    check(args)
    trained = load_trained(args.checkpoint)
    captioner = Captioner(trained, decoding_of(args), args.batch, args.seed)
    every_ticks = None
    if args.every_s is not None:
        every_ticks = trained.clock.ticks_in(args.every_s)
        if every_ticks < 1:
            raise ValueError(f"--every_s={args.every_s}: a tick of the model takes {trained.clock.tick_s} s")
    files = files_of(args.source)
    said: list[Captioned] = []
    wrong: list[dict[str, str]] = []
    code = 0
    try:
        for file in files:
            try:
                for found in caption_source(
                    captioner,
                    trained.clock,
                    file,
                    batch=args.batch,
                    first=len(said),
                    fit=args.fit,
                    every_ticks=every_ticks,
                    max_s=args.max_s,
                ):
                    said.append(found)
                    print(line_of(found), flush=True)
            except VideoError as error:
                wrong.append({"source": file, "error": str(error)})
                print(f"caption: {error}", file=sys.stderr, flush=True)
                code = 1
    except KeyboardInterrupt:
        print("caption: stopped; what was captioned so far is kept", file=sys.stderr)
        code = _INTERRUPTED
    if args.json:
        report = {
            "checkpoint": str(args.checkpoint),
            "decode": args.decode,
            "captions": [found._asdict() for found in said],
            "errors": wrong,
        }
        Path(args.json).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"wrote {args.json}")
    return code


def line_of(found: Captioned) -> str:
    """A caption as a person reads it."""
    name = Path(found.source).name
    when = f" [{found.start_s:7.2f}s - {found.end_s:7.2f}s]" if found.end_s else ""
    return f"{name}{when} {found.text}"


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, runs; errors go to stderr as one line."""
    args = parser().parse_args(argv)
    try:
        if args.only_check_args:
            check(args)
            return 0
        return caption(args)
    except (ValueError, OSError) as error:
        print(f"caption: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
