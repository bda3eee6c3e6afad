"""Topologies by name, and what a compiler's message says of memory; all but one test need no compiler."""

import pytest

from mmduplex_jax.planning import ahead
from mmduplex_jax.planning.ahead import TopologyError, get_topology, memory_in_message
from mmduplex_jax.sharding import make_mesh

GIB = 2**30


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (56.25G) "
            "exceeds available HBM (15.75G).",
            (56.25, 15.75),
        ),
        (
            "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
            (20.5, 15.75),
        ),
        ("INTERNAL: something else", None),
    ],
)
def test_a_compilers_message_of_memory(message, found):
    assert memory_in_message(message) == (found and tuple(int(size * GIB) for size in found))


@pytest.mark.parametrize("name", ["v9:4x4", "v5e", "h100", "b200:8", "v5e:16", "h100:8y2"])
def test_a_topology_that_there_is_not(name):
    with pytest.raises(TopologyError, match=r"expected a TPU slice .* or h100"):
        get_topology(name)


@pytest.mark.parametrize(("name", "said"), [("v5e:4x4", "needs libtpu"), ("h100:8", "needs JAX's CUDA plugin")])
def test_a_compiler_that_is_missing_is_named(name, said, monkeypatch):
    monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TopologyError, match=rf"{said}: pip install 'mmduplex-jax\[ahead\]'"):
        get_topology(name)


def test_axes_of_a_mesh_may_split_those_of_a_torus():
    """A slice of 8 x 8 chips for axes of 4 and 16: neither is a product of its sides."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install 'mmduplex-jax[ahead]'")
    mesh = make_mesh(4, 16, 1, devices=get_topology("v6e:8x8").devices)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 16, "tensor": 1}
    assert len({device.id for device in mesh.devices.flat}) == 64
