"""The sheet of costs of the whole chain, as `docs/cost.md` has it; made by `python -m launch.estimate --sheet=FILE`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import bflow_events_75m, clip_s16, duplex_300m, vlm_single_token
from mmduplex_jax.planning import cost, data_cost
from mmduplex_jax.planning.devices import named
from mmduplex_jax.planning.stream_cost import stream_cost
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.parameters import count
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.weights.trained import load_tokenizer

HARDWARE = ("h100", "h200", "4090", "5090", "v5e", "v5p", "v6e")
HOURS_PER_DAY = 24


class Stage(NamedTuple):
    """A link of the chain.

    Attributes:
      name: of its config.
      config: as it is in configs/.
      task: of it.
    """

    name: str
    config: ConfigDict
    task: Any


class Videos(NamedTuple):
    """A public collection.

    Attributes:
      name: what it is called.
      hours: of video, at least and at most.
      source: who says so.
    """

    name: str
    hours: tuple[float, float]
    source: str


# 998,862 videos of 16.7 s on average; 5,047,208 clips of 30 to 240 s.
PE_VIDEO = Videos("PE-Video, 1 M videos", (998_862 * 16.7 / 3600,) * 2, "Bolya et al., 2025: 998,862 videos of 16.7 s")
LIVE_CC = Videos(
    "Live-CC-5M", (5_047_208 * 30 / 3600, 5_047_208 * 240 / 3600), "its card: 5,047,208 clips of 30 to 240 s"
)
IMAGES = 400e6  # pictures with texts that CLIP saw (Radford et al., 2021), and that were asked about
ASKED_CLIP_HOURS, ASKED_DAYS = 800, 10  # of an H100


def chain() -> list[Stage]:
    """The full-size stages, in their order."""
    configs = {
        "clip_s16": clip_s16.get_config(),
        "bflow_events_75m": bflow_events_75m.get_config(),
        "vlm_single_token": vlm_single_token.get_config(),
        "duplex_300m": duplex_300m.get_config(),
    }
    return [Stage(name, c, build_task(c, load_tokenizer(c))) for name, c in configs.items()]


def hours_of_flops(flops: float, hardware: str) -> float:
    """Device-hours at the assumed MFU."""
    return flops / (cost.ASSUMED_MFU * named(hardware).flops_per_s) / 3600


def run_flops(stage: Stage) -> float:
    """Operations of all steps of a config."""
    return stage.config.train.steps * stage.task.flops_per_step(stage.config.data.batch_size)


def video_hour_flops(stage: Stage) -> float:
    """Operations for an hour of video, seen once."""
    c = stage.config
    return stage.task.flops_per_step(c.data.batch_size) / c.data.batch_size / c.data.clip_s * 3600


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cost_sheet() -> str:
    """The whole page; traces every stage, which takes a minute or two."""
    stages = chain()
    parts = [*counted(stages), "## Memory", memory(stages)]
    return "\n\n".join(parts) + "\n"


def counted(stages: Sequence[Stage]) -> list[str]:
    """All but memory: what shapes alone tell."""
    return [
        _HEAD.format(mfu=cost.ASSUMED_MFU),
        "## The chain, as its configs are",
        _runs(stages),
        "## On other hardware",
        hardware(stages),
        "## Beside what was asked about",
        _asked(stages),
        "## Data",
        data(),
        "## Live",
        _live(stages[-1]),
        "## Where the figures come from",
        sources(),
    ]


def _few(value: float) -> str:
    """Two digits at least."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _runs(stages: Sequence[Stage]) -> str:
    rows, hours, dollars = [], 0.0, 0.0
    for stage in stages:
        found = cost.estimate(stage.task, stage.config, named("h100"), 8)
        seen = data_cost.data_cost(stage.task, stage.config)
        hours, dollars = hours + found.device_hours, dollars + (found.dollars or 0.0)
        cores = seen.frames_per_step / found.step_s / seen.frames_read_per_core_s
        rows.append(
            [
                f"`{stage.name}`",
                f"{found.parameters / 1e6:.0f} M",
                f"{found.steps:,} × {found.batch_size:,}",
                f"{found.flops_per_step / 1e12:,.1f}",
                f"{seen.video_hours:,.0f}",
                f"{_few(seen.text_tokens / 1e9)} G, {_few(seen.video_tokens / 1e9)} G",
                _few(found.device_hours),
                f"{found.days:.2g}",
                f"${_few(found.dollars or 0.0)}",
                f"{cores:,.0f}",
                f"{found.checkpoint_bytes / 1e9:.1f} GB",
            ]
        )
    rows.append(["all", *[""] * 5, _few(hours), f"{hours / 8 / HOURS_PER_DAY:.2g}", f"${_few(dollars)}", "", ""])
    head = ["config", "parameters", "steps × batch", "TFLOP a step", "hours of video seen", "text, video tokens"]
    head += ["H100-hours", "days on 8", "price", "cores that read for 8", "checkpoint"]
    parts = []
    for stage in stages:
        found = stage.task.flops_parts(stage.config.data.batch_size)
        whole = sum(part.total for part in found.values())
        shares = ", ".join(f"{name} {part.total / whole:.1%}" for name, part in found.items())
        parts.append(f"- `{stage.name}`: {shares}")
    return markdown(head, rows) + "\n\nWhere the operations are:\n\n" + "\n".join(parts)


def hardware(stages: Sequence[Stage]) -> str:
    """Hours and prices of the runs on each device."""
    rows = []
    for name in HARDWARE:
        device = named(name)
        price = device.price.dollars_per_hour if device.price else None
        hours = [hours_of_flops(run_flops(stage), name) for stage in stages]
        row = [name, f"{device.flops_per_s / 1e12:.0f}", f"{device.memory_bytes / 1e9:.0f} GB"]
        row += ["" if price is None else f"${price:.2f}", *map(_few, hours)]
        rows.append([*row, _few(sum(hours)), "" if price is None else f"${_few(sum(hours) * price)}"])
    head = ["device", "TFLOPS", "memory", "an hour", *(f"`{stage.name}`" for stage in stages), "all", "price"]
    return "Device-hours, at the same share of each device's peak:\n\n" + markdown(head, rows)


def memory(stages: Sequence[Stage]) -> str:
    """What a device needs; traced."""
    rows = []
    for stage in stages:
        found = cost.footprint(stage.task, stage.config, 8)
        line = cost.row_cost(stage.task, stage.config)
        fitting = [f"{line.rows_in(named(name)):,}" for name in HARDWARE]
        row = [f"`{stage.name}`", f"{stage.config.data.batch_size // 8}", f"{found.memory.total / 1e9:.0f} GB"]
        rows.append([*row, f"{found.recomputed:.0%}", *fitting])
    head = [
        "config",
        "rows a device of 8",
        "memory of it",
        "remat repeats",
        *(f"rows that fit a {n}" for n in HARDWARE),
    ]
    return _MEMORY + "\n\n" + markdown(head, rows)


def _span(low: float, high: float) -> str:
    return f"{low:,.0f}" if round(low) == round(high) else f"{low:,.0f} to {high:,.0f}"


def _asked(stages: Sequence[Stage]) -> str:
    clip, bflow, _, duplex = stages
    images = clip.config.copy_and_resolve_references()
    images.time.frames, images.time.pool = 1, "mean"
    pair = build_task(images, load_tokenizer(images)).flops_per_step(images.data.batch_size) / images.data.batch_size
    once = hours_of_flops(pair * IMAGES, "h100")
    total = sum(hours_of_flops(run_flops(stage), "h100") for stage in stages)
    shapes = abstract_params(duplex.task)
    size = lambda *names: f"{sum(count(shapes[name]) for name in names) / 1e6:.0f} M"
    video = size("video", "video_in", "projector", "projector_norm")
    few = hours_of_flops(10_000 * duplex.task.flops_per_step(8), "4090")
    rows = [
        [
            "CLIP: 400 M images, 800 H100-hours",
            f"a pair of `clip_s16` with one frame is {pair / 1e9:.0f} GFLOP: 400 M of them once are {once:.0f} "
            f"H100-hours; 800 hours are {ASKED_CLIP_HOURS / once:.0f} times all of them",
        ],
        ["a tokenizer of 75 M", f"{size('tokenizer')} in `bflow_events_75m` and `duplex_300m`"],
        [
            "text of 300 M",
            f"{size('text')} with its looks at video, {size('embedding', 'delays')} of words; video stream and "
            f"projector {video}",
        ],
        ["an H100 for 10 days", f"{ASKED_DAYS * HOURS_PER_DAY} hours; the chain above takes {total:,.0f}"],
    ]
    for videos in (PE_VIDEO, LIVE_CC):
        spans = []
        for stage in (bflow, duplex):
            low, high = (hours_of_flops(hours * video_hour_flops(stage), "h100") for hours in videos.hours)
            spans.append(_span(low, high))
        seen = f"`{bflow.name}` {spans[0]} H100-hours, `{duplex.name}` {spans[1]}"
        rows.append([f"{videos.name}, once: {_span(*videos.hours)} hours", seen])
    rows.append(
        [
            "small experiments on a 4090",
            f"10,000 steps of `duplex_300m` with 8 clips are {few:.1f} hours; the quick starts take minutes on a "
            "laptop's cores (README)",
        ]
    )
    return markdown(["asked", "by these counts"], rows)


def data() -> str:
    """What it takes to prepare public collections."""
    rows = []
    for videos in (PE_VIDEO, LIVE_CC):
        low, high = videos.hours
        core = [hours / data_cost.PREPARED_HOURS_PER_CORE_HOUR for hours in (low, high)]
        tera = [data_cost.stored_bytes(hours, 224) / 1e12 for hours in (low, high)]
        stored = f"{tera[0]:.1f}" if low == high else f"{tera[0]:.0f} to {tera[1]:.0f}"
        rows.append([videos.name, _span(low, high), _span(*core), stored, videos.source])
    return markdown(["collection", "hours", "core-hours to prepare", "TB at 224 px", "source of its size"], rows)


def _live(stage: Stage) -> str:
    found, rows = stream_cost(stage.task), []
    if found is None:
        raise TypeError(f"{stage.name} does not stream")
    for name in HARDWARE:
        device = named(name)
        streams = cost.ASSUMED_MFU * device.flops_per_s / found.flops_per_s
        room = (cost.USABLE_MEMORY * device.memory_bytes - found.weights_bytes) / found.state_bytes
        rows.append([name, f"{found.step_s_least(device) * 1e3:.2f} ms", f"{streams:,.0f}", f"{room:,.0f}"])
    text = _LIVE.format(stage.name, found.flops_per_s / 1e9, found.state_bytes / 1e6)
    return text + "\n\n" + markdown(["device", "a step alone, at least", "streams by operations", "by memory"], rows)


def sources() -> str:
    """Whose figures stand behind the page's."""
    lines = []
    for name in HARDWARE:
        device = named(name)
        price = f"${device.price.dollars_per_hour:.2f}: {device.price.source}" if device.price else "no price"
        lines.append(f"- `{name}`: {device.source}. {price}.")
    return "\n".join(lines) + "\n\n" + _TAIL


_HEAD = """# What it costs

Made by `python -m launch.estimate --sheet=docs/cost.md`; a test holds that it still says what the code says. For a
config of your own: `python -m launch.estimate --config=configs/duplex_300m.py --hardware=h100:8 --config.mesh.fsdp=8`.

**None of these runs has been made.** Operations are exact (the products of matrices of the real gradient). Time and
money stand on one assumption, that a training reaches {mfu:.0%} of a device's dense bfloat16 peak; a training logs
what it really reaches as `mfu`, and `--mfu` takes it. Compiling, evaluation and failures are not in it, nor waiting for
data: how many cores must read, so that nothing waits, is a column. Prices are of one day and one seller: `--price`.

Where it was checked, on 4 cores of an AMD EPYC (2026-11-23, `python -m benchmarks.estimates`): with the `mfu` of one
run, the steps of others of its family (half the batch, twice the depth, twice the pictures, one sequence for two
streams) were foretold to 0.91 to 1.06 times what they took, for `clip`, `duplex` and `vlm` at quick size."""

_LIVE = """A stream of `{}` computes at most {:.0f} GFLOP a second of video (every ring full, as many anchors as the
budget allows) and remembers {:.0f} MB, which never grow. A step by itself cannot be faster than reading all float32
weights once; many streams share that. Both numbers of streams are bounds, not measurements."""

_MEMORY = """Of the traced gradient in the order of its operations, beside parameters, moments and gradients that every
device holds whole (`--config.mesh.fsdp=8` spreads them). It knows remat and loops, but not what a compiler fuses, so it
is rather too much: 1.2 to 1.4 times what XLA plans on a CPU for the four quick starts, not checked at full size;
`launch.compile_ahead` asks the compiler itself. A batch of more rows than fit goes over more devices, or through
`--config.train.grad_accum`; not in `clip_s16` and `bflow_events_75m`, which compare all rows of a batch. 0: not without
fsdp."""

_TAIL = f"""Preparing data: {data_cost.PREPARED_HOURS_PER_CORE_HOUR:.1f} hours of video a core-hour and \
{data_cost.STORED_BYTES_PER_HOUR / 1e6:.0f} MB an hour at {data_cost.STORED_PX} px; reading: \
{data_cost.READ_FRAMES_PER_CORE_S:,.0f} frames of {data_cost.READ_PX} px a core-second.
All three measured (docs/data.md) and taken in proportion to pixels. Figures of `clip_s16` and `vlm_single_token` count
a whole piece of video a sample, of which few frames are read."""
