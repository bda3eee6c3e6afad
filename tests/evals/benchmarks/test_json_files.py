"""JSON of benchmarks and predictions: what is damaged is an error that says where."""

from pathlib import Path

import pytest

from mmduplex_jax.evals.benchmarks.json_files import parse_json, read_json_lines
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"here, line 1, column 1: not JSON"),
        ('{"q0": "A",\n"q0": "B"}', "here: 'q0' comes twice in one object"),
        ("[" * 100_000, "here: .* nested too deeply"),
        ("9" * 5000, "here: "),
        (r'{"q0": "\ud800"}', "here: .*surrogates"),
    ],
)
def test_what_is_damaged_is_named(text: str, said: str):
    with pytest.raises(BenchmarkError, match=said):
        parse_json(text, "here")


def test_lines_are_named(tmp_path: Path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 1, "a": 2}\n')
    lines = read_json_lines(path)
    assert next(lines) == (f"{path}, line 1", {"a": 1})
    with pytest.raises(BenchmarkError, match=r"lines\.jsonl, line 3: 'a' comes twice"):
        next(lines)


def test_what_is_whole_is_read():
    assert parse_json(r'{"a": "\ud83d\ude00", "b": [{"a": 1}, {"a": 2}]}', "here")["a"] == "😀"
