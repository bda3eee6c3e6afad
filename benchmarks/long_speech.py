"""Does it fall silent, or into loops? Many streams, free-running for ten and more training windows of the world.

    python -m benchmarks.long_speech --json=long.json
    python -m benchmarks.long_speech --checkpoint=runs/quickstart --minutes=10 --streams=16
    python -m benchmarks.long_speech --scene=cuts --no-anew_at_cuts
    python -m benchmarks.long_speech --anew
    python -m benchmarks.long_speech --checkpoint=real --look=real --pack=DIR --minutes=4 --streams=8

A stream is one scene that goes on all the time (`--scene=one`), or clips of a window's length with a cut between them
(`--scene=cuts`: everything changes at once, at which a commentator says nothing). At a cut that is seen
(`streaming/cuts.py`) streams begin anew, if the model's do, or as --anew_at_cuts says. In every window what is said
is set against what the commentator says, and all windows against the first: see `evals/long_streams.py`. What happens
in a long scene changes with time, too; `--anew` is the control that tells it from what age does to the model.

With --look=real scenes are of the look `real`, made of a pack (docs/data.md) without the cameras that the model's
training held back.
"""

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from data_pipelines.schema import Event
from data_pipelines.world import RealWorldConfig, World, WorldConfig, event_words, make_clip, split_phrases
from data_pipelines.world.grammar import Splitter
from data_pipelines.world.real.pack import read_pack
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Commentator, load
from mmduplex_jax.evals.evaluation import phrases_in
from mmduplex_jax.evals.long_streams import TimedText, count, report
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show
from mmduplex_jax.streaming.batch import UNCAPPED
from mmduplex_jax.streaming.cuts import CutDetector, cells_of
from mmduplex_jax.typing import Array, Bool, Int32, PyTree, UInt8
from mmduplex_jax.weights.trained import CHECKPOINT_HELP
from mmduplex_jax.word_decoder import decode_words

# Clips that no training has frames have seeds of their own.
_SEED = 7001
# Of every stream, on the device at once.
_PART_S = 60.0


@dataclasses.dataclass(frozen=True)
class Stream:
    """What is to be frames and said in one stream: uint8 `[T, H, W, 3]`, and the commentator's words and events."""

    frames: np.ndarray
    words: tuple[TimedText, ...]
    events: tuple[Event, ...]


def make_stream(world: World, window_s: float, windows: int, cuts: bool, index: int) -> Stream:
    """The `index`-th stream of a world, of so many windows: one scene, or one a window."""
    length_s, scenes = (window_s, windows) if cuts else (window_s * windows, 1)
    config = dataclasses.replace(world, clip_s=length_s)
    clips = [make_clip(config, _SEED, index * scenes + k) for k in range(scenes)]
    shifted = [(k * window_s, clip) for k, clip in enumerate(clips)]
    return Stream(
        np.concatenate([clip.frames for clip in clips]),
        tuple(TimedText(word.text, word.start_s + at_s) for at_s, clip in shifted for word in clip.words),
        tuple(dataclasses.replace(event, t_s=event.t_s + at_s) for at_s, clip in shifted for event in clip.events),
    )


def free_run(
    model: Commentator,
    frames: Sequence[UInt8[np.ndarray, "T H W 3"]],
    delay_steps: int,
    pad_bias: float,
    part_s: float = _PART_S,
    anew: bool = False,
    anew_at_cuts: bool = False,
) -> np.ndarray:
    """int32 `[B, S]`: the slots that streams say.

    Args:
      frames: of every stream, all equally long.
      delay_steps: steps that words run behind the picture.
      pad_bias: added to silence's logit.
      part_s: so much goes to the device at once.
      anew: begin every part as if nothing had been before it.
      anew_at_cuts: streams begin anew at the cuts that are seen in their frames.
    """
    live, stride = model.live, model.clock.video_stride
    batch, ticks = len(frames), len(frames[0])
    settings = jnp.ones(batch, bool), jnp.full(batch, delay_steps, jnp.int32), jnp.full(batch, pad_bias, jnp.float32)
    uncapped = jnp.full(batch, UNCAPPED, jnp.int32)

    @functools.partial(jax.jit, donate_argnums=1)
    def run(
        params: PyTree, state: PyTree, frames: UInt8[Array, "T B H W 3"], begins: Bool[Array, "T B"]
    ) -> tuple[PyTree, Int32[Array, "S B"]]:
        def begin_row(row: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            state, begin = carry
            return jax.lax.cond(begin[row], lambda s: live.reset_row(params, s, row), lambda s: s, state), begin

        def tick(state: PyTree, shown: tuple[Array, Array]) -> tuple[PyTree, Array]:
            frame, begin = shown
            state, _ = jax.lax.fori_loop(0, batch, begin_row, (state, begin))

            def step(state: PyTree, _: None) -> tuple[PyTree, Array]:
                state, output = live.live_step(params, state, frame, *settings, cap=uncapped)
                return state, output.token

            return jax.lax.scan(step, state, None, length=stride)

        state, tokens = jax.lax.scan(tick, state, (frames, begins))
        return state, rearrange(tokens, "ticks stride b -> (ticks stride) b")

    begin = jax.jit(lambda params: live.init_state(params, batch))
    state = begin(model.params)
    per_part = model.clock.ticks_in(part_s)
    begins = np.stack([_cuts(stream, model.clock) for stream in frames], axis=1) & anew_at_cuts
    said = []
    for first in range(0, ticks, per_part):
        part = np.stack([stream[first : first + per_part] for stream in frames], axis=1)
        if anew and first:
            state = begin(model.params)
        state, tokens = run(model.params, state, part, begins[first : first + per_part])
        said.append(np.asarray(tokens))
        print(f"\r{min(ticks, first + per_part) / ticks:4.0%} watched", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return np.concatenate(said).T


def _cuts(frames: UInt8[np.ndarray, "T H W 3"], clock: Clock) -> np.ndarray:
    """Before which frames of a stream there is a cut, bool `[T]`."""
    detector = CutDetector()
    return np.array([detector.is_cut(clock.tick_time_s(tick), cells_of(frame)) for tick, frame in enumerate(frames)])


def long_speech(
    model: Commentator, streams: Sequence[Stream], window_s: float, args: argparse.Namespace, split: Splitter
) -> dict:
    """Lets the model watch the streams, and counts; see `evals/long_streams.report`."""
    clock, delay = model.clock, model.delays.usual
    part_s = window_s if args.anew else _PART_S
    frames = [stream.frames for stream in streams]
    slots = free_run(model, frames, delay, args.pad_bias, part_s, args.anew, args.anew_at_cuts)
    windows = round(clock.tick_time_s(len(streams[0].frames)) / window_s)
    counts = []
    for row, stream in zip(slots, streams, strict=True):
        said = [TimedText(word.text, word.t_video_s) for word in decode_words(row, model.tokenizer, clock, delay)]
        phrases = phrases_in(row, model.tokenizer, clock, split)
        counts.append(count(said, stream.words, stream.events, phrases, window_s, windows))
    return report(np.stack(counts), window_s)


def table(found: dict[str, Any]) -> str:
    """The report for people."""
    head = "from s   words/s said  expected   repeated said  expected     F1  silent   speech, repeats to first window"
    lines = [head]
    for w, row in enumerate(found["windows"]):
        first = found["to_first"][w - 1] if w else None
        ratio = "" if first is None else "   ".join(_interval(first[name]) for name in ("speech", "repeats"))
        lines.append(
            f"{row['from_s']:6.0f}   {row['said_per_s']:12.3f}  {row['expected_per_s']:8.3f}   "
            f"{row['repeated_share']:13.4f}  {row['expected_repeated_share']:8.4f}  {row['f1'] or 0.0:5.3f}  "
            f"{row['silent']:6d}   {ratio}"
        )
    later = found["later"]
    said = ", ".join(f"{name} {_interval(later[name])}" for name in later)
    return "\n".join([*lines, f"all later windows to the first: {said}"])


def _interval(value: dict[str, float | None]) -> str:
    return f"{value['value']} ({value['low']} to {value['high']})"


def world_of(args: argparse.Namespace, model: Commentator) -> tuple[World, Splitter]:
    """What is to be seen, in frames as the model's, and the grammar of what is said of it.

    Raises:
      ValueError: --pack is missing, or is of no use to --look.
    """
    if (args.look == "real") != bool(args.pack):
        raise ValueError("--look=real needs --pack=DIR, and no other look takes one")
    if not args.pack:
        return WorldConfig(look=args.look, frame_px=model.frame_px), split_phrases
    held = model.config.data.get("held_cameras") or ""
    classes = (*event_words.CLASSES, *read_pack(args.pack, held).classes)
    return (
        RealWorldConfig(args.pack, exclude_cameras=held, frame_px=model.frame_px),
        lambda words: event_words.split_phrases(words, classes),
    )


def work(args: argparse.Namespace) -> None:
    """Lets the model watch, prints the table and writes it."""
    model = load(args.checkpoint)
    window_s = float(model.config.data.clip_s)
    windows = round(60.0 * args.minutes / window_s)
    if windows < 2 or args.streams < 1:
        raise ValueError(f"at least 2 windows of {window_s} s and 1 stream are needed")
    world, split = world_of(args, model)
    make = functools.partial(make_stream, world, window_s, windows, args.scene == "cuts")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as processes:
        streams = list(processes.map(make, range(args.streams)))
    if args.anew_at_cuts is None:
        args.anew_at_cuts = model.anew_at_cuts
    found = long_speech(model, streams, window_s, args, split)
    settings = {name: getattr(args, name) for name in ("look", "scene", "minutes", "anew", "anew_at_cuts")}
    show(args, {"model": model.name, **settings, **found}, table(found))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.long_speech", __doc__)
    add = flags.add_argument
    add("--checkpoint", default="world", metavar="NAME|DIR", help=f"{CHECKPOINT_HELP} (default: %(default)s)")
    add("--look", default="plain", choices=("plain", "rich", "real"), help="of the world (default: %(default)s)")
    add("--pack", metavar="DIR", help="with --look=real: the pack of cut-outs and backgrounds")
    add("--scene", default="one", choices=("one", "cuts"), help="one scene, or a cut a window (default: %(default)s)")
    add("--minutes", type=float, default=2.0, help="length of every stream (default: %(default)s)")
    add("--streams", type=int, default=64, help="how many (default: %(default)s)")
    add("--anew", action="store_true", help="the control: the model begins anew with every window")
    add(
        "--anew_at_cuts",
        action=argparse.BooleanOptionalAction,
        help="whether streams begin anew at cuts (default: as the model's do)",
    )
    add("--pad_bias", type=float, default=0.0, help="added to silence's logit (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, OSError: 2})


if __name__ == "__main__":
    sys.exit(main())
