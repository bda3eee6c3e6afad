r"""Compiles a config's real steps for machines that are not here, and says whether they fit.

    python -m launch.compile_ahead \
        --config=configs/duplex_300m.py --topology=v5e:4x4 --mesh.fsdp=16 --json=report.json

Topologies: TPU slices (`v5e:4x4`, `v5e:16x16`, `v5p:4x4x4`, `v6e:8x8`) and hosts of H100s (`h100:8`, `h100:8x4`). The
compilers come with `pip install 'mmduplex-jax[ahead]'`; neither a TPU nor CUDA is needed. Compiled are the training
step, on a mesh of all devices, and for a `duplex` config the streaming step of `--streams` rows, on one device.
`--mesh.data=`, `--mesh.fsdp=` and `--mesh.tensor=` are short for `--config.mesh.…=`.

Exit codes:
  0  it fits
  1  it does not fit; the output says what to change
  2  config, mesh and topology do not fit each other, or a compiler is not installed
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

# Before JAX looks for devices: those of this machine are not asked, its CPU only traces.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from mmduplex_jax.planning.ahead import STEPS, compile_ahead, get_topology, gib
from mmduplex_jax.sharding import ShardingError
from mmduplex_jax.stages.config_file import add_config_flag, add_json_flag, command_parser, run_main, write_json
from mmduplex_jax.train.optimizer import GroupsError

EXIT_TOO_LARGE = 1
EXIT_MISFIT = 2


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report for people."""
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


def work(args: argparse.Namespace) -> int:
    """Compiles and prints; returns the exit code."""
    if args.streams < 1:
        raise ValueError(f"--streams={args.streams}: at least 1")
    topology = get_topology(args.topology)
    report = compile_ahead(args.config, topology, streams=args.streams, steps=tuple(args.steps or STEPS))
    if args.json != "-":
        print("\n".join(lines(report)))
    write_json(args.json, report)
    steps = [report] if "fits" in report else []
    steps += [report["streaming"]] if "streaming" in report else []
    return 0 if all(step["fits"] for step in steps) else EXIT_TOO_LARGE


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("launch.compile_ahead", __doc__)
    add_config_flag(flags)
    add = flags.add_argument
    add("--topology", required=True, metavar="NAME", help="v5e:4x4, v5p:4x4x4, v6e:8x8, h100:8, h100:8x4, ...")
    add("--streams", type=int, default=16, metavar="N", help="rows of the streaming step (default: %(default)s)")
    add("--steps", action="append", choices=STEPS, help="compile this step only; both where it is not given")
    add_json_flag(flags, "write the report here as JSON")
    misfits = dict.fromkeys((ShardingError, GroupsError, FileNotFoundError, ValueError), EXIT_MISFIT)
    return run_main(flags, argv, work, misfits, short={"mesh": "mesh"})


if __name__ == "__main__":
    sys.exit(main())
