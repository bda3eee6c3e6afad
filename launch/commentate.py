"""Watch a video and say what happens in it, while it happens.

    python -m launch.commentate --source=match.mp4                       as fast as it can
    python -m launch.commentate --source=match.mp4 --realtime            at the video's own speed, as a viewer sees it
    python -m launch.commentate --source=0                               your camera (its number), or an rtsp:// address
    python -m launch.commentate --source=match.mp4 --out=words.vtt --render=out.mp4 --json=report.json
    python -m launch.commentate --checkpoint=runs/quickstart --source=match.mp4     one that you trained; or "world"
    python -m launch.commentate --random_init=configs/bflow_75m.py --source=match.mp4    random parameters: for speed
    python -m launch.commentate --server=http://127.0.0.1:8080 --source=match.mp4        the model of a launch.serve

Words are printed as they come, a line for each sentence (or phrase, where the model marks no sentences): first the time
of the picture that it is about, at the end the time at which its first word was said (in the video's time; with
--realtime by the clock on the wall).

    [ 12.40s] red circle enters left   (said 12.72s)

A model that speaks is heard with --speech=FILE and in --render, at the video's times, as its words are. Its codec lies
beside it (`launch.export --codec`) or is named by --codec.

At the end comes a report; --json writes it with every word:
  real_time_factor          seconds of video watched in a second: 4 is four times as fast as it plays
  tokens_in_any_second_max  the most video tokens that any second held; more than the model's cap only with a cut in it
  step_ms, tick_ms          time of one text step; of a whole tick (a frame and its steps), compilation not counted
  word_lag_p50_s            from the picture to the word, median
  dropped_frames            with --realtime a model that is too slow drops the oldest frames, never words
  error                     why the source broke (exit code 1; what was said until then is kept), or null

Ctrl-C ends the run, finishes the files, and gives exit code 130.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.video_source import VideoError, redact
from mmduplex_jax import commentator
from mmduplex_jax.client import TOKEN_VARIABLE, read_token
from mmduplex_jax.client.session import RemoteCommentator, remote_commentator
from mmduplex_jax.frame_size import FITS
from mmduplex_jax.interruptible import leave, run_interruptibly
from mmduplex_jax.stages.config_file import add_json_flag, check_files, command_parser, parse_args, positive, write_json
from mmduplex_jax.streaming.captions import Terminal
from mmduplex_jax.streaming.speech import DEVICE, FORMATS, check_speech
from mmduplex_jax.streaming.statistics import format_report
from mmduplex_jax.weights.codec import CODEC_HELP
from mmduplex_jax.weights.trained import CHECKPOINT_HELP, DEFAULT, add_weights_flag

_INTERRUPTED = 130


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not go together or files that cannot be written."""
    if sum(one is not None for one in (args.checkpoint, args.random_init, args.server)) > 1:
        raise ValueError("--checkpoint, --random_init and --server are different models: give one of them")
    if args.token_file is not None and args.server is None:
        raise ValueError("--token_file is for --server")
    if (args.codec is not None or args.weights is not None) and args.server is not None:
        raise ValueError("--codec and --weights are of a model here: a --server has its own")
    if args.speech is not None:
        check_speech(args.speech)
    if args.out is not None and Path(args.out).suffix.lower() not in (".vtt", ".srt"):
        raise ValueError(f"--out={args.out}: captions are written as .vtt or .srt")
    check_files(written(args), args.source)


def written(args: argparse.Namespace) -> dict[str, Path]:
    """The files that are asked for, by flag."""
    given = {name: getattr(args, name) for name in ("out", "render", "speech", "json")}
    return {name: Path(value).absolute() for name, value in given.items() if value not in (None, "-", DEVICE)}


def commentate(args: argparse.Namespace) -> int:
    """Runs the whole thing; returns the exit code."""
    check(args)
    if args.only_check_args:
        return 0
    people = sys.stderr if args.json == "-" else sys.stdout
    say = lambda text: print(text, file=people, flush=True)
    # Nothing is written before the stream begins: until then Ctrl-C ends the program where it stands.
    model = run_interruptibly(lambda: load_model(args), "load")
    run = commentator.recording(
        model, args.source, delay_steps=args.delay, pad_bias=args.pad_bias, fit=args.fit, realtime=args.realtime,
        image_rate_hz=args.image_rate_hz, captions=args.out, film=args.render, speech=args.speech,
        listeners=[Terminal(people)], say=say,
    )  # fmt: skip
    try:
        with run as runtime, runtime.stopped_by_signals():
            report = commentator.report_of(model, runtime.run(args.max_s))
    except VideoError as error:
        write_json(args.json, commentator.unopened_report(model, args.source, error))
        raise
    write_json(args.json, report)
    say("\n" + format_report(report))
    for path in filter(Path.exists, written(args).values()):
        say(f"  wrote {path}")
    if runtime.error is not None:
        raise runtime.error
    if not report["words"]:
        say(f"  {commentator.why_silent(model, args.pad_bias)}")
    return _INTERRUPTED if runtime.stopped else 0


def load_model(args: argparse.Namespace) -> commentator.Commentator | RemoteCommentator:
    """The model that the flags name."""
    if args.server is not None:
        return remote_commentator(args.server, read_token(args.token_file), realtime=args.realtime)
    if args.random_init is not None:
        return commentator.random_commentator(args.random_init, args.seed, args.codec, args.weights)
    return commentator.load(args.checkpoint, codec=args.codec, weights=args.weights)


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, runs; errors go to stderr as one line. 0 done, 1 broken source or server, 2 wrong flags, 130 Ctrl-C."""
    flags = command_parser("launch.commentate", __doc__)
    add = flags.add_argument
    sources = "a video, an address, a camera's number, a folder of pictures or their pattern, a pipe (- is stdin)"
    add("--source", metavar="FILE|URL|NUMBER", required=True, help=sources)
    add("--image_rate_hz", type=positive, default=25.0, help="pictures a second of a folder (default: %(default)g)")
    add("--checkpoint", metavar="NAME|DIR", help=f"{CHECKPOINT_HELP} (default: {DEFAULT})")
    add("--random_init", metavar="CONFIG.py", help="instead of a checkpoint: random parameters of this config")
    add("--server", metavar="URL", help="instead of a model here: that of a server (launch.serve)")
    add("--token_file", metavar="FILE", help=f"of --server: its first line is the token; else {TOKEN_VARIABLE} is")
    add("--realtime", action="store_true", help="watch at the video's own speed")
    add("--out", metavar="FILE.vtt|.srt", help="write the words as captions")
    add("--render", metavar="FILE.mp4|.mkv", help="write the video with subtitles, the tokens' places and the sound")
    add("--speech", metavar=f"FILE|{DEVICE}", help=f"write what is heard ({', '.join(FORMATS)}), or play it")
    add("--codec", metavar="DIR", help=CODEC_HELP)
    add_weights_flag(flags)
    add_json_flag(flags, "write the report with every word")
    add("--delay", type=int, metavar="STEPS", help="steps the words run behind the picture (default: the config's)")
    add("--pad_bias", type=float, default=0.0, help="added to silence's logit: more is quieter (default: %(default)s)")
    fits = "of a picture of another shape: all of it between bars, or its centre (default: as the model was trained)"
    add("--fit", choices=FITS, help=fits)
    add("--max_s", type=positive, metavar="SECONDS", help="end after so much video (a camera never ends by itself)")
    add("--seed", type=int, default=0, help="of --random_init (default: %(default)s)")
    add("--only_check_args", action="store_true", help="read the flags and stop")
    args = parse_args(flags, argv)
    try:
        return commentate(args)
    except KeyboardInterrupt:
        print("commentate: interrupted before the first tick; nothing was written", file=sys.stderr)
        return _INTERRUPTED
    except (ValueError, OSError) as error:
        print(f"commentate: {redact(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, VideoError | ConnectionError) else 2


if __name__ == "__main__":
    leave(main())
