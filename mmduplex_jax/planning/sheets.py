"""Counts as people read them: the table of a run, and the pages docs/cost.md and docs/topologies.md.

`python -m launch.estimate` prints the table, with `--sheet=docs/cost.md` it writes that page;
`python -m launch.compile_ahead --sheet=docs` writes the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mmduplex_jax.evals.report import markdown_table
from mmduplex_jax.planning import cost
from mmduplex_jax.planning.ahead import gib
from mmduplex_jax.planning.devices import named
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.text_tokenizer import MARKS, TextTokenizer
from mmduplex_jax.train.parameters import count
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.train.task import Task

HARDWARE = ("h100", "h200", "4090", "5090", "v5e", "v5p", "v6e")
_DEVICES = 8  # that the chain's table is for


class Stage(NamedTuple):
    """A link of the chain.

    Attributes:
      config: as it is in configs/.
      cost: on 8 H100s.
    """

    name: str
    config: ConfigDict
    task: Task
    cost: cost.Cost

    @property
    def sample_flops(self) -> float:
        """Of a clip, or of a pair of pictures and text, seen once."""
        return self.cost.flops.model / self.cost.batch_size

    @property
    def video_hour_flops(self) -> float:
        """Of an hour of video, seen once."""
        return self.sample_flops / self.config.data.clip_s * 3600


class Videos(NamedTuple):
    """A public collection.

    Attributes:
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
IMAGES = 400e6  # pictures with texts that CLIP was trained on (Radford et al., 2021)


def chain(configs: Mapping[str, ConfigDict]) -> list[Stage]:
    """The stages of a chain, from their configs by name; tracing each takes seconds."""
    stages = []
    for name, config in configs.items():
        task = full_size_task(config)
        stages.append(Stage(name, config, task, cost.estimate(task, config, named("h100"), _DEVICES)))
    return stages


def full_size_task(config: ConfigDict) -> Task:
    """The task for a vocabulary that fills the table of words, as it will; the built-in world's few would not."""
    return build_task(config, TextTokenizer.word_level([f"w{row}" for row in range(config.vocab_rows_min - MARKS)]))


def _hours(flops: float, hardware: str = "h100") -> float:
    """Device-hours at the assumed MFU."""
    return flops / (cost.ASSUMED_MFU * named(hardware).flops_per_s) / 3600


def cost_sheet(stages: Sequence[Stage], speaking: Stage) -> str:
    """The page of the full-size chain (`clip`, `bflow`, `vlm`, `duplex`); its memory takes a minute to trace.

    Args:
      speaking: the duplex with a voice.
    """
    return "\n\n".join([*counted(stages), "## With a voice", voice(speaking), "## Memory", memory(stages)]) + "\n"


def counted(stages: Sequence[Stage]) -> list[str]:
    """All of it but the voice and memory."""
    return [
        _HEAD.format(mfu=cost.ASSUMED_MFU),
        "## The chain, as its configs are",
        _runs(stages),
        "## On other hardware",
        hardware(stages),
        "## Public collections, each seen once",
        _collections(stages),
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
    rows, hours, dollars, parts = [], 0.0, 0.0, []
    for stage in stages:
        run = stage.cost
        data = cost.data_cost(stage.task, stage.config)
        hours, dollars = hours + run.device_hours, dollars + (run.dollars or 0.0)
        cores = data.frames_per_step / run.step_s / data.frames_read_per_core_s
        rows.append(
            [
                f"`{stage.name}`",
                f"{run.parameters / 1e6:.0f} M",
                f"{run.steps:,} × {run.batch_size:,}",
                f"{run.flops.model / 1e12:,.1f}",
                f"{run.flops.recomputed / run.flops.model:.0%}",
                f"{data.video_hours:,.0f}",
                f"{_few(data.text_tokens / 1e9)} G, {_few(data.video_tokens / 1e9)} G",
                _few(run.device_hours),
                f"{run.days:.2g}",
                f"${_few(run.dollars or 0.0)}",
                f"{cores:,.0f}",
                f"{run.checkpoint_bytes / 1e9:.1f} GB",
            ]
        )
        shares = ", ".join(f"{name} {part / run.flops.model:.1%}" for name, part in run.flops_by_module.items())
        parameters = {name: count(part) / 1e6 for name, part in abstract_params(stage.task).items()}
        large = ", ".join(f"{name} {part:.0f} M" for name, part in parameters.items() if part >= 0.5)
        parts.append(f"- `{stage.name}`: operations {shares}; parameters {large}")
    rows.append(["all", *[""] * 6, _few(hours), f"{hours / _DEVICES / 24:.2g}", f"${_few(dollars)}", "", ""])
    head = ["config", "parameters", "steps × batch", "TFLOP a step", "remat repeats", "hours of video seen"]
    head += ["text, video tokens", "H100-hours", "days on 8", "price", "cores that read for 8", "checkpoint"]
    return markdown_table(head, rows) + "\n\nBy module (`loss`: logits, and what compares):\n\n" + "\n".join(parts)


def hardware(stages: Sequence[Stage]) -> str:
    """Hours and prices of the runs on each device."""
    rows = []
    for name in HARDWARE:
        device = named(name)
        runs = [stage.cost.on(device) for stage in stages]
        hours, price = [run.device_hours for run in runs], runs[0].dollars_per_hour
        row = [name, f"{device.flops_per_s / 1e12:.0f}", f"{device.memory_bytes / 1e9:.0f} GB"]
        row += ["" if price is None else f"${price:.2f}", *map(_few, hours)]
        rows.append([*row, _few(sum(hours)), "" if price is None else f"${_few(sum(hours) * price)}"])
    head = ["device", "TFLOPS", "memory", "an hour", *(f"`{stage.name}`" for stage in stages), "all", "price"]
    return "Device-hours, at the same share of each device's peak:\n\n" + markdown_table(head, rows)


def _collections(stages: Sequence[Stage]) -> str:
    clip, bflow, _, duplex = stages
    images = clip.config.copy_and_resolve_references()
    images.time.frames, images.time.pool = 1, "mean"
    task = full_size_task(images)
    pair = cost.flops_per_step(task, images).model / images.data.batch_size
    one_frame = f"{_few(_hours(pair * IMAGES))} (one frame: {pair / 1e9:.0f} GFLOP a pair)"
    rows = [["400 M images with texts", "", one_frame, "", ""]]
    for videos in (PE_VIDEO, LIVE_CC):
        spans = (_span(*(_hours(hours * s.video_hour_flops) for hours in videos.hours)) for s in (bflow, duplex))
        rows.append([videos.name, _span(*videos.hours), "", *spans])
    few = _hours(10_000 * 8 * duplex.sample_flops, "4090")
    small = f"10,000 steps of `duplex_300m` with 8 clips are {few:.1f} hours of a 4090."
    head = ["collection", "hours", *(f"`{stage.name}`, H100-hours" for stage in (clip, bflow, duplex))]
    return markdown_table(head, rows) + "\n\n" + small


def voice(stage: Stage) -> str:
    """What the audio stream of a duplex adds."""
    run, live = stage.cost, cost.live_step_flops(stage.task)
    parameters = count(abstract_params(stage.task)["audio"])
    step_hz = stage.config.clock.step_hz
    row = [f"`{stage.name}`", f"{run.parameters / 1e6:.0f} M", f"{parameters / 1e6:.0f} M"]
    row += [f"{run.flops.model / 1e12:,.1f}", f"{run.flops_by_module['audio'] / run.flops.model:.1%}"]
    row += [_few(run.device_hours), f"{live['text'] * step_hz / 1e9:.1f}"]
    row += [f"{live['sound'] * step_hz / 1e9:.1f}"]
    head = ["config", "parameters", "of the audio stream", "TFLOP a step", "of the audio stream", "H100-hours"]
    head += ["live text, GFLOP a second", "live sound, GFLOP a second"]
    return "Codes and the depth transformer that says them; the codec's decoder is not in it.\n\n" + markdown_table(
        head, [row]
    )


def memory(stages: Sequence[Stage]) -> str:
    """What a device needs; traced."""
    rows = []
    for stage in stages:
        held = cost.memory(stage.task, stage.config, _DEVICES)
        line = cost.row_cost(stage.task, stage.config)
        fitting = [f"{line.rows_in(named(name)):,}" for name in HARDWARE]
        rows.append([f"`{stage.name}`", f"{stage.cost.batch_size // _DEVICES}", f"{held.total / 1e9:.0f} GB", *fitting])
    head = ["config", f"rows a device of {_DEVICES}", "memory of it", *(f"rows that fit a {n}" for n in HARDWARE)]
    return _MEMORY + "\n\n" + markdown_table(head, rows)


def _span(low: float, high: float) -> str:
    return f"{low:,.0f}" if round(low) == round(high) else f"{low:,.0f} to {high:,.0f}"


def data() -> str:
    """What it takes to prepare public collections."""
    rows = []
    for videos in (PE_VIDEO, LIVE_CC):
        low, high = videos.hours
        core = [hours / cost.PREPARED_HOURS_PER_CORE_HOUR for hours in (low, high)]
        tera = [cost.stored_bytes(hours, 224) / 1e12 for hours in (low, high)]
        stored = f"{tera[0]:.1f}" if low == high else f"{tera[0]:.0f} to {tera[1]:.0f}"
        rows.append([videos.name, _span(low, high), _span(*core), stored, videos.source])
    return markdown_table(["collection", "hours", "core-hours to prepare", "TB at 224 px", "source of its size"], rows)


def _live(stage: Stage) -> str:
    stream, rows = cost.stream_cost(stage.task, stage.config), []
    if stream is None:
        raise TypeError(f"{stage.name} does not stream")
    for name in HARDWARE:
        device = named(name)
        streams = cost.ASSUMED_MFU * device.flops_per_s / stream.flops_per_s
        room = (cost.USABLE_MEMORY * device.memory_bytes - stream.weights_bytes) / stream.state_bytes
        rows.append([name, f"{stream.step_s_least(device) * 1e3:.2f} ms", f"{streams:,.0f}", f"{room:,.0f}"])
    text = _LIVE.format(stage.name, stream.flops_per_s / 1e9, stream.state_bytes / 1e6)
    head = ["device", "a step alone, at least", "streams by operations", "by memory"]
    return text + "\n\n" + markdown_table(head, rows)


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

**None of these runs has been made.** Operations are exact: the matrix products of the real gradient, as it is traced,
without what remat computes again (as MFU is defined: Chowdhery et al., 2022). Time and money stand on one assumption,
that a training reaches {mfu:.0%} of a device's dense bfloat16 peak; a training logs what it really reaches as `mfu`,
and `--mfu` takes it. Compiling, evaluation and failures are not in it, nor waiting for data: how many cores must read,
so that nothing waits, is a column. Prices are of one day and one seller: `--price`.

Where it was checked, on 4 cores of an AMD EPYC (2026-11-23, `python -m benchmarks.training --estimates`): with the
`mfu` of one run, the steps of others of its family (half the batch, twice the depth, twice the pictures, one sequence
for two streams) were predicted at 0.91 to 1.06 times what they took, for `clip`, `duplex` and `vlm` at quick size."""

_LIVE = """A stream of `{}` computes at most {:.0f} GFLOP a second of video (every ring full, as many anchors as the
budget allows) and remembers {:.0f} MB, which never grow. A step by itself cannot be faster than reading all float32
weights once; many streams share that. Both numbers of streams are bounds, not measurements."""

_MEMORY = """Of the traced gradient in the order of its operations, beside parameters, moments and gradients that every
device holds whole (`--config.mesh.fsdp=8` spreads them). It knows remat and loops, but not what a compiler fuses, so it
is rather too much: 1.2 to 1.4 times what XLA plans on a CPU for the four quick starts, not checked at full size;
`launch.compile_ahead` asks the compiler itself. A batch of more rows than fit goes over more devices, or through
`--config.train.grad_accum`; not in `clip_s16` and `bflow_events_75m`, which compare all rows of a batch. 0: not without
fsdp."""

_TAIL = f"""Preparing data: {cost.PREPARED_HOURS_PER_CORE_HOUR:.1f} hours of video a core-hour and \
{cost.STORED_BYTES_PER_HOUR / 1e6:.0f} MB an hour at {cost.STORED_PX} px; reading: \
{cost.READ_FRAMES_PER_CORE_S:,.0f} frames of {cost.READ_PX} px a core-second.
All three measured (docs/data.md) and taken in proportion to pixels. Figures of `clip_s16` and `vlm_single_token` count
a whole piece of video a sample, of which few frames are read."""


def run_table(report: dict[str, Any]) -> str:
    """What `launch.estimate` prints of a run: its report as lines to read."""
    giga, tera = 1e9, 1e12
    whole, data, memory = report["flops_per_step"], report["data"], report["memory_bytes_per_device"]
    rows: list[tuple[str, str]] = [
        ("stage", f"{report['stage']}, {report['parameters'] / 1e6:,.1f} M parameters, {report['steps']:,} steps"),
        (
            "operations a step",
            f"{whole / tera:,.2f} TFLOP; remat repeats {report['recomputed_flops_per_step'] / whole:.0%}",
        ),
    ]
    rows += [(f"  {part}", f"{value / whole:6.1%}") for part, value in report["flops_by_module"].items()]
    money = "no price known: pass --price" if report["cost"] is None else f"${report['cost']:,.0f}"
    price = "" if report["cost"] is None else f" at ${report['price_per_device_hour']:.2f} ({report['price_source']})"
    rows += [
        ("hardware", f"{report['hardware']}, MFU {report['mfu']:.0%} of {report['peak_source']}"),
        ("a step", f"{report['step_s']:.3g} s"),
        ("the run", f"{report['device_hours']:,.1f} device-hours, {report['days']:.3g} days, {money}{price}"),
        (
            "memory a device",
            f"{memory['total'] / giga:,.1f} of {report['memory_limit_bytes'] / giga:,.0f} GB: {_fit(report)}",
        ),
    ]
    rows += [(f"  {kind}", f"{value / giga:7.2f} GB") for kind, value in memory.items() if kind != "total"]
    rows += [
        ("a checkpoint", f"{report['checkpoint_bytes'] / giga:.2f} GB, "
                         f"weights {report['weights_bytes'] / giga:.2f} GB"),
        ("data seen", f"{data['samples']:,} samples, {data['text_tokens'] / giga:,.2f} G text slots, at most "
                      f"{data['video_tokens'] / giga:,.2f} G video tokens, {data['video_hours']:,.0f} hours of video"),
        ("preparing that once", f"{data['prepare_core_hours']:,.0f} core-hours, {data['stored_bytes'] / tera:,.2f} TB"),
        ("reading", f"{data['frames_per_s']:,.0f} frames a second: "
                    f"{data['frames_per_s'] / data['frames_read_per_core_s']:,.1f} cores"),
    ]  # fmt: skip
    if report["stream"]:
        stream = report["stream"]
        rows += [
            ("live, a stream", f"{stream['flops_per_s'] / giga:,.1f} GFLOP a second of video at most, "
                               f"{stream['state_bytes'] / 1e6:,.1f} MB"),
            ("  a step, alone", f"{stream['step_s_least'] * 1e3:.2f} ms at least, to read "
                                f"{stream['weights_bytes'] / giga:.2f} GB of weights once"),
        ]  # fmt: skip
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{wide}}  {value}" for name, value in rows)


def _fit(report: dict[str, Any]) -> str:
    if report["fits"]:
        return "fits"
    return (
        "does not fit; more devices with --config.mesh.fsdp=N, a smaller --config.data.batch_size, "
        "--config.train.grad_accum=N, or remat=True of the largest part"
    )


def compiled_lines(report: Mapping[str, Any]) -> list[str]:
    """What `launch.compile_ahead` prints of a topology: its report as lines to read."""
    mesh = " x ".join(f"{axis}={size}" for axis, size in report["mesh"].items())
    text = [f"{report['topology']}: {report['devices']} x {report['device_kind']}, mesh {mesh} ({report['compiler']})"]
    if "fits" in report:
        text += _step_lines(f"training step, batch {report['batch_size']}", report)
        text += [f"  {line}" for line in report["replicated_axes"]]
    if "streaming" in report:
        streaming = report["streaming"]
        text += _step_lines(f"streaming step, {streaming['streams']} streams on one device", streaming)
    return text


def _step_lines(what: str, report: Mapping[str, Any]) -> list[str]:
    hbm, kinds = report["hbm_bytes"], report["hbm_bytes_by_kind"]
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    text = [f"{what}: {verdict}, {gib(hbm['peak'])} of {gib(hbm['limit'])} a device"]
    arguments = ", ".join(f"{kind} {gib(size)}" for kind, size in kinds.items() if kind != "activations")
    text += [f"  arguments {gib(hbm['arguments'])}: {arguments}"]
    activations = kinds.get("activations")
    kept = "" if activations is None else f" (forward keeps {gib(activations)} for backward, before fusion)"
    text += [f"  temporaries {gib(hbm['temporaries'])}{kept}"]
    for kind, moved in (report["collectives"] or {}).items():
        text += [f"  {kind}: {moved['count']:,} a step, {gib(moved['bytes'])}"]
    if report["collectives"] == {}:
        text += ["  no collectives: nothing is sent between devices"]
    if report["loops_counted_once"]:
        text += [f"  {report['loops_counted_once']} loops with collectives run as often as data says: counted once"]
    text += [f"  traced and lowered in {report['lower_s']} s, compiled in {report['compile_s']} s"]
    text += [f"  the compiler: {report['message']}"] if report["message"] else []
    return text + [f"  change: {line}" for line in report["advice"]]


def topology_page(reports: Sequence[Mapping[str, Any]], commands: Sequence[str]) -> str:
    """`duplex_300m` on machines that are not here, in Markdown."""
    training = markdown_table(
        [
            *("topology", "devices", "mesh", "batch", "fits", "parameters", "optimiser", "activations kept"),
            *("temporaries", "peak", "limit", "compiled in"),
        ],
        [_train_row(report) for report in reports if "fits" in report],
    )
    collectives = markdown_table(["topology", "kind", "calls", "payload of a device"], _collective_rows(reports))
    streaming = markdown_table(
        ["device", "fits", "parameters", "streams", "temporaries", "peak", "limit", "compiled in"],
        [_stream_row(report) for report in reports if "streaming" in report],
    )
    compilers = "\n".join(sorted({f"Compiled by jax {report['jax']}, {report['compiler']}." for report in reports}))
    return _TOPOLOGIES.format(training, collectives, streaming, "\n".join(commands), compilers)


def _train_row(report: Mapping[str, Any]) -> list[str]:
    hbm, kinds = report["hbm_bytes"], report["hbm_bytes_by_kind"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1)
    sizes = [kinds["parameters"], kinds["optimiser"], kinds["activations"], hbm["temporaries"], hbm["peak"]]
    return [
        report["topology"],
        f"{report['devices']} x {report['device_kind']}",
        mesh,
        str(report["batch_size"]),
        _fits(report),
        *map(gib, (*sizes, hbm["limit"])),
        f"{report['compile_s']:.0f} s",
    ]


def _stream_row(report: Mapping[str, Any]) -> list[str]:
    streaming = report["streaming"]
    hbm, kinds = streaming["hbm_bytes"], streaming["hbm_bytes_by_kind"]
    sizes = (kinds["parameters"], kinds["streams"], hbm["temporaries"], hbm["peak"], hbm["limit"])
    return [report["device_kind"], _fits(streaming), *map(gib, sizes), f"{streaming['compile_s']:.0f} s"]


def _fits(report: Mapping[str, Any]) -> str:
    return "yes" if report["fits"] else "**no**: " + "; ".join(report["advice"])


def _collective_rows(reports: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [
        [report["topology"], kind, f"{moved['count']:,}", gib(moved["bytes"])]
        for report in reports
        for kind, moved in (report.get("collectives") or {}).items()
    ]


_TOPOLOGIES = """# Ahead of time: duplex_300m on machines that are not here

Made by `python -m launch.compile_ahead --sheet=docs`; the figures are the compilers', nothing was run. The training \
step is the real one (`make_program`), on a mesh of all devices; streaming is one device's step of 16 streams.

## Training step

{}

Sizes are of one device. *Activations kept* is what the forward pass keeps for the backward pass before the compiler \
fuses; *temporaries* is what the compiler made of them and of everything else that lives within a step. *Limit* is \
what TPU compilers let a program have; on a card the share of its memory that JAX takes.

## Collectives of a training step

{}

The body of a loop counts as often as the loop runs.

## Streaming step, 16 streams on one device

{}

## Commands

```
{}
```

{}
"""
