"""A checkpoint goes onto another mesh, in other processes, and no process reads more than a little over its share."""

import json
from pathlib import Path

import pytest

from tests.train.processes import Processes

# Of a process' share: what is read of a chunk that lies across its border, and decompressed, is held beside it.
BESIDE = 3.0


def run(workdir: Path, what: str, count: int, devices: int, mesh: tuple[int, int, int]) -> list[dict]:
    options = {"devices": devices, "module": "tests.train.restoring"}
    with Processes(workdir, count, what, *mesh, **options) as processes:
        assert processes.exit_codes() == [0] * count, processes.log(0)
        said = [[line for line in processes.log(i).splitlines() if line.startswith("{")] for i in range(count)]
    return [json.loads(lines[-1]) for lines in said if lines]


@pytest.mark.slow
def test_no_process_holds_more_than_its_share(tmp_path):
    """Eight devices of four processes, then four of two, then two of one; split along other axes each time."""
    workdir = tmp_path / "run"
    run(workdir, "save", 4, 2, (1, 8, 1))
    [whole] = run(workdir, "restore", 1, 2, (1, 1, 2))
    assert len(whole["values"]) == 2000
    for count, devices, mesh in ((4, 2, (1, 2, 4)), (4, 2, (1, 8, 1)), (2, 2, (1, 1, 4)), (2, 2, (1, 4, 1))):
        found = run(workdir, "restore", count, devices, mesh)
        assert len(found) == count
        values: dict[str, float] = {}
        for process in found:
            assert process["held"] < 1.01 * process["whole"] / count
            assert process["peak"] < BESIDE * process["held"], mesh
            assert count < 4 or process["peak"] < 0.8 * process["whole"], mesh
            values |= process["values"]
        assert values == whole["values"]
