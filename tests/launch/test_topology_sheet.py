"""The page of topologies, and its figures as goldens."""

import json

import jax
import pytest

from launch import compile_ahead
from mmduplex_jax.planning.ahead import get_topology
from tests.launch.compilers import needs

DOCS = compile_ahead.ROOT / "docs"


def test_the_page_is_what_the_command_makes_of_its_file():
    reports = json.loads((DOCS / "topologies.json").read_text(encoding="utf-8"))
    written = (DOCS / "topologies.md").read_text(encoding="utf-8")
    assert written == compile_ahead.page(reports), "rewrite: python -m launch.compile_ahead --sheet=docs --render"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("case", compile_ahead.CASES, ids=lambda case: case.topology)
def test_duplex_300m_is_sharded_as_it_was(case):
    """Collectives and memory of the golden file; other versions of the compilers may choose otherwise."""
    needs("jax_plugins.xla_cuda13" if case.topology.startswith("h100") else "libtpu")
    golden = json.loads((DOCS / "topologies.json").read_text(encoding="utf-8"))[case.topology]
    topology = get_topology(case.topology)
    if (topology.compiler, jax.__version__) != (golden["compiler"], golden["jax"]):
        pytest.skip(f"the golden file is of {golden['compiler']} and jax {golden['jax']}")
    found = compile_ahead.compiled(case)
    for field in ("fits", "mesh", "hbm_bytes_by_kind", "collectives", "replicated_axes"):
        assert found[field] == golden[field], (
            f"{field}; meant? take {case.topology} out of docs/topologies.json, make anew"
        )
    # The compiler's scheduler has a little freedom; a sharding that is lost costs far more.
    assert found["hbm_bytes"]["peak"] == pytest.approx(golden["hbm_bytes"]["peak"], rel=0.02)
