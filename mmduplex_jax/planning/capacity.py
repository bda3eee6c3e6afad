"""How many live streams devices and hosts hold, and what bounds them: the tables of docs/capacity.md.

A stream's operations and bytes on a device are counted from its model; what it takes of the host is measured, and
stands here beside the command that measured it. All else is a product of the two. The page's text is written by hand;
between `<!-- rows: NAME -->` and `<!-- rows end -->` stands what `launch.estimate --capacity` makes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmduplex_jax.evals.report import markdown_table
from mmduplex_jax.frame_size import frame_size
from mmduplex_jax.planning import cost
from mmduplex_jax.planning.devices import Device, Price, named
from mmduplex_jax.planning.sheets import full_size_task
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.weights.trained import load_tokenizer


class Sent(NamedTuple):
    """What a second of a stream takes of the host that serves it, by how its pictures come.

    Attributes:
      server_cores: of the server's process, whose Python is one thread's at a time; the model's step left out.
      decoder_cores: of the stream's own process.
      server_bytes, decoder_bytes: of memory, and no other's.
      files: that the server's process has open for it.
      in_bytes_per_s, out_bytes_per_s: of messages and pictures.
    """

    server_cores: float
    decoder_cores: float
    server_bytes: int
    decoder_bytes: int
    files: float
    in_bytes_per_s: int
    out_bytes_per_s: int

    @property
    def cores(self) -> float:
        return self.server_cores + self.decoder_cores


class Load(NamedTuple):
    """A model that is served.

    Attributes:
      steps_hz: of its clock.
      sent: what a stream takes of the host, by how its pictures come.
      alone_cores: what a stream takes of a CPU where there is no device, everything included; None: not measured.
    """

    name: str
    stream: cost.StreamCost
    steps_hz: float
    sent: Mapping[str, Sent]
    alone_cores: float | None


class Plan(NamedTuple):
    """What so many streams take.

    Attributes:
      limits: streams a device, by what bounds them.
      devices: with a server each, and its part of a host; devices_least: if nothing but they bounded the streams.
      cores, memory_bytes: of all hosts; in_bytes_per_s, out_bytes_per_s: of all their lines.
      files: of each server's process.
      dollars: an hour; None where no price is known.
      cores_without: where there is no device; None where it was not measured.
    """

    streams: int
    limits: Mapping[str, float]
    devices: int
    devices_least: int
    hosts: int
    cores: float
    memory_bytes: float
    in_bytes_per_s: float
    out_bytes_per_s: float
    files: float
    dollars: float | None
    cores_without: float | None

    @property
    def first(self) -> str:
        """What bounds the streams of a device."""
        return min(self.limits, key=lambda name: self.limits[name])


# Assumptions: what a server can count on of a device's memory bandwidth, of a host's cores, and of the one core of its
# Python before its model's thread waits for it.
BANDWIDTH_SHARE, CORES_SHARE, PYTHON_SHARE = 0.6, 0.7, 0.7
# docs/topologies.md: 16 streams of duplex_300m have 0.87 GiB of state; compilers plan up to 1.26 GiB of temporaries.
TEMPORARIES = 1.26 / 0.87
HOST_CORES, HOST_BYTES, HOST_DEVICES = 192, 2e12, 8
HOST = f"{HOST_CORES} cores, {HOST_BYTES / 1e12:.0f} TB, {HOST_DEVICES} devices: AWS P5 (silicon.fr, 2023)"
CORE_PRICE = Price(0.34 / 8, "c5.2xlarge, 8 vCPUs on demand, AWS's Auto Scaling guide, read 2026-11-30")
# On 2 cores of an AMD EPYC, busy, 2026-11-30, in processors' time a second of video, four streams, of `h264` (a track
# of WebRTC) two; a server's memory is that of `jpeg`, since the rows after it find what was freed before:
# python -m benchmarks.serving --parts=host --checkpoint=NAME --host_streams=4 --host_s=8 --video=05_default_juggle.mp4
# Files: a stream's socket (of a track one for each of two addresses) and, of its decoder, socket, process and memory,
# by the code.
SENT = {
    "world": {
        "jpeg": Sent(0.01314, 0.00376, 95_232, 4_281_344, 4.0, 15_587, 2_395),
        "h264 640x360": Sent(0.0975, 0.04437, 95_232, 7_589_888, 5.0, 126_549, 2_425),
        "source 640x360": Sent(0.0265, 0.04234, 95_232, 13_100_032, 4.0, 135_489, 2_393),
        "h264 1280x720": Sent(0.15313, 0.1025, 95_232, 11_759_616, 5.0, 324_256, 2_426),
        "source 1280x720": Sent(0.04044, 0.10509, 95_232, 22_844_416, 4.0, 336_602, 2_392),
    },
    "real": {
        "jpeg": Sent(0.01878, 0.01598, 2_744_320, 5_965_824, 4.0, 338_267, 2_849),
        "h264 640x360": Sent(0.11313, 0.05562, 2_744_320, 8_996_864, 5.0, 126_704, 2_905),
        "source 640x360": Sent(0.02687, 0.06688, 2_744_320, 15_196_160, 4.0, 135_489, 2_857),
        "h264 1280x720": Sent(0.19179, 0.11826, 2_744_320, 12_775_424, 5.0, 303_709, 2_906),
        "source 1280x720": Sent(0.05025, 0.12163, 2_744_320, 25_242_624, 4.0, 336_602, 2_852),
    },
}
# docs/live.md: 72 streams of `world` on 4 cores, decoding included; a step of `duplex_300m` 25 ms of 4 cores, of eight
# streams, 12.5 times a second. docs/speed.md: 15 ticks of `real` and their decoding 0.66 s of processors, one stream.
ALONE_CORES = {"world": 4 / 72, "real": 0.66 / 15 * 6.25, "duplex_300m": 0.025 * 4 * 12.5}
# What of `limits` is the device's own.
OF_DEVICE = ("operations", "bandwidth", "memory")
USUAL = "h264 640x360"
SERVED = ("world", "real", "duplex_300m", "duplex_300m_speech")
SCALES = (1, 10, 100, 1_000, 10_000, 100_000)
DEVICES = ("h200", "h100", "5090", "v6e")
_SECTION = re.compile(r"(<!-- rows: (?P<name>[\w-]+) -->\n).*?(<!-- rows end -->)", re.DOTALL)


def load_of(name: str, config: Any, codec: Any) -> Load:
    """A model as it is served; tracing it takes seconds.

    Args:
      codec: the config of the codec that makes it heard, where it has a voice.

    Raises:
      ValueError: its stage does not stream, or the codec is not that of its voice.
    """
    # A table of words that is made large will be full.
    task: Any = full_size_task(config) if config.get("vocab_rows_min") else build_task(config, load_tokenizer(config))
    stream = cost.stream_cost(task, config)
    if stream is None:
        raise ValueError(f"{name} is of stage {config.stage!r}, which is not served: --streams is about duplex models")
    if task.config.audio is not None:
        voice = cost.voice_cost(task, build_task(codec, load_tokenizer(codec)))
        stream = stream.with_voice(voice)
    # Of the two that were measured, the one whose frames are no smaller, or the larger.
    like = "world" if math.prod(frame_size(config.frame_px)) <= 64 * 64 else "real"
    return Load(name, stream, config.clock.step_hz, SENT[like], ALONE_CORES.get(name))


def limits(load: Load, sent: str, device: Device, mfu: float = cost.ASSUMED_MFU) -> dict[str, float]:
    """How many streams a device holds, with one server and its part of a host, by what bounds them; 0 where none.

    Raises:
      ValueError: nothing is known of `sent`.
    """
    if sent not in load.sent:
        raise ValueError(f"--sent={sent!r}: measured are {', '.join(load.sent)}")
    stream, taken = load.stream, load.sent[sent]
    busy = DeadlinePolicy().load_high  # of the time between two rounds
    step_bytes = BANDWIDTH_SHARE * device.bytes_per_s * busy / load.steps_hz
    found = {
        "operations": mfu * device.flops_per_s * busy / stream.flops_per_s,
        "bandwidth": (step_bytes - stream.weights_bytes) / (stream.state_bytes * (1 + 2 * TEMPORARIES)),
        "memory": (cost.USABLE_MEMORY * device.memory_bytes - stream.weights_bytes)
        / (stream.state_bytes * (1 + TEMPORARIES)),
        "Python": PYTHON_SHARE / taken.server_cores,
        "cores": CORES_SHARE * HOST_CORES / HOST_DEVICES / taken.cores,
        "RAM": cost.USABLE_MEMORY * HOST_BYTES / HOST_DEVICES / (taken.server_bytes + taken.decoder_bytes),
    }
    return {name: float(max(0, math.floor(streams))) for name, streams in found.items()}


def plan(load: Load, sent: str, device: Device, streams: int, mfu: float = cost.ASSUMED_MFU) -> Plan:
    """What so many streams take. ValueError: a device holds none, or nothing is known of `sent`."""
    bounds, taken = limits(load, sent, device, mfu), load.sent[sent]
    held, own = min(bounds.values()), min(bounds[name] for name in OF_DEVICE)
    if not held:
        raise ValueError(f"{load.name} does not fit one {device.name or device.kind}: {bounds}")
    devices = math.ceil(streams / held)
    price = device.price.dollars_per_hour * devices if device.price else None
    return Plan(
        streams,
        bounds,
        devices,
        math.ceil(streams / own),
        math.ceil(devices / HOST_DEVICES),
        streams * taken.cores,
        streams * (taken.server_bytes + taken.decoder_bytes),
        streams * taken.in_bytes_per_s,
        streams * taken.out_bytes_per_s,
        min(streams, held) * taken.files,
        price,
        None if load.alone_cores is None else streams * load.alone_cores / CORES_SHARE,
    )


def lines(plan: Plan, load: Load, sent: str, device: Device) -> str:
    """What `launch.estimate --streams` prints."""
    name, bounds = device.name, ", ".join(f"{name} {streams:,.0f}" for name, streams in plan.limits.items())
    rows = [
        ("streams", f"{plan.streams:,} of {load.name}, sent as {sent}"),
        ("a device holds", f"{bounds}: {plan.first} first"),
        ("devices, hosts", f"{plan.devices:,} {name}, a server each, in {plan.hosts:,} hosts of {HOST_DEVICES}"),
        ("devices at least", f"{plan.devices_least:,}, if nothing but they bounded the streams"),
        ("on the hosts", f"{plan.cores:,.1f} cores, {plan.memory_bytes / 1e9:,.1f} GB beside the servers themselves"),
        ("line", f"{plan.in_bytes_per_s * 8e-9:,.3f} Gbit/s in, {plan.out_bytes_per_s * 8e-9:,.3f} out"),
        ("files of a server", f"{plan.files:,.0f} beside its own"),
        ("an hour", "no price known" if plan.dollars is None else f"${plan.dollars:,.2f}"),
    ]
    if plan.cores_without is not None:
        dollars = plan.cores_without * CORE_PRICE.dollars_per_hour
        rows.append(("without a device", f"{plan.cores_without:,.1f} cores, ${dollars:,.2f} an hour"))
    wide = max(len(one) for one, _ in rows)
    return "\n".join(f"{one:<{wide}}  {value}" for one, value in rows)


def written(page: str, loads: Sequence[Load]) -> str:
    """The page with the tables of some models.

    Raises:
      ValueError: it lacks one of them, or has another.
    """
    tables = {"assumed": assumed(), "host": host_table(), "devices": devices_table(loads)}
    tables |= {f"scale-{load.name}": scale(load) for load in loads}
    if sorted(there := [section["name"] for section in _SECTION.finditer(page)]) != sorted(tables):
        raise ValueError(f"the page has the tables {there}; there should be {sorted(tables)}")
    return _SECTION.sub(lambda section: f"{section[1]}\n{tables[section['name']]}\n\n{section[3]}", page)


def assumed() -> str:
    """What is not measured and not counted."""
    rows = [
        ["of a device's operations that are reached", f"{cost.ASSUMED_MFU:.0%}"],
        ["of its memory's bandwidth", f"{BANDWIDTH_SHARE:.0%}"],
        ["of its memory, and of a host's", f"{cost.USABLE_MEMORY:.0%}"],
        ["temporaries of a step, to the streams' state", f"{TEMPORARIES:.2f}"],
        ["of the time between two ticks, that rounds take", f"{DeadlinePolicy().load_high:.0%}"],
        ["of a host's cores that can be counted on", f"{CORES_SHARE:.0%}"],
        ["of a core, that the Python of one server can take", f"{PYTHON_SHARE:.0%}"],
        ["a host", HOST],
        ["a core alone, an hour", f"${CORE_PRICE.dollars_per_hour:.4f}: {CORE_PRICE.source}"],
    ]
    return markdown_table(["what", "assumed"], rows)


def devices_table(loads: Sequence[Load]) -> str:
    """Streams a device, by what bounds them."""
    rows = []
    for load in loads:
        for name in DEVICES:
            held = limits(load, USUAL, named(name))
            first = min(OF_DEVICE, key=lambda bound: held[bound])
            step_ms = 1e3 * load.stream.step_s_least(named(name))
            rows.append(
                [f"`{load.name}`", name, f"{step_ms:.2f} ms", *(f"{held[one]:,.0f}" for one in OF_DEVICE), first]
            )
    return markdown_table(["model", "device", "a step alone", *OF_DEVICE, "first"], rows)


def host_table() -> str:
    """What a stream takes of a host, measured."""
    rows = []
    for name, ways in SENT.items():
        for sent, one in ways.items():
            cells = [f"{1e3 * one.server_cores:.1f}", f"{1e3 * one.decoder_cores:.1f}"]
            cells += [f"{one.server_bytes / 1e6:.2f}", f"{one.decoder_bytes / 1e6:.1f}", f"{one.files:.1f}"]
            cells += [f"{one.in_bytes_per_s * 8e-3:,.0f}", f"{one.out_bytes_per_s * 8e-3:,.0f}"]
            rows.append([f"`{name}`", sent, *cells])
    head = ["frames of", "sent as", "server, ms", "decoder, ms", "server, MB", "decoder, MB", "files"]
    return markdown_table([*head, "kbit/s in", "kbit/s out"], rows)


def scale(load: Load, device: str = "h200") -> str:
    """From one stream to 100,000."""
    bounds, rows = plan(load, USUAL, named(device), 1), []
    for streams in SCALES:
        one = plan(load, USUAL, named(device), streams)
        row = [f"{streams:,}", f"{one.devices:,}", f"{one.devices_least:,}", f"{one.hosts:,}", f"{one.cores:,.1f}"]
        row += [f"{one.memory_bytes / 1e9:,.2f}", f"{one.in_bytes_per_s * 8e-9:,.3f}"]
        row += [f"{one.out_bytes_per_s * 8e-9:,.4f}", f"{one.files:,.0f}", f"${one.dollars or 0:,.0f}"]
        if one.cores_without is not None:
            row += [f"{one.cores_without:,.1f}", f"${one.cores_without * CORE_PRICE.dollars_per_hour:,.2f}"]
        rows.append(row)
    head = [
        "streams",
        device,
        "at least",
        "hosts",
        "cores",
        "RAM, GB",
        "Gbit/s in",
        "out",
        "files of a server",
        "an hour",
    ]
    head += ["cores without a device", "an hour"] if load.alone_cores is not None else []
    held = ", ".join(f"{name} {streams:,.0f}" for name, streams in bounds.limits.items())
    return f"A device with its part of a host holds: {held}. **{bounds.first}** first.\n\n{markdown_table(head, rows)}"
