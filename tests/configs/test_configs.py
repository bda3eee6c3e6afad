"""The configs of the repository: what they resolve to, and that the full-size ones stand by themselves."""

import ast
import difflib
from pathlib import Path

import pytest

from tests.golden_configs import CONFIGS, GOLDEN, golden_path, resolved

FOLDER = Path(__file__).resolve().parent.parent.parent / "configs"
FULL_SIZE = (
    "bflow_75m",
    "bflow_events_75m",
    "clip_s16",
    "codec_mimi",
    "duplex_300m",
    "duplex_clip_llm",
    "duplex_smollm2",
    "vlm_single_token",
)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_resolves_to_what_it_did(name: str):
    golden = golden_path(name).read_text(encoding="utf-8").splitlines()
    diff = list(difflib.unified_diff(golden, resolved(name), "before", "now", lineterm="", n=0))
    shown = "\n".join(diff)
    assert not diff, f"configs/{name} changed; if that is meant, run `python -m tests.golden_configs`:\n{shown}"


def test_every_config_has_a_golden():
    modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "shared"}
    assert modules == {name.partition(":")[0] for name in CONFIGS}
    assert {path.name for path in GOLDEN.iterdir()} == {golden_path(name).name for name in CONFIGS}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_experiments_inherit_from_no_other(name: str):
    tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == {"config_dict", "shared"}
