"""Whether a thing that comes back is known again: "is back" against "enters", by how long it was away.

    python -m benchmarks.memory --checkpoint=runs/memory
    python -m benchmarks.memory --checkpoint=runs/memory --silences_s=0,30,600 --streams=32 --json=memory.json

Streams of the built-in world (`returns`, seeds that no training has seen) in which things come and go, then nothing
happens for the time of the silence, and then things come that were there before it, and others that never were. At the
word where the two phrases part, all words before it the commentator's own, the logit of "is" is compared with that of
"enters". The balanced accuracy is the mean of two: over things that come back, and over things never seen. Who always
says the same has 0.5.

With a silence of 0 s things are away as long as it happens; those away for less than the model's windows reach are told
by themselves. `emptied`: the same model, its memory emptied after every tick.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from data_pipelines.packing import pack_words
from data_pipelines.schema import Event
from data_pipelines.world.clip import plan_clip
from data_pipelines.world.commentator import phrase
from data_pipelines.world.config import RETURNS, WorldConfig
from data_pipelines.world.drawing import Painter
from mmduplex_jax.evals.report import cell, markdown_table
from mmduplex_jax.models.dual_stream import delayed
from mmduplex_jax.models.event_memory import MemoryState, emptied
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, listed, run_main, show, shown_on
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.stages.registry import find_stage
from mmduplex_jax.weights.trained import Trained, load_trained

# What is lively of a stream; the silence comes on top.
_LIVELY_S = 40.0
# Streams go through the model in pieces, so that an hour of them need not fit in memory.
_PIECE_TICKS = 125
_RESAMPLINGS = 2000


class Question(NamedTuple):
    """A thing that comes, and whether the model said that it was there before.

    Attributes:
      away_s: since it was last there; None for one never seen.
      after: whether it comes after the silence.
      margin: logit of "is" minus that of "enters".
    """

    stream: int
    away_s: float | None
    after: bool
    margin: float

    @property
    def right(self) -> bool:
        return (self.margin > 0) == (self.away_s is not None)


def world_of(config: Any, silence_s: float) -> WorldConfig:
    """Streams with such a silence, at the clock and size of a model's config."""
    world = WorldConfig(
        clip_s=_LIVELY_S + silence_s,
        frame_px=config.frame_px,
        step_hz=config.clock.step_hz,
        video_stride=config.clock.video_stride,
    )
    dynamics = dataclasses.replace(
        world.dynamics,
        kinds=("enters", "leaves"),
        max_things=2,
        initial_things=(0, 0),
        busy_gap_s=(1.7, 2.2),
        returns=0.5,
        quiet_s=(silence_s, silence_s),
    )
    return dataclasses.replace(world, dynamics=dynamics)


def silence_of(events: Sequence[Event], silence_s: float) -> float:
    """When the silence is over: at the first event that comes so long after the one before it."""
    for before, event in zip(events, events[1:]):
        if silence_s and event.t_s - before.t_s >= silence_s:
            return event.t_s
    return 0.0


class Asked(NamedTuple):
    """A stream to be shown, and where it asks.

    Attributes:
      painter: draws it.
      slots: int32 `[S]`, at delay 0.
      steps: int `[questions]`, the slots at which the phrases part, at delay 0.
      away_s, after: see `Question`.
    """

    painter: Painter
    slots: np.ndarray
    steps: list[int]
    away_s: list[float | None]
    after: list[bool]


def ask(trained: Trained, world: WorldConfig, silence_s: float, seed: int, index: int) -> Asked:
    """The `index`-th stream of a seed."""
    scene, words, rng = plan_clip(world, seed, index)
    tokenizer, clock = trained.tokenizer, world.clock
    ids = [tokenizer.encode_word(word.text) for word in words]
    num_steps = clock.ticks_in(world.clip_s) * clock.video_stride
    given = [(tokens, word.start_s) for tokens, word in zip(ids, words, strict=True)]
    packed = pack_words(given, clock, num_steps, tokenizer.pad_id, tokenizer.word_id)
    over_s = silence_of(scene.events, silence_s)
    asked = Asked(Painter(world, scene, rng), packed.slots, [], [], [])
    left_s: dict[str, float] = {}
    said = 0
    for event in scene.events:
        if event.kind in ("enters", RETURNS):
            other = dataclasses.replace(event, kind=RETURNS if event.kind == "enters" else "enters")
            pairs = zip(phrase(event), phrase(other), strict=False)
            parts = said + next(i for i, (one, two) in enumerate(pairs) if one != two)
            # One slot on from the word's mark.
            step = clock.step_at(words[parts].start_s) + int(packed.lag_steps[parts]) + 1
            asked.steps.append(step)
            asked.away_s.append(event.t_s - left_s[event.subject] if event.kind == RETURNS else None)
            asked.after.append(event.t_s >= over_s)
        elif event.kind == "leaves":
            left_s[event.subject] = event.t_s
        said += len(phrase(event))
    return asked


def make_watch(live: LiveModel, ids: tuple[int, int], empty: bool) -> Callable[..., tuple[Any, Any]]:
    """A compiled `(params, state, frames, slots, delay) -> (state, margins [B, S])` over a piece of streams.

    Args:
      ids: of "is" and "enters".
      empty: whether memory is emptied after every tick.
    """
    stride = live.config.clock.video_stride

    @jax.jit
    def watch(params, state, frames, slots, delay):
        batch = len(frames)
        active, bias = jnp.ones((batch,), bool), jnp.zeros((batch,))

        def tick(state, shown):
            frame, forced = shown

            def step(state, slot):
                state, out = live.live_step(params, state, frame, active, delay, bias, forced=slot)
                return state, out.logits[:, ids[0]] - out.logits[:, ids[1]]

            state, margins = jax.lax.scan(step, state, forced)
            if empty and isinstance(state.memory, MemoryState):
                state = state._replace(memory=emptied(state.memory))
            return state, margins

        by_tick = rearrange(slots, "b (ticks stride) -> ticks stride b", stride=stride)
        state, margins = jax.lax.scan(tick, state, (rearrange(frames, "b ticks h w c -> ticks b h w c"), by_tick))
        return state, rearrange(margins, "ticks stride b -> b (ticks stride)")

    return watch


def questions(
    trained: Trained, silence_s: float, streams: int, batch: int, seed: int, controls: Sequence[str]
) -> dict[str, list[Question]]:
    """What the model answers on `streams` streams with a silence, by control (`memory`, `emptied`)."""
    world, task = world_of(trained.config, silence_s), cast(DuplexTask, trained.task)
    clock, delay_steps = world.clock, int(trained.config.delay.eval)
    live = LiveModel(task.config)
    example = Event(0.0, "enters", "red circle", "left")
    two = zip(phrase(dataclasses.replace(example, kind=RETURNS)), phrase(example), strict=False)
    back, enters = next((one, other) for one, other in two if one != other)
    ids = (trained.tokenizer.encode_word(back)[0], trained.tokenizer.encode_word(enters)[0])
    watches = {control: make_watch(live, ids, control == "emptied") for control in controls}
    delay = jnp.full((batch,), delay_steps, jnp.int32)
    # The last piece is as long as the others; what it shows beyond the stream's end is not asked about.
    ticks = -(-clock.ticks_in(world.clip_s) // _PIECE_TICKS) * _PIECE_TICKS
    found: dict[str, list[Question]] = {control: [] for control in controls}
    for first in range(0, streams, batch):
        asked = [ask(trained, world, silence_s, seed, first + row) for row in range(batch)]
        said = np.full((batch, ticks * clock.video_stride), trained.tokenizer.pad_id, np.int32)
        said[:, : len(asked[0].slots)] = np.stack([one.slots for one in asked])
        slots = delayed(jnp.asarray(said), delay, trained.tokenizer.pad_id)
        states = {control: live.init_state(trained.params, batch) for control in controls}
        margins: dict[str, list[np.ndarray]] = {control: [] for control in controls}
        for begin in range(0, ticks, _PIECE_TICKS):
            times_s = np.array([clock.tick_time_s(tick) for tick in range(begin, begin + _PIECE_TICKS)])
            frames = np.stack([one.painter.frames(times_s) for one in asked])
            piece = slots[:, begin * clock.video_stride : (begin + _PIECE_TICKS) * clock.video_stride]
            for control, watch in watches.items():
                states[control], margin = watch(trained.params, states[control], frames, piece, delay)
                margins[control].append(np.asarray(margin))
        for control in controls:
            of_steps = np.concatenate(margins[control], axis=1)
            for row, one in enumerate(asked):
                for step, away_s, after in zip(one.steps, one.away_s, one.after, strict=True):
                    margin = float(of_steps[row, step + delay_steps])
                    found[control].append(Question(first + row, away_s, after, margin))
    return found


def accuracy(asked: Sequence[Question]) -> float | None:
    """The balanced accuracy; None where one of the two kinds is lacking."""
    kinds = [[q.right for q in asked if (q.away_s is not None) == back] for back in (True, False)]
    return float(np.mean([np.mean(kind) for kind in kinds])) if all(kinds) else None


def row_of(asked: Sequence[Question], name: str, control: str, seed: int = 0) -> dict[str, Any]:
    """A line of the table: accuracies and, over resampled streams, within what 95 % of them lie."""
    streams = sorted({q.stream for q in asked})
    by_stream = {stream: [q for q in asked if q.stream == stream] for stream in streams}
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(_RESAMPLINGS if streams else 0):
        value = accuracy([q for stream in rng.choice(streams, len(streams)) for q in by_stream[stream]])
        if value is not None:
            drawn.append(value)
    back = [q for q in asked if q.away_s is not None]
    new = [q for q in asked if q.away_s is None]
    mean = lambda flags: float(np.mean(flags)) if flags else None
    away_s = [q.away_s for q in back if q.away_s is not None]
    return {
        "away": name,
        "control": control,
        "balanced": accuracy(asked),
        "low": float(np.quantile(drawn, 0.025)) if drawn else None,
        "high": float(np.quantile(drawn, 0.975)) if drawn else None,
        "back_right": mean([q.right for q in back]),
        "new_right": mean([q.right for q in new]),
        "back": len(back),
        "new": len(new),
        "away_s_median": float(np.median(away_s)) if away_s else None,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = []
    for row in rows:
        balanced, low, high, back, new = (
            cell(row[name], ".2f") for name in ("balanced", "low", "high", "back_right", "new_right")
        )
        asked, away = f"{row['back']} + {row['new']}", cell(row["away_s_median"], ".0f")
        away = away if away == "-" else f"{away} s"
        lines.append([row["away"], row["control"], f"{balanced} ({low} to {high})", back, new, asked, away])
    head = ["silence", "model", "balanced (95 %)", "back", "never seen", "asked", "away, median"]
    return markdown_table(head, lines)


def work(args: argparse.Namespace) -> None:
    """Asks the model, prints the table and writes it."""
    if args.streams < 1 or args.batch < 1 or args.streams % args.batch or min(args.silences_s) < 0:
        raise ValueError("--streams must be a multiple of --batch, both positive, and no silence negative")
    trained = load_trained(args.checkpoint)
    if find_stage(trained.config.stage).OUTPUT != "commentary":
        raise ValueError(f"{trained.folder} is of stage {trained.config.stage!r}: give a training of stage 'duplex'")
    task: Any = trained.task
    model, memory = task.config, task.config.memory
    controls = ("memory", "emptied") if memory is not None else ("no memory",)
    recent_s = trained.clock.step_time_s(model.video.window_steps)
    rows = []
    for silence_s in args.silences_s:
        found = questions(trained, silence_s, args.streams, args.batch, args.seed, controls)
        for control, asked in found.items():
            if silence_s:
                # What comes, leaves and comes again after the silence was not away for as long as it.
                through = [q for q in asked if q.after and (q.away_s is None or q.away_s >= silence_s)]
                rows.append(row_of(through, f"{silence_s:g} s", control))
            else:
                soon = lambda q: q.away_s is None or q.away_s < recent_s
                rows.append(row_of([q for q in asked if soon(q)], f"none, away under {recent_s:g} s", control))
                rows.append(row_of([q for q in asked if q.away_s is None or not soon(q)], "none, longer", control))
        print(table(rows[-len(controls) * (1 if silence_s else 2) :]), file=shown_on(args.json), flush=True)
    kept = {"bytes_a_stream": memory.bytes_a_stream, "event_tokens": memory.ring_size} if memory is not None else {}
    settings = {"checkpoint": str(args.checkpoint), "steps": trained.steps, "streams": args.streams}
    show(args, {**settings, **kept, "rows": rows}, f"\n{table(rows)}\n\nmemory: {kept or 'none'}")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.memory", __doc__)
    add = flags.add_argument
    add("--checkpoint", required=True, metavar="DIR", help="a training of `configs/memory_quickstart.py`, or another")
    silences = "0,10,30,60,300,600"
    add("--silences_s", type=listed(float), default=silences, help="lengths of silences (default: %(default)s)")
    add("--streams", type=int, default=64, help="streams of every silence (default: %(default)s)")
    add("--batch", type=int, default=16, help="streams at a time (default: %(default)s)")
    add("--seed", type=int, default=7919, help="of the streams; trainings have 0 (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, work, {FileNotFoundError: 2, ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
