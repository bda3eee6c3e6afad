"""What CONTRIBUTING.md says of adding a data source, done: a file and a line."""

import json
from pathlib import Path

import pytest

from data_pipelines.loader import make_loader
from data_pipelines.sources import Source, registry
from launch import prepare
from mmduplex_jax.text_tokenizer import TextTokenizer


@pytest.fixture
def stripes(monkeypatch):
    # The one line; in the project it stands in the table itself.
    monkeypatch.setitem(registry.SOURCES, "stripes", "tests.data_pipelines.sources.stripes:stripes_source")
    return Path(__file__).parent / "stripes.py"


def test_a_source_is_a_file_and_a_line(stripes, tmp_path, capsys):
    with pytest.raises(SystemExit):
        prepare.main(["--help"])
    assert "stripes  Stripes that move to the right" in capsys.readouterr().out
    out = tmp_path / "out"
    flags = [f"--config={stripes}", f"--out={out}", "--workers=1"]
    assert prepare.main([*flags, "--config.clips=16"]) == 0
    assert "16 units" not in capsys.readouterr().err
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["samples"], summary["rejected"]) == (15, {"cannot decode": 1})
    batch = next(make_loader(out, TextTokenizer.word_level(["stripes"]), batch_size=4, flip=None))
    assert batch["frames"].shape == (4, 8, 16, 16, 3)
    assert batch["slots"].max() == 2  # the mark of a word
    assert prepare.main([*flags, "--config.clips=0"]) == 1
    assert "config.clips must be positive" in capsys.readouterr().err


def test_contributing_names_what_a_source_has(repository):
    """Every name that the protocol wants is in the how-to."""
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = {name for name in vars(Source) if not name.startswith("_")} | {"__len__"}
    assert {name for name in names if f"`{name}" not in text} == set()
