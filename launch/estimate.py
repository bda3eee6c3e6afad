r"""What a training costs, before it is run: operations, memory, device-hours, days, money, data.

    python -m launch.estimate --config=configs/duplex_300m.py --hardware=h100:8 [--config.mesh.fsdp=8]
        [--mfu=0.4] [--price=2.95] [--json]
    python -m launch.estimate --sheet=docs/cost.md      the whole chain, beside what was asked about

Nothing is compiled and no accelerator is needed. --mfu is the share of the device's peak that the model's operations
take: 0.4 is an assumption; put in what a training logs as `mfu`. --price is of one device and hour, in dollars; without
it a price found once is used (`mmduplex_jax/planning/devices.py` says where and when).

--json prints `flops_per_step, mfu, device_hours, days, cost, memory_bytes_per_device` and what they are made of.

Exit codes: 0 done, 2 config, mesh or flags do not fit each other.
"""

import json
import sys
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from mmduplex_jax.planning import cost
from mmduplex_jax.planning.cost_sheet import cost_sheet
from mmduplex_jax.planning.data_cost import data_cost
from mmduplex_jax.planning.devices import named
from mmduplex_jax.planning.stream_cost import stream_cost
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.weights.trained import load_tokenizer

EXIT_MISFIT = 2


def parse_hardware(text: str) -> tuple[str, int]:
    """`h100:8` as a name and a number, 1 where there is none.

    Raises:
      ValueError: it is no number from 1 on.
    """
    name, colon, number = text.partition(":")
    if colon and not (number.isdecimal() and int(number)):
        raise ValueError(f"--hardware={text}: behind the colon stands how many there are, as in h100:8")
    return name, int(number) if colon else 1


def report(config: Any, hardware: str, mfu: float, price: float | None) -> dict[str, Any]:
    """All that is known of a run, as JSON has it.

    Raises:
      ValueError: the hardware is not known, or config, mesh and devices do not fit each other.
    """
    name, num_devices = parse_hardware(hardware)
    task = cost.counted(build_task(config, load_tokenizer(config)))
    found = cost.estimate(task, config, named(name), num_devices, mfu=mfu, dollars_per_hour=price)
    source = "--price"
    if price is None:
        source = found.device.price.source if found.device.price else "no price known: pass --price"
    footprint = cost.footprint(task, config, num_devices)
    data, stream = data_cost(task, config), stream_cost(task)
    live = None if stream is None else stream._asdict() | {"step_s_least": stream.step_s_least(found.device)}
    return {
        "stage": config.stage,
        "hardware": f"{name}:{num_devices}",
        "peak_source": found.device.source,
        "parameters": found.parameters,
        "flops_per_step": found.flops_per_step,
        "flops_by_part": {part: value.total for part, value in found.flops.items()},
        "recomputed_flops_per_step": found.flops_per_step * footprint.recomputed,
        "mfu": mfu,
        "steps": found.steps,
        "step_s": found.step_s,
        "device_hours": found.device_hours,
        "days": found.days,
        "cost": found.dollars,
        "price_per_device_hour": found.dollars_per_hour,
        "price_source": source,
        "memory_bytes_per_device": {**footprint.memory._asdict(), "total": footprint.memory.total},
        "memory_limit_bytes": found.device.memory_bytes,
        "fits": found.fits(footprint.memory),
        "checkpoint_bytes": found.checkpoint_bytes,
        "checkpoints_kept_bytes": found.checkpoint_bytes * config.train.keep,
        "weights_bytes": found.weights_bytes,
        "data": data._asdict() | {"frames_per_s": data.frames_per_step / found.step_s},
        "stream": live,
    }


def table(found: dict[str, Any]) -> str:
    """A report as lines to read."""
    giga, tera = 1e9, 1e12
    whole, data, memory = found["flops_per_step"], found["data"], found["memory_bytes_per_device"]
    rows: list[tuple[str, str]] = [
        ("stage", f"{found['stage']}, {found['parameters'] / 1e6:,.1f} M parameters, {found['steps']:,} steps"),
        (
            "operations a step",
            f"{whole / tera:,.2f} TFLOP; remat repeats {found['recomputed_flops_per_step'] / whole:.0%}",
        ),
    ]
    rows += [(f"  {part}", f"{value / whole:6.1%}") for part, value in found["flops_by_part"].items()]
    money = "no price known: pass --price" if found["cost"] is None else f"${found['cost']:,.0f}"
    price = "" if found["cost"] is None else f" at ${found['price_per_device_hour']:.2f} ({found['price_source']})"
    rows += [
        ("hardware", f"{found['hardware']}, MFU {found['mfu']:.0%} of {found['peak_source']}"),
        ("a step", f"{found['step_s']:.3g} s"),
        ("the run", f"{found['device_hours']:,.1f} device-hours, {found['days']:.3g} days, {money}{price}"),
        (
            "memory a device",
            f"{memory['total'] / giga:,.1f} of {found['memory_limit_bytes'] / giga:,.0f} GB: {_fit(found)}",
        ),
    ]
    rows += [(f"  {kind}", f"{value / giga:7.2f} GB") for kind, value in memory.items() if kind != "total"]
    rows += [
        ("a checkpoint", f"{found['checkpoint_bytes'] / giga:.2f} GB, weights {found['weights_bytes'] / giga:.2f} GB"),
        ("data seen", f"{data['samples']:,} samples, {data['text_tokens'] / giga:,.2f} G text slots, at most "
                      f"{data['video_tokens'] / giga:,.2f} G video tokens, {data['video_hours']:,.0f} hours of video"),
        ("preparing that once", f"{data['prepare_core_hours']:,.0f} core-hours, {data['stored_bytes'] / tera:,.2f} TB"),
        ("reading", f"{data['frames_per_s']:,.0f} frames a second: "
                    f"{data['frames_per_s'] / data['frames_read_per_core_s']:,.1f} cores"),
    ]  # fmt: skip
    if found["stream"]:
        stream = found["stream"]
        rows += [
            ("live, a stream", f"{stream['flops_per_s'] / giga:,.1f} GFLOP a second of video at most, "
                               f"{stream['state_bytes'] / 1e6:,.1f} MB"),
            ("  a step, alone", f"{stream['step_s_least'] * 1e3:.2f} ms at least, to read "
                                f"{stream['weights_bytes'] / giga:.2f} GB of weights once"),
        ]  # fmt: skip
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{wide}}  {value}" for name, value in rows)


def _fit(found: dict[str, Any]) -> str:
    if found["fits"]:
        return "fits"
    return (
        "does not fit; more devices with --config.mesh.fsdp=N, a smaller --config.data.batch_size, "
        "--config.train.grad_accum=N, or remat=True of the largest part"
    )


def main(argv: list[str]) -> int:
    """Reads the flags and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; configs are changed with --config.a.b=value")
    values = flags.FLAGS
    if values.sheet:
        with open(values.sheet, "w", encoding="utf-8") as file:
            file.write(cost_sheet())
        print(f"wrote {values.sheet}")
        return 0
    if values.config is None:
        raise app.UsageError("pass --config=FILE, or --sheet=FILE for the whole chain")
    try:
        found = report(values.config, values.hardware, values.mfu, values.price)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_MISFIT
    print(json.dumps(found, indent=2) if values.json else table(found))
    return 0


def define_flags() -> None:
    """Declares the flags; not at import, so that programs beside this one may have a `--config` of their own."""
    config_flags.DEFINE_config_file("config", None, "a file in configs/; change fields with --config.a.b=value")
    flags.DEFINE_string("hardware", "h100", "NAME or NAME:NUMBER, such as h100:8, h200, 4090, 5090, v5e:16, v6e")
    flags.DEFINE_float("mfu", cost.ASSUMED_MFU, "share of the peak that is reached", lower_bound=0.0, upper_bound=1.0)
    flags.DEFINE_float("price", None, "dollars for an hour of one device", lower_bound=0.0)
    flags.DEFINE_bool("json", False, "print JSON")
    flags.DEFINE_string("sheet", "", "write the sheet of the whole chain to this file, as docs/cost.md is made")


if __name__ == "__main__":
    define_flags()
    app.run(main)
