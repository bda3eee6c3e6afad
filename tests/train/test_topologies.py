"""Topologies by name, and what a compiler's message says of memory; no compiler is needed."""

import pytest

from mmduplex_jax.train import topologies
from mmduplex_jax.train.topologies import TopologyError, get_topology, memory_in_message

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
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TopologyError, match=rf"{said}: pip install 'mmduplex-jax\[ahead\]'"):
        get_topology(name)
