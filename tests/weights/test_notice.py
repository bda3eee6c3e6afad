"""The licences of what a training began with, however far back."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from launch import export
from mmduplex_jax.weights.notice import notice_behind


def began_with(**folders):
    return {"init_from": {"strict": True, "text": "", **{name: str(folder) for name, folder in folders.items()}}}


@pytest.fixture
def folders(tmp_path):
    """Imported weights of two kinds, a workdir that began with both, and an export of one that began with that."""
    for name in ("language", "tower"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "NOTICE").write_text(f"The {name} is free.\n")
    run = tmp_path / "run"
    (run / "checkpoints" / "7").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(began_with(text=tmp_path / "language", vision=tmp_path / "tower")))
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "metadata.json").write_text(json.dumps({"config": began_with(tokenizer=run)}))
    return tmp_path


def test_a_training_that_began_with_nothing_has_no_notice():
    assert notice_behind({}) == ""
    assert notice_behind(began_with()) == ""


@pytest.mark.parametrize("folder", ["run", "run/checkpoints/7", "exported"])
def test_licences_are_found_through_trainings_between(folders, folder):
    # Each once, although the tower is named twice.
    notice = notice_behind(began_with(tokenizer=folders / folder, vision=folders / "tower"))
    assert notice.count("The tower is free.") == notice.count("The language is free.") == 1


def test_what_says_nothing_is_named(folders):
    (folders / "tower" / "NOTICE").unlink()
    notice = notice_behind(began_with(tokenizer=folders / "exported", vision=folders / "gone"))
    assert "The language is free." in notice
    for folder in ("tower", "gone"):
        assert f"began with {folders / folder}, beside which nothing says under which licence" in notice


def test_an_export_takes_the_notice_with_it(folders, monkeypatch, tmp_path):
    as_json = lambda value: lambda: json.dumps(value)
    config = SimpleNamespace(
        to_json_best_effort=as_json(began_with(text=folders / "language")),
        data=SimpleNamespace(to_json_best_effort=as_json({})),
    )
    tokenizer = SimpleNamespace(to_json=as_json({}))
    trained = SimpleNamespace(
        task=None, config=config, tokenizer=tokenizer, params={"a": np.ones(2)}, steps=1, metadata={}, weights="float32"
    )
    monkeypatch.setattr(export, "load_trained", lambda checkpoint, weights: trained)
    assert export.main(["--checkpoint=run", f"--out={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "NOTICE").read_text() == "The language is free.\n\n"
