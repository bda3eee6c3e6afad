"""The parts of `benchmarks.accelerator`: each measures something, row by row, in a process of its own.

    python -m benchmarks.accelerator_parts '{"part": "live", "out": "DIR", "until_s": 1.8e9, "rehearse": false}'

`OUT/PART.json` is written after every row: what is there when a process is stopped was measured. Rows of an earlier
process that are there without an error are kept and not measured again.
"""

import dataclasses
import functools
import gc
import importlib.util
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flax.traverse_util import flatten_dict

# Said wherever there is an MFU.
COUNTED = (
    "A multiply-add is two operations. Counted are the matrix products of forward and backward passes as they are "
    "traced (mmduplex_jax/planning/traced.py). Attention counts every query with every key that it is given: it is "
    "not halved for causality, nor is what a window masks taken off. Fused attention counts as what einsum does for "
    "the same model, without the features that its kernel is padded to. What remat or a kernel computes again is not "
    "counted. The peak is that of dense bfloat16 products, whatever a row's dtype; a CPU's is a float32 product's."
)
# Tokens of a turn in CASA's protocol (Kyutai, 2512.19535; scripts/speed_bench_streaming.py): one frame, then so many.
TURN_TOKENS = 16
ATTENTION = ("einsum", "fused")
DONE, PARTIAL, FAILED, SKIPPED = "done", "partial", "failed", "skipped"


class Skipped(Exception):
    """A part has nothing to measure here; its text says why."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
      duplex, changes: the config of the duplex, and other values of its fields, by their names with dots.
      train_batches: clips a step; the first that does not fit is the last.
      twin_changes, twin_rows: of the comparison with PyTorch.
      compiled: whether PyTorch is also compiled.
      live_batches: streams at once.
      live_most, sessions_most: no larger number of streams is tried, of steps alone and with decoding.
      live_steps: that are timed of each.
      session_s: how long each number of streams is played where decoding is included.
      turns: of CASA's protocol.
      small: a name, a config, other values of its fields, and samples a step.
      rounds, steps: of training.
      feed_clips, feed_batch, feed_batches: clips that are written and read; in a batch; batches that are timed.
      feed_world: other values of `configs/data/world.py`.
    """

    duplex: str
    changes: Mapping[str, Any]
    train_batches: Sequence[int]
    twin_changes: Mapping[str, Any]
    twin_rows: int
    compiled: bool
    live_batches: Sequence[int]
    live_most: int
    sessions_most: int
    live_steps: int
    session_s: float
    turns: int
    small: Sequence[tuple[str, str, Mapping[str, Any], Sequence[int]]]
    rounds: int
    steps: int
    feed_clips: int
    feed_batch: int
    feed_batches: int
    feed_world: Mapping[str, Any]


_NONE: Mapping[str, Any] = MappingProxyType({})
FULL = Sizes(
    duplex="configs/duplex_300m.py",
    changes=_NONE,
    train_batches=(8, 32, 64, 128, 16),
    twin_changes={"text.scan": True, "video_stream.scan": True},
    twin_rows=8,
    compiled=True,
    live_batches=(1, 8, 64, 256),
    live_most=2048,
    sessions_most=2048,
    live_steps=400,
    session_s=8.0,
    turns=512,
    small=(
        ("bflow_75m", "configs/bflow_75m.py", _NONE, (8, 32)),
        ("bflow_75m, bfloat16", "configs/bflow_75m.py", {"tokenizer.dtype": "bfloat16"}, (8, 32)),
        ("clip_s16", "configs/clip_s16.py", _NONE, (64, 256)),
    ),
    rounds=3,
    steps=5,
    feed_clips=64,
    feed_batch=8,
    feed_batches=60,
    feed_world={"look": "rich", "frame_px": (224, 224)},
)
# What the full size has, of a layer or two, in clips of a second.
_STACK = {"width": 64, "heads": 2, "kv_heads": 1, "head_width": 32, "hidden": 64, "window_s": 2.0, "remat": False}
_TOWER = {"width": 64, "layers": 1, "heads": 2, "hidden": 64, "remat": False}
_TINY: Mapping[str, Any] = {
    "data.clip_s": 1.28,
    "frame_px": (64, 64),
    "vocab_rows_min": 0,
    # Motion and crops are what takes long to compile.
    "tokenizer.kind": "uniform",
    "tokenizer.width": 64,
    "tokenizer.motion.plane_px": (32, 32),
    "tokenizer.motion.search_radius": 2,
    "tokenizer.budget.nms_radius_px": 9,
    "tokenizer.anchor.readout_layers": 1,
    **{f"tokenizer.anchor.tower.{name}": value for name, value in _TOWER.items()},
    **{
        f"tokenizer.flow.{name}": value for name, value in {"crop_px": 16, "width": 64, "layers": 1, "heads": 2}.items()
    },
    "tokenizer.state.heads": 2,
    **{f"tokenizer.event.{name}": value for name, value in (_STACK | {"layers": 1}).items()},
    **{f"video_stream.{name}": value for name, value in (_STACK | {"layers": 1}).items()},
    **{f"text.{name}": value for name, value in (_STACK | {"layers": 2, "cross_every": 2}).items()},
}
REHEARSAL = Sizes(
    duplex="configs/duplex_300m.py",
    changes=_TINY,
    train_batches=(1,),
    twin_changes=_TINY,
    twin_rows=1,
    compiled=False,
    live_batches=(1,),
    live_most=1,
    sessions_most=1,
    live_steps=8,
    session_s=1.0,
    turns=10,
    small=(("clip", "configs/clip_quickstart.py", {"vision.layers": 1, "text.layers": 1, "time.layers": 1}, (2,)),),
    rounds=1,
    steps=1,
    feed_clips=2,
    feed_batch=1,
    feed_batches=4,
    feed_world={"clip_s": 4.48},
)


class Rows:
    """What a part has measured so far, in its file as soon as it is there.

    Attributes:
      folder: where all parts write.
      rehearse: whether this is a rehearsal.
    """

    def __init__(self, folder: Path, part: str, until_s: float, rehearse: bool):
        """Takes over what an earlier process has left.

        Args:
          until_s: by `time.time`; after it no row is begun.
        """
        self.folder, self.rehearse = folder, rehearse
        self._file, self._until_s, self._dearest_s = folder / f"{part}.json", until_s, 0.0
        before = json.loads(self._file.read_text(encoding="utf-8")) if self._file.is_file() else {}
        kept = [row for row in before.get("rows", []) if is_measured(row)]
        self.report: dict[str, Any] = {
            "part": part,
            "status": "running",
            "dates": before.get("dates", []) if kept else [],
            "rows": kept,
            "flop_a_sample": before.get("flop_a_sample", {}),
        }
        self.write()

    def write(self) -> None:
        """Writes the report; a reader finds the old one or the new one, whole."""
        write_report(self._file, self.report)

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self._until_s - time.time()

    def measure(self, key: Mapping[str, Any], measured: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The row of a key: what was kept, or is measured now if there is time, or its error.

        Args:
          key: tells the row from others; it begins with these fields.
          measured: gives the others.
        """
        for row in self.report["rows"]:
            if is_measured(row) and key.items() <= row.items():
                return row
        began_s = time.time()
        if self.left_s <= self._dearest_s:
            return self.put(key, {"left_out": "no time was left"})
        gc.collect()  # arrays of the row before, where cycles hold them
        try:
            found = dict(measured())
        except Exception as error:  # noqa: BLE001  a row that fails is a result, and the next one may do
            traceback.print_exc()
            found = failure(error)
        self._dearest_s = max(self._dearest_s, time.time() - began_s)
        return self.put(key, found)

    def counted(self, name: str, count: Callable[[], float]) -> float:
        """A step's operations for a sample, counted once, with einsum attention; see `COUNTED`."""
        self.report["flops_are"] = COUNTED
        if name not in self.report["flop_a_sample"]:
            self.report["flop_a_sample"][name] = count()
        return self.report["flop_a_sample"][name]

    def put(self, key: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
        """Adds a row, in place of an older one of that key."""
        row = {**key, **found}
        self.report["rows"] = [old for old in self.report["rows"] if not key.items() <= old.items()] + [row]
        self.report["dates"] = sorted({*self.report["dates"], date.today().isoformat()})
        self.write()
        print(json.dumps(row), flush=True)
        return row

    def close(self, error: str | None = None, skipped: str | None = None) -> None:
        """Says how the part has ended."""
        rows = self.report["rows"]
        if skipped is not None:
            self.report |= {"status": SKIPPED, "reason": skipped}
        elif error is not None or any("error" in row for row in rows):
            self.report |= {"status": FAILED} | ({} if error is None else {"error": error})
        else:
            self.report["status"] = PARTIAL if any("left_out" in row for row in rows) else DONE
        self.write()


def is_measured(row: Mapping[str, Any]) -> bool:
    """Whether a row needs not be measured again; that something does not fit into memory stays so."""
    return "error" not in row and "left_out" not in row


def write_report(file: Path, report: Mapping[str, Any]) -> None:
    """Writes JSON in one go."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(new, file)


def failure(error: Exception) -> dict[str, Any]:
    """A row's fields where measuring it failed."""
    text = f"{type(error).__name__}: {error}"
    if "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return {"out_of_memory": text.splitlines()[0][:300]}
    return {"error": text[:2000]}


def fits(row: Mapping[str, Any]) -> bool:
    """Whether larger ones are to be tried."""
    return "out_of_memory" not in row


def fused(file: str) -> dict[str, str]:
    """The changes that give a config fused attention, wherever it names one."""
    from mmduplex_jax.stages.config_file import load_config

    named = flatten_dict(load_config(file).to_dict(), sep=".")
    return {name: "fused" for name, value in named.items() if name.endswith(".attention") and value in ATTENTION}


def training_rows(rows: Rows, name: str, file: str, changes: Mapping[str, Any], batches: Sequence[int]) -> None:
    """A training step of a config, einsum and fused attention, by its batch: seconds, samples a second, MFU, memory."""
    import jax

    from benchmarks.training import make_run, program_with, take_turns
    from mmduplex_jax.planning import devices
    from mmduplex_jax.planning.traced import count_flops

    sizes, chip = sizes_of(rows), jax.devices()[0]
    peak = devices.device_peak(chip)

    def step(attention: str, batch: int) -> dict[str, Any]:
        settings, counted = {**changes, "data.batch_size": batch}, f"{name}, {batch} a step"
        if attention == "fused":
            traced = lambda: count_flops(program_with(file, settings)[2].trace().jaxpr).model / batch
            rows.counted(counted, traced)
            run = make_run(file, name, settings | fused(file), estimate=False)
        else:
            run = make_run(file, name, settings, estimate=False)
        operations = batch * rows.counted(counted, lambda: run.flops / batch)
        take_turns([run.arm], sizes.rounds, sizes.steps)
        counters = chip.memory_stats() or {}
        return {
            "step_ms": run.arm.step_s * 1e3,
            "rounds_ms": [seconds * 1e3 for seconds in run.arm.rounds_s],
            "samples_per_s": batch / run.arm.step_s,
            "gflop_a_sample": operations / batch / 1e9,
            "mfu": devices.mfu(operations, 1 / run.arm.step_s, peak, 1),
            "planned_gib": run.held_bytes / 2**30,
            # Of all that this process has run so far.
            "peak_gib": counters["peak_bytes_in_use"] / 2**30 if "peak_bytes_in_use" in counters else None,
        }

    misfit = dict.fromkeys(ATTENTION, sys.maxsize)
    for batch in batches:
        for attention in ATTENTION if fused(file) else ATTENTION[:1]:
            if batch < misfit[attention]:
                key = {"config": name, "attention": attention, "batch": batch}
                if not fits(rows.measure(key, functools.partial(step, attention, batch))):
                    misfit[attention] = batch


def train(rows: Rows) -> None:
    """The whole training step of the duplex."""
    sizes = sizes_of(rows)
    training_rows(rows, Path(sizes.duplex).stem, sizes.duplex, sizes.changes, sizes.train_batches)


def twin(rows: Rows) -> None:
    """The streams of the duplex after its tokenizer, in turns with PyTorch: SDPA, and compiled."""
    if importlib.util.find_spec("torch") is None:
        raise Skipped("PyTorch is not installed here: pip install torch")
    import jax
    import torch

    from benchmarks.training import compare, program_of, streams
    from mmduplex_jax.planning import devices
    from mmduplex_jax.planning.traced import count_flops

    backend = jax.default_backend()
    if backend != "cpu" and not (backend == "gpu" and torch.cuda.is_available()):
        raise Skipped(f"JAX computes on {backend} and PyTorch {torch.__version__} finds no CUDA: there are no turns")
    sizes = sizes_of(rows)
    dtype = "float32" if backend == "cpu" else "bfloat16"
    made = lambda changes: streams(sizes.duplex, dtype, sizes.twin_rows, {**sizes.twin_changes, **changes})
    traced = lambda: count_flops(program_of(*made({})).trace().jaxpr).model / sizes.twin_rows

    def arms(attention: str) -> dict[str, Any]:
        changes = {"text.attention": attention, "video_stream.attention": attention}
        table = compare(*made(changes), dtype, sizes.compiled, sizes.rounds, sizes.steps)
        operations = sizes.twin_rows * rows.counted("streams", traced)
        peak = devices.device_peak(jax.devices()[0])
        for arm in table:
            arm |= {"gflop": operations / 1e9, "mfu": devices.mfu(operations, 1 / arm["step_s"], peak, 1)}
        return {"torch": torch.__version__, "arms": table}

    for attention in ATTENTION:
        key = {"attention": attention, "batch": sizes.twin_rows, "dtype": dtype}
        rows.measure(key, functools.partial(arms, attention))


def live(rows: Rows) -> None:
    """Text's step and the whole live step by the number of streams, and the most that keep up with the clock."""
    from benchmarks.streaming import Arm, arms_of, summary, with_every_row
    from mmduplex_jax.commentator import random_commentator

    sizes = sizes_of(rows)
    model = with_every_row(random_commentator(sizes.duplex, seed=0, changes=sizes.changes))
    step_ms = model.clock.step_s * 1e3

    def timed(part: str, streams: int) -> dict[str, Any]:
        # A stepper of its own every time, so that the memory of the one before is free.
        asked = {"arm": {"part": part, "batch": streams}, "steps": sizes.live_steps, "warm_steps": 4}
        answer = arms_of(model).ask(asked | {"limit_s": max(1.0, rows.left_s / 4)})
        found = summary(Arm(part, "ours", streams, {"part": part}), [answer])
        names = ("steps", "p50_ms", "p99_ms", "per_stream_ms", "kinds_p50_ms", "compile_s")
        kept = {name: found[name] for name in names}
        return kept | {"dtype": model.live.config.text.dtype, "held": found["p99_ms"] <= step_ms}

    misfit = {"text": sys.maxsize, "whole": sys.maxsize}
    for streams in sizes.live_batches:
        for part in ("text", "whole"):
            if streams < misfit[part]:
                found = rows.measure({"part": part, "streams": streams}, functools.partial(timed, part, streams))
                if not fits(found):
                    misfit[part] = streams
    most_held(rows, {"part": "whole"}, functools.partial(timed, "whole"), sizes.live_most)


def most_held(
    rows: Rows, key: Mapping[str, Any], trial: Callable[[int], Mapping[str, Any]], tried_at_most: int
) -> None:
    """The most streams that are held: a row for each number that is tried, and one for the answer.

    Args:
      key: of the rows of numbers, beside `streams`; rows that are there already decide where they can.
      trial: of so many streams, with `held`.
      tried_at_most: no larger number is tried.
    """
    from benchmarks.pools import largest_held

    unknown: list[int] = []

    def known() -> list[dict[str, Any]]:
        return [row for row in rows.report["rows"] if key.items() <= row.items() and is_measured(row)]

    def is_held(streams: int) -> bool:
        if any(row["streams"] >= streams and row.get("held") for row in known()):
            return True
        if any(row["streams"] <= streams and not row.get("held") for row in known()):
            return False
        found = rows.measure({**key, "streams": streams}, functools.partial(trial, streams))
        if not is_measured(found):
            unknown.append(streams)
        return bool(found.get("held"))

    largest = largest_held(is_held, tried_at_most)
    # Fewer than it tries first may be held.
    largest = max([largest, *(row["streams"] for row in known() if row.get("held"))])
    found: dict[str, Any] = {"largest": largest, "tried_at_most": tried_at_most}
    if unknown:
        found["left_out"] = f"whether {unknown[0]} are held was not found out"
    rows.put({**key, "part": "the most held"}, found)


def turn_figures(frame_s: Sequence[float], token_s: Sequence[float]) -> dict[str, Any]:
    """The first and the last tenth of turns, and the last over the first.

    Args:
      frame_s: of each turn, from its frame to its first token.
      token_s: of the tokens behind it, `TURN_TOKENS - 1` a turn; what is of no whole turn does not count.
    """
    behind = TURN_TOKENS - 1
    turns = min(len(frame_s), len(token_s) // behind)
    tenth = max(1, turns // 10)
    found: dict[str, Any] = {"turns": turns}
    for name, begin in (("first", 0), ("last", turns - tenth)):
        found[f"ttft_{name}_ms"] = sum(frame_s[begin : begin + tenth]) / tenth * 1e3
        tokens_s = token_s[begin * behind : (begin + tenth) * behind]
        found[f"tokens_per_s_{name}"] = len(tokens_s) / sum(tokens_s)
    for name in ("ttft", "tokens_per_s"):
        unit = "_ms" if name == "ttft" else ""
        found[f"{name}_ratio"] = found[f"{name}_last{unit}"] / found[f"{name}_first{unit}"]
    return found


def turns(rows: Rows) -> None:
    """CASA's protocol: a frame and 16 tokens a turn, hundreds of turns; ours are a clock with a tick every 16 steps."""
    import jax

    from benchmarks.stepper import timed
    from benchmarks.streaming import whole_stepper, with_every_row
    from mmduplex_jax.commentator import random_commentator
    from mmduplex_jax.stages.config_file import load_config

    sizes = sizes_of(rows)
    all_turns_s = (sizes.turns + 1) * TURN_TOKENS / load_config(sizes.duplex).clock.step_hz
    # Rings have their full size from the first turn on, so the last one says what remembering all turns costs.
    arms = {
        "cross": {"fusion": "cross"},
        "interleave": {"fusion": "interleave"},
        "interleave, all turns in its window": {"fusion": "interleave", "text.window_s": all_turns_s},
    }
    for number, (name, changes) in enumerate(arms.items()):

        def measured(changes: Mapping[str, Any] = changes, arms_left: int = len(arms) - number) -> dict[str, Any]:
            clock = {"clock.video_stride": TURN_TOKENS}
            until_s = time.time() + rows.left_s / arms_left
            model = with_every_row(
                random_commentator(sizes.duplex, seed=0, changes={**sizes.changes, **changes, **clock})
            )
            stepper = whole_stepper(model, 1)
            limit_s = max(1.0, until_s - time.time())
            # The first turn is of a machine that has just begun.
            steps = sizes.turns * TURN_TOKENS
            times_s = timed(stepper, steps, warm_steps=TURN_TOKENS, limit_s=limit_s)
            if len(times_s["between"]) < TURN_TOKENS - 1:
                return {"left_out": f"not one turn in {limit_s:.0f} s"}
            found = turn_figures(times_s["tick"], times_s["between"])
            state = jax.eval_shape(lambda params: model.live.init_state(params, 1), model.params)
            found["state_mib"] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / 2**20
            if found["turns"] < sizes.turns:
                found["left_out"] = f"{found['turns']} of {sizes.turns} turns in {limit_s:.0f} s"
            return found

        rows.measure({"fusion": name}, measured)


def sessions(rows: Rows) -> None:
    """The most streams of the model `world` in real time, decoding included, as `benchmarks.streaming` finds them."""
    from benchmarks.pools import held, write_world_videos
    from mmduplex_jax.commentator import load

    sizes, model = sizes_of(rows), load("world")
    with tempfile.TemporaryDirectory() as folder:
        files = write_world_videos(Path(folder))
        trial = lambda streams: held(model, streams, sizes.session_s, files)
        most_held(rows, {"model": "world", "part": "played"}, trial, sizes.sessions_most)


def small(rows: Rows) -> None:
    """The training steps of the tokenizer's config and of the CLIP's."""
    for name, file, changes, batches in sizes_of(rows).small:
        training_rows(rows, name, file, changes, batches)


def feed(rows: Rows) -> None:
    """Samples a second of the loader over clips of the world, beside what the training step takes."""
    import absl.flags

    from benchmarks.data import BATCHES_AHEAD, batches_of_ours, reading_rate
    from data_pipelines.shards import ImageFormat, write_shards
    from data_pipelines.sources.world import world_source
    from mmduplex_jax.stages.config_file import load_config

    absl.flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl's flags
    sizes, workers = sizes_of(rows), 1 if rows.rehearse else len(os.sched_getaffinity(0))
    config = load_config("configs/data/world.py")
    config.update(sizes.feed_world)
    config.clips, config.units_per_shard = sizes.feed_clips, -(-sizes.feed_clips // workers)
    given = config.to_dict()
    taken = [row["samples_per_s"] for row in measured_rows(rows.folder, "train") if "samples_per_s" in row]
    with tempfile.TemporaryDirectory() as folder:
        image = ImageFormat(given["image"]["format"], given["image"]["quality"])
        write_shards(
            world_source(given),
            folder,
            config=given,
            units_per_shard=given["units_per_shard"],
            image=image,
            workers=workers,
        )
        batches = BATCHES_AHEAD * workers + sizes.feed_batches
        epochs = -(-batches * sizes.feed_batch // sizes.feed_clips)
        for kind in ("threads",) if rows.rehearse else ("threads", "processes"):

            def measured(processes: bool = kind == "processes") -> dict[str, Any]:
                loader = batches_of_ours(Path(folder), sizes.feed_batch, workers, epochs, processes)
                rate, _ = reading_rate(loader, workers)
                found = {"workers": workers, "frame_px": list(given["frame_px"]), "samples_per_s": rate}
                if not taken:
                    return found | {"left_out": "the part `train` has no step yet to compare with"}
                return found | {"taken_per_s": max(taken), "times_taken": rate / max(taken)}

            rows.measure({"loader": kind}, measured)


def measured_rows(folder: Path, part: str) -> list[dict[str, Any]]:
    """The rows that another part has left."""
    file = folder / f"{part}.json"
    if not file.is_file():
        return []
    return [row for row in json.loads(file.read_text(encoding="utf-8"))["rows"] if is_measured(row)]


def device(rows: Rows) -> None:
    """What all else is measured on."""
    import jax

    from benchmarks.turns import machine
    from mmduplex_jax.planning import devices

    found = jax.devices()[0]
    peak = devices.device_peak(found)
    memory = (found.memory_stats() or {}).get("bytes_limit")
    facts = machine() | {
        "platform": found.platform,
        "devices": len(jax.devices()),
        "memory_gib": None if memory is None else memory / 2**30,
        "peak_tflops": None if peak is None else peak.flops_per_s / 1e12,
        "peak_source": None if peak is None else peak.source,
        "rehearsal": rows.rehearse,
    }
    rows.put({"device": facts["device"]}, facts)


PARTS: dict[str, Callable[[Rows], None]] = {
    "device": device,
    "train": train,
    "twin": twin,
    "live": live,
    "turns": turns,
    "sessions": sessions,
    "small": small,
    "feed": feed,
}


def sizes_of(rows: Rows) -> Sizes:
    """How much this run measures."""
    return REHEARSAL if rows.rehearse else FULL


def main() -> None:
    """Runs the part that the first argument names; what came of it stands in its file."""
    options = json.loads(sys.argv[1])
    rows = Rows(Path(options["out"]), options["part"], options["until_s"], options["rehearse"])
    try:
        PARTS[options["part"]](rows)
    except Skipped as reason:
        rows.close(skipped=str(reason))
    except Exception as error:  # noqa: BLE001  written where the results are; the log has all of it
        traceback.print_exc()
        rows.close(error=f"{type(error).__name__}: {error}"[:2000])
    else:
        rows.close()


if __name__ == "__main__":
    main()
