"""Logical axes to meshes: what is refused, what is replicated, and that every mesh computes the same."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from mmduplex_jax.sharding import ShardingError, abstract_mesh, logical_names, make_mesh, replicated_axes, resolve
from tests.golden_shardings import CONFIGS, golden_path, shardings_of

MESH = abstract_mesh(2, 2, 2)


@pytest.mark.parametrize(
    ("names", "shape", "spec"),
    [
        (("embed", "mlp"), (8, 6), PartitionSpec("fsdp", "tensor")),
        (("layers", "heads", "embed"), (3, 4, 8), PartitionSpec(None, "tensor", "fsdp")),
        (("batch", None), (4, 7), PartitionSpec(("data", "fsdp"), None)),
        (("kv_heads",), (5,), PartitionSpec(None)),
        (("embed", "kv_heads/64"), (8, 4 * 64), PartitionSpec("fsdp", "tensor")),
        # 320 columns divide by two, five heads do not.
        (("embed", "kv_heads/64"), (8, 5 * 64), PartitionSpec("fsdp", None)),
        ((), (), PartitionSpec()),
    ],
)
def test_names_become_a_partition(names, shape, spec):
    assert resolve(names, shape, MESH, where="array") == spec


@pytest.mark.parametrize(
    ("names", "shape", "said"),
    [
        (("embed", "width"), (8, 8), r"text/kernel: unknown logical axis 'width'; the rules know \['batch'"),
        (("mlp", "heads"), (8, 8), "axes 'mlp' and 'heads' of shape .* both split over mesh axis 'tensor'"),
        (("embed", "embed"), (8, 8), "both split over mesh axis 'fsdp'"),
        (("heads/8", "mlp"), (8 * 2, 8), "axes 'heads/8' and 'mlp' of shape .* both split over mesh axis 'tensor'"),
        (("embed",), (7,), r"axis 'embed' of size 7 cannot be split over mesh axes \{'fsdp': 2\}"),
        (("batch",), (6,), r"size 6 cannot be split over mesh axes \{'data': 2, 'fsdp': 2\}"),
        (("embed",), (8, 8), r"1 logical names .* for shape \(8, 8\)"),
    ],
)
def test_what_cannot_be_placed_is_an_error_that_names_it(names, shape, said):
    with pytest.raises(ShardingError, match=said):
        resolve(names, shape, MESH, where="text/kernel")


def test_a_replicated_axis_is_told():
    box = nn.LogicallyPartitioned(jnp.zeros((8, 5)), ("embed", "kv_heads"))
    heads = nn.LogicallyPartitioned(jnp.zeros((8, 320)), ("embed", "kv_heads/64"))
    assert replicated_axes({"key": {"kernel": box}, "value": {"kernel": heads}}, MESH) == [
        "key/kernel: axis 1 (kv_heads, size 5) is not split 2 ways: replicated",
        "value/kernel: axis 1 (kv_heads, 5 times 64) is not split 2 ways: replicated",
    ]


def test_an_array_without_names_is_refused():
    with pytest.raises(ShardingError, match="head/kernel: no logical axes"):
        logical_names({"head": {"kernel": jnp.zeros((2, 2))}})


def test_meshes_must_fit_the_devices():
    assert dict(make_mesh(devices=jax.devices()[:1]).shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    with pytest.raises(ShardingError, match="asks for data=3 x fsdp=1 x tensor=1 devices, and there are 1"):
        make_mesh(3, devices=jax.devices()[:1])
    with pytest.raises(ShardingError, match="at least 1"):
        make_mesh(1, 0, devices=jax.devices()[:1])


@pytest.mark.parametrize("name", CONFIGS)
def test_shardings_are_the_golden_ones(name):
    golden = json.loads(golden_path(name).read_text(encoding="utf-8"))
    assert shardings_of(name) == golden, "meant? rewrite with `python -m tests.golden_shardings`"


def test_every_mesh_computes_the_same(eight_devices):
    found = eight_devices.run("tests.eight_devices", "toy")
    # Sums in another order: float32 rounding, a little more each step.
    for mesh in ("8x1x1", "4x2x1", "2x2x2", "1x8x1", "1x1x8"):
        assert found[mesh] == pytest.approx(found["one"], rel=1e-5), mesh
    assert found["replicated"] == []
    stayed, moved = found["restored"]
    assert moved == pytest.approx(stayed, rel=1e-5)


def test_rows_stay_where_they_are_and_parameters_travel(eight_devices):
    """Parameters are gathered going forward and again going back (remat), and their gradient is summed: thrice theirs.

    Left to itself the partitioner sends activations of the whole batch, many times as much; larger models more so.
    """
    found = eight_devices.run("tests.placed_rows")
    assert 2 * found["parameters"] < sum(found["placed"].values()) < 4 * found["parameters"]
    assert sum(found["left"].values()) > 10 * sum(found["placed"].values())


@pytest.mark.parametrize("shared", ["4", "2"])
def test_attention_is_computed_where_its_heads_are(eight_devices, shared):
    """Of `shared` key-value heads over four devices: they divide, and each device has its own, or stay whole on each.

    Then two sums of activations a layer and pass are sent, and parameters by `fsdp`. Cut through the heads, or with
    rows and heads as one axis, seven times as much was.
    """
    found = eight_devices.run("tests.placed_heads", shared)
    # Attention and MLP of two layers: forward, recomputed (remat) and backward.
    sums = 2 * 2 * 3 * found["activations"]
    assert sum(found["sent"].values()) < 1.5 * (sums + 3 * found["parameters"])


# Small enough to compile in a minute; the axes are those of the real one.
SMALL = ("data.clip_s=1.28", "text.layers=2")


@pytest.mark.slow
def test_a_mesh_of_all_axes_computes_the_same_for_the_quickstart(eight_devices):
    found = eight_devices.run("tests.eight_devices", "quickstart", *SMALL)
    assert found["2x2x2"] == pytest.approx(found["one"], rel=1e-5)
