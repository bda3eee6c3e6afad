"""What is kept of tracing: recalled for the same facts and code alone, mended, bounded, and done without."""

import logging
from pathlib import Path

import pytest

from mmduplex_jax import compile_cache, trace_cache
from mmduplex_jax.trace_cache import recall


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Where programs are kept, of this test alone."""
    monkeypatch.setattr(trace_cache, "kept_folder", lambda: tmp_path)
    return tmp_path


class Maker:
    """Makes another content each time."""

    def __init__(self, size: int = 0):
        self.made, self._size = 0, size

    def __call__(self) -> bytes:
        self.made += 1
        return b"%d" % self.made + bytes(self._size)


def traces(folder: Path) -> list[Path]:
    return list((folder / "traces").iterdir())


def test_it_is_made_once_for_the_same_facts(folder: Path):
    make = Maker()
    assert [recall("step", facts, make) for facts in ("a", "b", "a", "b")] == [b"1", b"2", b"1", b"2"]
    assert recall("init", "a", make) == b"3"
    assert len(traces(folder)) == 3


@pytest.mark.parametrize("changed", ["_code", "_settings"])
def test_other_code_and_other_settings_make_another(folder: Path, monkeypatch, changed: str):
    make = Maker()
    recall("step", "a", make)
    monkeypatch.setattr(trace_cache, changed, lambda: "changed")
    assert recall("step", "a", make) == b"2"


def test_every_source_file_is_part_of_the_code(tmp_path: Path, monkeypatch):
    package = tmp_path / "package"
    (package / "models").mkdir(parents=True)
    (package / "models" / "step.py").write_text("x = 1")
    monkeypatch.setattr(trace_cache, "_PACKAGE", package)
    found = []
    for text in ("x = 1", "x = 2", "x = 1"):
        (package / "models" / "step.py").write_text(text)
        trace_cache._code.cache_clear()
        found.append(trace_cache._code())
    trace_cache._code.cache_clear()
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data[:40] + b"x" + data[41:], lambda data: b"x"]
)
def test_one_that_is_damaged_is_said_and_made_again(folder: Path, caplog, damage):
    make = Maker(size=1000)
    recall("step", "a", make)
    (file,) = traces(folder)
    file.write_bytes(damage(file.read_bytes()))
    assert recall("step", "a", make).startswith(b"2")
    assert ["damaged: it is traced again" in record.message for record in caplog.records] == [True]
    assert recall("step", "a", make).startswith(b"2")


def test_what_was_used_longest_ago_goes_first(folder: Path, monkeypatch):
    make = Maker()
    for facts in "abc":
        recall("step", facts, make)
    (size,) = {file.stat().st_size for file in traces(folder)}
    recall("step", "a", make)
    monkeypatch.setattr(trace_cache, "MAX_BYTES", 2 * size)
    recall("step", "d", make)
    assert [recall("step", facts, make) for facts in "da"] == [b"4", b"1"]
    assert len(traces(folder)) == 2


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, monkeypatch, caplog):
    (tmp_path / "traces").write_text("in the way")
    off = []
    monkeypatch.setattr(trace_cache, "kept_folder", lambda: None if off else tmp_path)
    monkeypatch.setattr(compile_cache, "_set", lambda name, value, _: off.append(name))
    make = Maker()
    with caplog.at_level(logging.WARNING):
        assert [recall("step", "a", make) for _ in range(2)] == [b"1", b"2"]
    assert off == ["jax_enable_compilation_cache"]
    assert [f"cannot be kept in {tmp_path} (Not a directory)" in record.message for record in caplog.records] == [True]


def test_nothing_is_kept_where_programs_are_not(monkeypatch):
    monkeypatch.setattr(trace_cache, "kept_folder", lambda: None)
    make = Maker()
    assert [recall("step", "a", make) for _ in range(2)] == [b"1", b"2"]
