"""Compiling ahead: the report on what is here, and, where the compilers are installed, on what is not."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import ml_collections
import pytest

from mmduplex_jax.planning.ahead import (
    Topology,
    activations_bytes,
    advice,
    stream_report,
    train_report,
)
from mmduplex_jax.sharding import make_mesh
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.train.step import make_program
from tests import tiny
from tests.launch.compilers import needs
from tests.train.toy import ToyTask, toy_config

HERE = Topology("cpu:1", jax.devices()[:1], 2**30, "XLA of this JAX")
REPORTED = {"fits", "hbm_bytes", "hbm_bytes_by_kind", "collectives", "compile_s"}


def toy_program(**changes):
    return make_program(ToyTask(), toy_config(**changes), make_mesh(1, 1, 1, devices=jax.devices()[:1]))


def test_a_training_step_is_reported_by_kind():
    config = toy_config()
    program = toy_program()
    found = train_report(program, HERE, config.data.batch_size, 1)
    kinds, hbm = found["hbm_bytes_by_kind"], found["hbm_bytes"]
    assert found["fits"]
    assert kinds["parameters"] == sum(leaf.size * 4 for leaf in jax.tree.leaves(program.target.params))
    # Two moments of every parameter, and counters of four bytes.
    assert 2 * kinds["parameters"] < kinds["optimiser"] < 2 * kinds["parameters"] + 64
    # The step's number is an argument too, and of no kind.
    kept = {kind: size for kind, size in kinds.items() if kind != "activations"}
    assert hbm["arguments"] == sum(kept.values()) + 4
    assert hbm["peak"] >= hbm["arguments"] + hbm["temporaries"]
    assert found["collectives"] == {}
    assert set(found) >= REPORTED
    assert set(hbm) == {"arguments", "temporaries", "peak", "limit"}


def test_it_fits_only_where_there_is_room():
    program = toy_program()
    tight = dataclasses.replace(HERE, limit_bytes=1000)
    assert not train_report(program, tight, toy_config().data.batch_size, 1)["fits"]


def test_activations_grow_with_the_batch_and_hold_no_parameters():
    program = toy_program()
    one, two, four = (activations_bytes(program, rows) for rows in (1, 2, 4))
    assert four - two == 2 * (two - one) > 0
    # What no row adds to: scalars, and no array of parameters.
    assert 0 <= one - (two - one) < min(leaf.size for leaf in jax.tree.leaves(program.target.params)) * 4


def test_the_real_streaming_step_is_compiled():
    # With the tokenizer that compiles fastest.
    model = tiny.dual_stream(kind="per_frame")
    task = DuplexTask(model, ticks=4, delay_min=1, delay_max=2, pad_weight=0.3, nested_dropout=0.0)
    small, large = (stream_report(task, HERE, streams) for streams in (1, 3))
    assert small["fits"]
    few, many = small["hbm_bytes_by_kind"], large["hbm_bytes_by_kind"]
    assert many["streams"] == 3 * few["streams"]
    assert many["parameters"] == few["parameters"]
    # What is given and not needed (the tokens' cap of a row is) may be left out by the compiler, nothing may be added.
    assert large["hbm_bytes"]["arguments"] <= sum(many.values())


GIB = 2**30


def too_large(**kinds: int) -> dict:
    given = sum(kinds.values())
    hbm = {"arguments": given, "temporaries": 20 * GIB, "peak": given + 20 * GIB, "limit": 16 * GIB}
    return {"fits": False, "hbm_bytes": hbm, "hbm_bytes_by_kind": kinds}


def duplex_config(**changes):
    config = ml_collections.ConfigDict(
        {
            "stage": "duplex",
            "data": {"batch_size": 64, "clip_s": 12.0},
            "train": {"grad_accum": 1},
            "text": {"remat": False},
            "video_stream": {"remat": True},
            "tokenizer": {"anchor": {"remat": True}},
        }
    )
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    ("found", "mesh", "changes", "said"),
    [
        (too_large(parameters=3 * GIB, optimiser=6 * GIB), (16, 1, 1), {}, ["--mesh.fsdp=16 --mesh.data=1"]),
        (too_large(parameters=3 * GIB, optimiser=6 * GIB), (1, 4, 1), {}, ["more devices for --mesh.fsdp"]),
        (too_large(parameters=GIB), (4, 1, 1), {}, ["--config.text.remat=True", "--config.train.grad_accum=2: 8 rows"]),
        (too_large(parameters=GIB), (4, 1, 1), {"train.grad_accum": 4}, ["--config.text.remat=True", "grad_accum=8"]),
        (too_large(parameters=GIB), (4, 1, 1), {"tokenizer.anchor.remat": False}, ["tokenizer.anchor.remat=True"]),
        # 15 GiB for rows of 1.25 GiB: 12 on each of 4 devices, of 64 in all.
        (too_large(parameters=GIB), (4, 1, 1), {"stage": "clip"}, ["batch_size=48, or 2 times the devices"]),
        (too_large(parameters=GIB), (64, 1, 1), {"text.remat": True}, ["a shorter clip"]),
    ],
)
def test_what_does_not_fit_is_told_what_to_change(found, mesh, changes, said):
    lines = advice(found, duplex_config(**changes), dict(zip(("data", "fsdp", "tensor"), mesh)))
    assert len(lines) >= len(said)
    for part in said:
        assert any(part in line for line in lines), (part, lines)
    assert advice(found | {"fits": True}, duplex_config(), {}) == []


def test_too_many_streams_are_told_how_many_fit():
    (line,) = advice(too_large(parameters=GIB, streams=2 * GIB), duplex_config(), {}, streams=64)
    streams = int(line.removeprefix("--streams=").split(":")[0])
    assert 1 <= streams < 64


def ahead(repository, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "launch.compile_ahead", *arguments]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=3000)


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "module"), [("v5e:2x2", "libtpu"), ("h100:4", "jax_plugins.xla_cuda13")])
def test_the_command_on_a_small_model(topology, module, repository, tmp_path):
    needs(module)
    file = tmp_path / "report.json"
    done = ahead(
        repository,
        "--config=configs/clip_quickstart.py",
        f"--topology={topology}",
        "--mesh.fsdp=2",
        f"--json={file}",
    )
    assert done.returncode == 0, done.stderr
    assert "training step, batch 96: fits" in done.stdout
    found = json.loads(file.read_text(encoding="utf-8"))
    assert REPORTED | {"topology", "devices"} <= set(found)
    assert (found["devices"], found["mesh"]) == (4, {"data": 2, "fsdp": 2, "tensor": 1})
    # Parameters that are split must be gathered, and gradients summed.
    assert found["collectives"]["all-gather"]["bytes"] > found["hbm_bytes_by_kind"]["parameters"]
    assert "all-reduce" in found["collectives"] or "reduce-scatter" in found["collectives"]
