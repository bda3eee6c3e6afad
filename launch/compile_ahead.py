"""Compiles a config's real steps for machines that are not here, and says whether they fit.

    python -m launch.compile_ahead --config=configs/duplex_300m.py --topology=v5e:4x4 [--mesh.fsdp=16] [--json FILE]

Topologies: TPU slices (`v5e:4x4`, `v5e:16x16`, `v5p:4x4x4`, `v6e:8x8`) and hosts of H100s (`h100:8`, `h100:8x4`). The
compilers come with `pip install 'mmduplex-jax[ahead]'`; neither a TPU nor CUDA is needed. Compiled are the training
step, on a mesh of all devices, and for a `duplex` config the streaming step of `--streams` rows, on one device.

Exit codes:
  0  it fits
  1  it does not fit; the output says what to change
  2  config, mesh and topology do not fit each other, or a compiler is not installed
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Before JAX looks for devices: those of this machine are not asked, its CPU only traces.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import app, flags
from ml_collections import config_dict, config_flags

from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.planning.compiled_report import CompiledReport, advice, gib, report, shard_bytes, train_report
from mmduplex_jax.planning.topologies import Topology, TopologyError, get_topology
from mmduplex_jax.sharding import MESH_AXES, ShardingError, make_mesh, replicated, replicated_axes
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.optimizer import GroupsError
from mmduplex_jax.train.step import abstract_params, make_program
from mmduplex_jax.weights.trained import load_tokenizer

EXIT_TOO_LARGE = 1
EXIT_MISFIT = 2
STEPS = ("train", "stream")


def compile_ahead(config: Any, topology: Topology, *, streams: int, steps: tuple[str, ...] = STEPS) -> dict[str, Any]:
    """Compiles what was asked for; returns what `--json` writes.

    Args:
      config: resolved, its mesh sized for the topology.
      topology: where the steps would run.
      streams: rows of the streaming step.
      steps: of `STEPS`. A stage that does not stream has no streaming step.

    Raises:
      ShardingError, GroupsError, ValueError: config and mesh do not fit each other.
    """
    mesh = make_mesh(**config.mesh, devices=topology.devices)
    task = build_task(config, load_tokenizer(config))
    sizes = {axis: int(mesh.shape[axis]) for axis in MESH_AXES}
    found: dict[str, Any] = {
        "topology": topology.name,
        "devices": len(topology.devices),
        "device_kind": topology.device_kind,
        "compiler": topology.compiler,
        "jax": jax.__version__,
        "stage": config.stage,
        "mesh": sizes,
        "batch_size": config.data.batch_size,
    }
    if "train" in steps:
        program = make_program(task, config, mesh)
        trained = train_report(program, topology, config.data.batch_size, config.train.grad_accum)
        found |= trained.to_json() | {
            "advice": advice(trained, config, sizes),
            "replicated_axes": replicated_axes(program.boxed, mesh),
        }
    if "stream" in steps and isinstance(task, DuplexTask):
        streamed = stream_report(task, topology, streams)
        found["streaming"] = {"streams": streams} | streamed.to_json()
        found["streaming"]["advice"] = advice(streamed, config, sizes, streams)
    return found


def stream_report(task: DuplexTask, topology: Topology, streams: int) -> CompiledReport:
    """The streaming step of some rows on the topology's first device, as the server compiles it."""
    live = LiveModel(task.config)
    whole = replicated(make_mesh(1, 1, 1, devices=topology.devices[:1]))
    began = time.perf_counter()
    params = nn.unbox(abstract_params(task))
    state = jax.eval_shape(lambda given: live.init_state(given, streams), params)
    row = lambda dtype, *shape: jax.ShapeDtypeStruct((streams, *shape), dtype)
    side = task.config.tokenizer.frame_px
    settings = (row(jnp.int32), row(jnp.float32), row(jnp.int32))
    inputs = (row(jnp.uint8, side, side, 3), row(jnp.bool_), *settings)

    def step(params: Any, state: Any, frame: Any, active: Any, delay: Any, pad_bias: Any, cap: Any) -> Any:
        return live.live_step(params, state, frame, active, delay, pad_bias, cap=cap)

    jitted = jax.jit(step, donate_argnums=1, in_shardings=whole, out_shardings=whole)
    lowered = jitted.lower(params, state, *inputs)
    kinds = {
        "parameters": shard_bytes(params, whole),
        "streams": shard_bytes(state, whole),
        "inputs": shard_bytes(inputs, whole),
    }
    return report(lowered, topology, kinds, time.perf_counter() - began)


def lines(found: Mapping[str, Any]) -> list[str]:
    """The report for people."""
    mesh = " x ".join(f"{axis}={size}" for axis, size in found["mesh"].items())
    text = [f"{found['topology']}: {found['devices']} x {found['device_kind']}, mesh {mesh} ({found['compiler']})"]
    if "fits" in found:
        text += _step_lines(f"training step, batch {found['batch_size']}", found)
        text += [f"  {line}" for line in found["replicated_axes"]]
    if "streaming" in found:
        streaming = found["streaming"]
        text += _step_lines(f"streaming step, {streaming['streams']} streams on one device", streaming)
    return text


def _step_lines(what: str, found: Mapping[str, Any]) -> list[str]:
    hbm, kinds = found["hbm_bytes"], found["hbm_bytes_by_kind"]
    verdict = "fits" if found["fits"] else "DOES NOT FIT"
    text = [f"{what}: {verdict}, {gib(hbm['peak'])} of {gib(hbm['limit'])} a device"]
    text += [f"  arguments {gib(hbm['arguments'])}: " + _kinds(kinds)]
    activations = kinds.get("activations")
    kept = "" if activations is None else f" (forward keeps {gib(activations)} for backward, before fusion)"
    text += [f"  temporaries {gib(hbm['temporaries'])}{kept}"]
    for kind, moved in (found["collectives"] or {}).items():
        text += [f"  {kind}: {moved['count']:,} a step, {gib(moved['bytes'])}"]
    if found["collectives"] == {}:
        text += ["  nothing is sent"]
    if found["loops_counted_once"]:
        text += [f"  {found['loops_counted_once']} loops with collectives run as often as data says: counted once"]
    text += [f"  traced and lowered in {found['lower_s']} s, compiled in {found['compile_s']} s"]
    text += [f"  the compiler: {found['message']}"] if found["message"] else []
    return text + [f"  change: {line}" for line in found["advice"]]


def _kinds(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {gib(size)}" for kind, size in kinds.items() if kind != "activations")


def main(argv: list[str]) -> int:
    """Reads the flags, compiles, prints, and turns what was foreseen into an exit code."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; configs are changed with --config.a.b=value")
    values = flags.FLAGS
    config = values.config
    try:
        # What is not given stays the config's; `data=-1` of the config takes the rest.
        config.mesh.update({axis: size for axis, size in values.mesh.items() if size is not None})
        topology = get_topology(values.topology)
        found = compile_ahead(config, topology, streams=values.streams, steps=tuple(values.steps))
    except (TopologyError, ShardingError, GroupsError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_MISFIT
    print("\n".join(lines(found)))
    if values.json:
        Path(values.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    steps = [found] if "fits" in found else []
    steps += [found["streaming"]] if "streaming" in found else []
    return 0 if all(step["fits"] for step in steps) else EXIT_TOO_LARGE


def define_flags() -> None:
    """Declares the flags; not at import, so that programs beside this one may have a `--config` of their own."""
    config_flags.DEFINE_config_file("config", None, "a file in configs/; change fields with --config.a.b=value")
    axes = {axis: config_dict.placeholder(int) for axis in MESH_AXES}
    config_flags.DEFINE_config_dict("mesh", config_dict.create(**axes), "sizes of the mesh, short for --config.mesh")
    flags.DEFINE_string("topology", None, "v5e:4x4, v5p:4x4x4, v6e:8x8, h100:8, h100:8x4, ...")
    flags.DEFINE_integer("streams", 16, "rows of the streaming step", lower_bound=1)
    flags.DEFINE_multi_enum("steps", list(STEPS), STEPS, "which steps to compile; may be given twice")
    flags.DEFINE_string("json", None, "also write the report to this file")
    flags.mark_flags_as_required(["config", "topology"])


if __name__ == "__main__":
    define_flags()
    app.run(main)
