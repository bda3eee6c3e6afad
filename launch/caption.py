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
import sys
from collections.abc import Sequence

from data_pipelines.video_source import VideoError, redact
from mmduplex_jax.frame_size import FITS
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, parse_args, write_json
from mmduplex_jax.stages.vlm.captioner import (
    DECODING_FLAGS,
    Captioned,
    Captioner,
    caption_source,
    decoding_of,
    files_of,
    line_of,
)
from mmduplex_jax.weights.trained import load_trained

_INTERRUPTED = 130


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not go together or a file that cannot be written."""
    if args.batch < 1:
        raise ValueError(f"--batch must be at least 1, got {args.batch}")
    for name in ("every_s", "max_s"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be more than 0 seconds, got {value}")


def caption(args: argparse.Namespace) -> int:
    """Captions everything, printing as it goes; returns the exit code.

    Raises:
      FileNotFoundError: there is no checkpoint, or nothing in the folder.
      ValueError: flags or the checkpoint do not fit.
    """
    check(args)
    decoding = decoding_of(**{name: value for name, value in vars(args).items() if name in DECODING_FLAGS})
    trained = load_trained(args.checkpoint)
    captioner = Captioner(
        trained.task, trained.config, trained.tokenizer, decoding, args.batch, args.seed, trained.params
    )
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
                    if args.json != "-":
                        print(line_of(found), flush=True)
            except VideoError as error:
                wrong.append({"source": redact(file), "error": str(error)})
                print(f"caption: {error}", file=sys.stderr, flush=True)
                code = 1
    except KeyboardInterrupt:
        print("caption: stopped; what was captioned so far is kept", file=sys.stderr)
        code = _INTERRUPTED
    captions = [found._asdict() for found in said]
    write_json(
        args.json, {"checkpoint": str(args.checkpoint), "decode": decoding.how, "captions": captions, "errors": wrong}
    )
    if args.json not in (None, "-"):
        print(f"wrote {args.json}")
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, runs; errors go to stderr as one line."""
    flags = command_parser("launch.caption", __doc__)
    add = flags.add_argument
    add("--checkpoint", metavar="DIR", required=True, help="a training of stage `vlm`: its workdir, or a portable one")
    add("--source", metavar="FILE|DIR|URL", required=True, help="a picture, a video, or a folder of them")
    for name, values in DECODING_FLAGS.items():
        add(f"--{name}", default=argparse.SUPPRESS, **values)
    add("--every_s", type=float, metavar="SECONDS", help="from piece to piece (default: a piece's length)")
    add("--max_s", type=float, metavar="SECONDS", help="of a video no more is seen")
    add(
        "--fit",
        choices=FITS,
        help="of a picture of another shape: all of it between bars, or its centre (default: as the model was trained)",
    )
    add("--batch", type=int, default=8, help="pieces captioned at a time (default: %(default)s)")
    add("--seed", type=int, default=0, help="of --decode=sample (default: %(default)s)")
    add_json_flag(flags, "write the captions here as JSON")
    add("--only_check_args", action="store_true", help="read the flags and stop")
    args = parse_args(flags, argv)
    try:
        if args.only_check_args:
            check(args)
            decoding_of(**{name: value for name, value in vars(args).items() if name in DECODING_FLAGS})
            return 0
        return caption(args)
    except (ValueError, OSError) as error:
        print(f"caption: {redact(str(error))}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
