"""Every benchmark that a page names is there, and takes the flags that stand beside it."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
# A command line: what stands behind the module's name, up to the end of the line or of the code that it stands in.
NAMED = re.compile(r"(?:python -m )?benchmarks\.(?!md\b)(\w+)([^`#\n|]*)")


def flags_by_benchmark() -> dict[str, set[str]]:
    """The flags that pages and the benchmarks' own help name."""
    found: dict[str, set[str]] = {}
    for file in [*PAGES, *sorted((ROOT / "benchmarks").glob("*.py"))]:
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        for name, rest in NAMED.findall(text):
            if file in PAGES or (file.stem == name and "def main(argv" in text):
                found.setdefault(name, set()).update(re.findall(r"(--[a-z]\w*)", rest))
    return found


FLAGS = flags_by_benchmark()


def test_pages_name_benchmarks():
    assert {"data", "training", "parity", "returns", "streaming"} <= set(FLAGS)
    assert "--measures" in FLAGS["training"]


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_its_help_has_its_flags(name: str, capsys: pytest.CaptureFixture[str]):
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    missing = {flag for flag in FLAGS[name] if not re.search(rf"{flag}\b", text)}
    assert not missing, f"benchmarks.{name} has no {missing}"
