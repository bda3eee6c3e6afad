"""Every row of the parity table: ours computes what the reference does, and goes back to the bit."""

import sys
from pathlib import Path

import pytest

from benchmarks import parity
from tests.weights.huggingface.parity_cases import LIMIT, Case, Comparison, all_cases
from tests.weights.huggingface.random_towers import assert_round_trip, timm_or_skip

CASES = [case for case in all_cases() if case.family not in ("llama", "qwen3")]


def compared(case: Case, folder) -> Comparison:
    """Runs a case, or skips the test where its reference is not installed."""
    for package in case.needs:
        if package == "timm":
            timm_or_skip()
        else:
            pytest.importorskip(package, reason="the reference is made with it")
    return case.run(folder)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_towers_and_pairs(case, tmp_path):
    comparison = compared(case, tmp_path / "theirs")
    assert max(comparison.differences.values()) <= LIMIT, comparison.differences
    assert {"hidden"} < comparison.differences.keys() or case.architecture.endswith("without head")
    assert_round_trip(tmp_path / "theirs", comparison.found, comparison.params, tmp_path / "ours")


def test_the_document_has_every_row():
    table = (Path(__file__).parents[3] / "docs" / "parity.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[:2] for line in table.splitlines() if line.startswith("| ")][2:]
    wanted = [[f"| {case.architecture}", case.shape] for case in all_cases()]
    assert rows == wanted, "make it anew: python -m benchmarks.parity --markdown=docs/parity.md"
    assert len({str(case) for case in all_cases()}) == len(wanted)


def test_without_a_reference_the_benchmark_says_what_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert parity.main([f"--markdown={tmp_path / 'parity.md'}"]) == 1
    assert "torch does not import" in capsys.readouterr().err
    assert not (tmp_path / "parity.md").exists()


def test_a_report_is_a_table():
    rows = [{"architecture": "A", "shape": "b", "max_abs_diff": {"hidden": 1e-6, "logits": 2.5e-5}}]
    report = {
        "limit": 1e-4,
        "largest": 2.5e-5,
        "rows": rows,
        "versions": {"jax": "1.2"},
        "machine": "",
        "date": "today",
    }
    text = parity.markdown(report)
    assert "\n| A | b | 1.0e-06 |  | 2.5e-05 |  |  |\n" in text
    assert "1 rows, the largest entry 2.5e-05" in text
    assert "jax 1.2, on today." in text
