r"""What a training costs, before it is run: operations, memory, device-hours, days, money, data.

    python -m launch.estimate --config=configs/duplex_300m.py --hardware=h100:8 --config.mesh.fsdp=8
    python -m launch.estimate --config=configs/duplex_300m.py --hardware=4090 \
        --config.train.grad_accum=2 --mfu=0.3 --price=0.69 --json=cost.json
    python -m launch.estimate --sheet=docs/cost.md      # the whole chain, as that page has it
    python -m launch.estimate --config=configs/real.py --streams=1000 --hardware=h200 --sent=jpeg
    python -m launch.estimate --capacity=docs/capacity.md

Nothing is compiled and no accelerator is needed. --mfu is the share of the device's peak that the model's operations
take: 0.4 is an assumption; put in what a training logs as `mfu`. --price is of one device and hour, in dollars; without
it the price of a table is used (`mmduplex_jax/planning/devices.py` says whose and of when).

With --streams it says instead what so many live streams take: devices, cores, memory, lines, money (docs/capacity.md).

--json writes `flops_per_step, mfu, device_hours, days, cost, memory_bytes_per_device` and what they are made of; with
--streams `devices, hosts, cores, dollars, limits, first` and more.

Exit codes: 0 done, 2 config, mesh or flags do not fit each other.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs import codec_mimi
from mmduplex_jax.planning import capacity, cost, sheets
from mmduplex_jax.planning.devices import named
from mmduplex_jax.stages.config_file import (
    add_config_flag,
    add_json_flag,
    at_least,
    command_parser,
    load_config,
    run_main,
    show,
)  # fmt: skip
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.weights.trained import load_tokenizer

EXIT_MISFIT = 2
# What docs/cost.md is about: the full-size stages, in their order.
CHAIN = ("clip_s16", "bflow_events_75m", "vlm_single_token", "duplex_300m")
SPEAKING = "duplex_300m_speech"


def parse_hardware(text: str) -> tuple[str, int]:
    """`h100:8` as a name and a number, 1 where there is none (ValueError: it is no number from 1 on)."""
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
    task = build_task(config, load_tokenizer(config))
    run = cost.estimate(task, config, named(name), num_devices, mfu=mfu, dollars_per_hour=price)
    source = "--price"
    if price is None:
        source = run.device.price.source if run.device.price else "no price known: pass --price"
    memory = cost.memory(task, config, num_devices)
    data, stream = cost.data_cost(task, config), cost.stream_cost(task, config)
    live = None if stream is None else stream._asdict() | {"step_s_least": stream.step_s_least(run.device)}
    return {
        "stage": config.stage,
        "hardware": f"{name}:{num_devices}",
        "peak_source": run.device.source,
        "parameters": run.parameters,
        "flops_per_step": run.flops.model,
        "flops_by_module": run.flops_by_module,
        "recomputed_flops_per_step": run.flops.recomputed,
        "mfu": mfu,
        "steps": run.steps,
        "step_s": run.step_s,
        "device_hours": run.device_hours,
        "days": run.days,
        "cost": run.dollars,
        "price_per_device_hour": run.dollars_per_hour,
        "price_source": source,
        "memory_bytes_per_device": {**memory._asdict(), "total": memory.total},
        "memory_limit_bytes": run.device.memory_bytes,
        "fits": run.fits(memory),
        "checkpoint_bytes": run.checkpoint_bytes,
        "checkpoints_kept_bytes": run.checkpoint_bytes * config.train.keep,
        "weights_bytes": run.weights_bytes,
        "data": data._asdict() | {"frames_per_s": data.frames_per_step / run.step_s},
        "stream": live,
    }


def work(args: argparse.Namespace) -> None:
    """Counts, and prints a table or writes JSON."""
    if args.sheet:
        stages = sheets.chain({name: load_config(f"configs/{name}.py") for name in CHAIN})
        (speaking,) = sheets.chain({SPEAKING: load_config(f"configs/{SPEAKING}.py")})
        args.sheet.write_text(sheets.cost_sheet(stages, speaking), encoding="utf-8")
        print(f"wrote {args.sheet}")
        return
    codec = codec_mimi.get_config()
    if args.capacity:
        loads = [capacity.load_of(name, load_config(f"configs/{name}.py"), codec) for name in capacity.SERVED]
        page = args.capacity.read_text(encoding="utf-8")
        args.capacity.write_text(capacity.written(page, loads), encoding="utf-8")
        print(f"wrote {args.capacity}")
        return
    if args.config is None:
        raise ValueError("pass --config=FILE, or --sheet=FILE for the whole chain")
    if args.streams is not None:
        name, count = parse_hardware(args.hardware)
        if count > 1 or args.price is not None:
            raise ValueError("--streams finds the number of devices, at a table's price: leave N and --price out")
        device = named(name)
        load = capacity.load_of(Path(args.config_file).stem, args.config, codec)
        found = capacity.plan(load, args.sent, device, args.streams, args.mfu)
        show(args, found._asdict() | {"first": found.first}, capacity.lines(found, load, args.sent, device))
        return
    if args.price is not None and args.price < 0:
        raise ValueError(f"--price={args.price}: at least 0")
    counts = report(args.config, args.hardware, args.mfu, args.price)
    show(args, counts, sheets.run_table(counts))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("launch.estimate", __doc__, compiles=False)
    add_config_flag(flags, required=False)
    add = flags.add_argument
    text = "what it runs on, and how many: h100:8, h200, 4090, 5090, v5e:16, v6e (default: %(default)s)"
    add("--hardware", default="h100", metavar="NAME[:N]", help=text)
    add("--mfu", type=float, default=cost.ASSUMED_MFU, help="share of the peak that is reached (default: %(default)s)")
    add("--price", type=float, metavar="DOLLARS", help="for an hour of one device (default: the table's)")
    add_json_flag(flags)
    add("--streams", type=at_least(1), metavar="N", help="say instead what so many live streams of the config take")
    text = "how their pictures come: jpeg, or h264 or source with a size, h264 1280x720 (default: %(default)s)"
    add("--sent", default=capacity.USUAL, metavar="HOW", help=text)
    add("--sheet", type=Path, metavar="FILE", help="write the page of the whole chain here, as docs/cost.md is made")
    add("--capacity", type=Path, metavar="FILE", help="write the tables of live streams into this page")
    return run_main(flags, argv, work, {ValueError: EXIT_MISFIT})


if __name__ == "__main__":
    sys.exit(main())
