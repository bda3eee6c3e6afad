"""Watch a video and say what happens in it, while it happens.

    python -m launch.commentate --source=match.mp4                       the shipped model, as fast as it can
    python -m launch.commentate --source=match.mp4 --realtime            at the video's own speed, as a viewer sees it
    python -m launch.commentate --source=0                               your camera (its number); Ctrl-C ends it
    python -m launch.commentate --source=rtsp://camera.local/stream      any address that PyAV opens
    python -m launch.commentate --source=shots/%04d.jpg --image_rate_hz=10       numbered pictures, or a folder of them
    python -m launch.commentate --source=match.mp4 --out=words.vtt --render=out.mp4 --json=report.json
    python -m launch.commentate --checkpoint=runs/quickstart --source=match.mp4      a model that you trained
    python -m launch.commentate --random_init=configs/bflow_75m.py --source=match.mp4    random parameters: for speed
    python -m launch.commentate --server=http://127.0.0.1:8080 --source=match.mp4        the model of a launch.serve

What is printed. Words as they come, a line for each phrase: first the time of the picture that it is about, at the end
the time at which its first word was said (in the video's time; with --realtime by the clock on the wall).

    [ 12.40s] red circle enters left   (said 12.72s)

The loop is one step after another and never looks ahead. At the end comes a report; --json writes it with every word:
  real_time_factor          seconds of video watched in a second: 4 is four times as fast as it plays
  tokens_in_any_second_max  the most video tokens that any second held; the model's cap is never passed
  step_ms, tick_ms          time of one text step; of a whole tick (a frame and its steps), compilation not counted
  word_lag_p50_s            from the picture to the word, median

With --realtime a model that is too slow drops the oldest frames, never words; `dropped_frames` counts them.

A source that is no video ends the program at once; one that breaks on the way ends it after what could be watched. In
both cases the error says where and why, the exit code is 1, and `error` in the report is that message (null where all
went well). What was said until then is kept in every file.
Ctrl-C ends the run, finishes the files, and gives exit code 130. Passwords of addresses are shown and written as ***.
"""

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.decode import Tick, VideoReader
from data_pipelines.geometry import FITS
from data_pipelines.video_source import VideoError, VideoInfo, redact
from mmduplex_jax.client import TOKEN_VARIABLE, read_token
from mmduplex_jax.client.session import RemoteSpeaker, remote_speaker
from mmduplex_jax.commentator import Speaker, random_speaker, trained_speaker
from mmduplex_jax.interruptible import leave, run_interruptibly
from mmduplex_jax.streaming.captions import PAUSE_S, CaptionFile
from mmduplex_jax.streaming.pool import SpentTokens
from mmduplex_jax.streaming.render import PICTURE_PX, Renderer
from mmduplex_jax.streaming.runtime import Listener, Runtime
from mmduplex_jax.streaming.statistics import RunStatistics
from mmduplex_jax.word_decoder import TimedWord

_WORDS_A_LINE = 12
_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The flags, with a help that teaches."""
    flags = argparse.ArgumentParser(
        prog="python -m launch.commentate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add(
        "--source",
        metavar="FILE|URL|NUMBER",
        required=True,
        help="a video file, an address, a camera's number, a folder of pictures or their pattern, a pipe (- is stdin)",
    )
    add("--image_rate_hz", type=float, default=25.0, help="pictures a second of a folder (default: %(default)g)")
    add("--checkpoint", metavar="DIR", help="a training's workdir or a portable checkpoint (default: the shipped one)")
    add("--random_init", metavar="CONFIG.py", help="instead of a checkpoint: random parameters of this config")
    add("--server", metavar="URL", help="instead of a model here: that of a server (launch.serve)")
    add(
        "--token_file", metavar="FILE", help=f"for --server: its first line is the token; else {TOKEN_VARIABLE} is read"
    )
    add("--realtime", action="store_true", help="watch at the video's own speed")
    add("--out", metavar="FILE.vtt|.srt", help="write the words as captions")
    add("--render", metavar="FILE.mp4", help="write the video with subtitles and the tokens' places")
    add("--json", metavar="FILE", help="write the report")
    add("--delay", type=int, metavar="STEPS", help="steps the words run behind the picture (default: the config's)")
    add("--pad_bias", type=float, default=0.0, help="added to silence's logit: more is quieter (default: %(default)s)")
    add(
        "--fit",
        choices=FITS,
        default="crop",
        help="how a wide picture becomes the model's square: its centre, or all of it between bars (default: crop)",
    )
    add(
        "--max_s",
        type=float,
        metavar="SECONDS",
        help="end after so much video (a camera never ends by itself); after so much time where a live source stalls",
    )
    add("--seed", type=int, default=0, help="of --random_init (default: %(default)s)")
    add("--only_check_args", action="store_true", help="read the flags and stop")
    return flags


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not go together or files that cannot be written."""
    if sum(one is not None for one in (args.checkpoint, args.random_init, args.server)) > 1:
        raise ValueError("--checkpoint, --random_init and --server are different models: give one of them")
    if args.token_file is not None and args.server is None:
        raise ValueError("--token_file is for --server")
    if args.max_s is not None and not args.max_s > 0:
        raise ValueError(f"--max_s must be more than 0 seconds, got {args.max_s}")
    if not args.image_rate_hz > 0:
        raise ValueError(f"--image_rate_hz must be more than 0, got {args.image_rate_hz:g}")
    if args.out is not None and Path(args.out).suffix.lower() not in (".vtt", ".srt"):
        raise ValueError(f"--out={args.out}: captions are written as .vtt or .srt")
    written = {name: Path(value).absolute() for name in ("out", "render", "json") if (value := getattr(args, name))}
    for name, path in written.items():
        if not path.parent.is_dir():
            raise ValueError(f"--{name}={path}: there is no folder {path.parent}")
        if path.is_dir() or path.resolve() == Path(args.source).resolve():
            raise ValueError(f"--{name}={path} would overwrite {'a folder' if path.is_dir() else 'the source'}")
    if len(set(written.values())) < len(written):
        raise ValueError("--out, --render and --json need a file each")


class Terminal:
    """Prints words as they come, a line a phrase."""

    def __init__(self) -> None:
        self._phrase: list[TimedWord] = []

    def on_tick(self, tick: Tick, words: Sequence[TimedWord], tokens: SpentTokens, tokens_in_last_second: int) -> None:
        """Prints the tick's words."""
        for word in words:
            self._say(word)
        if self._phrase and tick.t_s - self._phrase[-1].t_emit_s >= PAUSE_S:
            self._end()

    def close(self, words: Sequence[TimedWord]) -> None:
        """Prints the last words."""
        for word in words:
            self._say(word)
        self._end()

    def _say(self, word: TimedWord) -> None:
        paused = self._phrase and word.t_emit_s - self._phrase[-1].t_emit_s >= PAUSE_S
        if paused or len(self._phrase) >= _WORDS_A_LINE:
            self._end()
        print(word.text if self._phrase else f"[{word.t_video_s:7.2f}s] {word.text}", end=" ", flush=True)
        self._phrase.append(word)

    def _end(self) -> None:
        if self._phrase:
            print(f"  (said {self._phrase[0].t_emit_s:.2f}s)", flush=True)
        self._phrase = []


class Captions:
    """A caption file as a listener."""

    def __init__(self, path: str):
        self._file = CaptionFile(path)

    def on_tick(self, tick: Tick, words: Sequence[TimedWord], tokens: SpentTokens, tokens_in_last_second: int) -> None:
        """Adds the tick's words."""
        self._file.add(words, tick.t_s)

    def close(self, words: Sequence[TimedWord]) -> None:
        """Adds the last words and ends the file."""
        for word in words:
            self._file.add([word], word.t_emit_s)
        self._file.close()


def commentate(args: argparse.Namespace) -> int:
    """Runs the whole thing; returns the exit code."""
    check(args)
    # Nothing is written before the stream begins: until then Ctrl-C ends the program where it stands.
    speaker = run_interruptibly(lambda: _speaker(args), "load")
    delays = speaker.delays
    delay_steps = delays.usual if args.delay is None else args.delay
    if not delays.least <= delay_steps <= delays.most:
        raise ValueError(
            f"--delay={delay_steps}: this model was made for delays of {delays.least} to {delays.most} steps"
        )
    try:
        reader = VideoReader(
            args.source,
            speaker.clock,
            speaker.frame_px,
            args.fit,
            picture_px=PICTURE_PX if args.render else None,
            trusted=True,
            image_rate_hz=args.image_rate_hz,
        )
    except VideoError as error:
        nothing = RunStatistics(speaker.clock).report(duration_s=0.0, wall_s=0.0, compile_s=0.0, dropped_frames=0)
        _write_report(args.json, report_of(speaker, {"source": redact(args.source), **nothing, "notes": []}, error))
        raise
    with reader:
        print(f"{reader.info.source}: {describe(reader.info)}; {speaker.name}", flush=True)
        session = run_interruptibly(lambda: speaker.session(delay_steps, args.pad_bias), "compile")
        listeners: list[Listener] = [Terminal()]
        if args.out:
            listeners.append(Captions(args.out))
        if args.render:
            listeners.append(
                Renderer(
                    args.render,
                    frame_px=speaker.frame_px,
                    fit=args.fit,
                    tokens_per_s_max=speaker.tokens_per_s_max,
                    tick_s=speaker.clock.tick_s,
                )
            )
        runtime = Runtime(session, reader, listeners, realtime=args.realtime)
        stop = lambda *_: runtime.stop()
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            report = runtime.run(args.max_s)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    report = report_of(speaker, report, runtime.error)
    _write_report(args.json, report)
    _print_report(report)
    for name in ("out", "render", "json"):
        if getattr(args, name) and Path(getattr(args, name)).exists():
            print(f"  wrote {getattr(args, name)}")
    if runtime.error is not None:
        raise runtime.error
    return _INTERRUPTED if runtime.stopped else 0


def _speaker(args: argparse.Namespace) -> Speaker | RemoteSpeaker:
    if args.server is not None:
        return remote_speaker(args.server, read_token(args.token_file), realtime=args.realtime)
    if args.random_init is not None:
        return random_speaker(args.random_init, args.seed)
    return trained_speaker(args.checkpoint)


def describe(info: VideoInfo) -> str:
    """A source in a few words: codec, size, rate and length as far as they are known."""
    length = f", {info.duration_s:.1f} s" if info.duration_s else ""
    rate = f" at {info.rate_hz:.4g} Hz" if info.rate_hz else ""
    return f"{info.codec} {info.width_px}x{info.height_px}{rate}{length}"


def report_of(
    speaker: Speaker | RemoteSpeaker, report: Mapping[str, Any], error: VideoError | ConnectionError | None
) -> dict[str, Any]:
    """A run's report with whose it is and how it ended: what `--json` writes."""
    return {
        "checkpoint": speaker.name,
        "tokens_per_s_cap": speaker.tokens_per_s_max,
        **report,
        "error": None if error is None else redact(str(error)),
    }


def _write_report(path: str | None, report: dict[str, Any]) -> None:
    if path:
        Path(path).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _print_report(report: dict[str, Any]) -> None:
    number = lambda name, form="{}": "-" if report[name] is None else form.format(report[name])
    print(
        f"\n  {number('duration_s', '{:.2f}')} s of video in {number('wall_s', '{:.2f}')} s: "
        f"{number('real_time_factor', '{:.1f}')} x real time (compiled in {number('compile_s', '{:.1f}')} s before)\n"
        f"  {report['ticks']} ticks, {report['dropped_frames']} dropped; tokens a second: "
        f"{number('tokens_per_s_mean', '{:.1f}')} on average, {report['tokens_in_any_second_max']} at most "
        f"(cap {report['tokens_per_s_cap']})\n"
        f"  a step takes {number('step_ms_p50')} ms (p95 {number('step_ms_p95')}, p99 {number('step_ms_p99')}), "
        f"a tick {number('tick_ms_p50')} ms\n"
        f"  {len(report['words'])} words, {number('word_lag_p50_s', '{:.2f}')} s after the picture (median)"
    )
    for note in report["notes"]:
        print(f"  note: {note}")


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, runs; errors go to stderr as one line. 0 done, 1 broken source or server, 2 wrong flags, 130 Ctrl-C."""
    flags = parser()
    args = flags.parse_args(argv)
    try:
        if args.only_check_args:
            check(args)
            return 0
        return commentate(args)
    except KeyboardInterrupt:
        print("commentate: interrupted before the first tick; nothing was written", file=sys.stderr)
        return _INTERRUPTED
    except (VideoError, ConnectionError) as error:
        print(f"commentate: {redact(str(error))}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"commentate: {redact(str(error))}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    leave(main())
