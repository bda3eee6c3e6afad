"""The same (seed, step) gives the same global batch on 1, 2 and 4 hosts with any workers, also after a kill."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipelines.loader import make_loader
from data_pipelines.shards import write_shards
from tests.data_pipelines.loading_program import digests

BATCH_SIZE = 8


@pytest.fixture(scope="module")
def dirs(tmp_path_factory):
    """Two directories of 10 and 5 clips of 12 and 6 ticks."""
    from tests.data_pipelines.small_records import SmallSource, make_record

    class Longer(SmallSource):
        def items(self, begin, end):
            for item in super().items(begin, end):
                yield item._replace(content=make_record(item.unit, num_ticks=12))

    folder = tmp_path_factory.mktemp("dirs")
    write_shards(Longer(10), folder / "long", config={}, units_per_shard=3)
    write_shards(SmallSource(5), folder / "short", config={}, units_per_shard=3)
    return [str(folder / "long"), str(folder / "short")]


def arguments_of(folders, **changes):
    # Every draw is in play: the shuffles, the mixture, the flip and where long records are cut.
    given = {"dirs": folders, "batch_size": BATCH_SIZE, "seed": 5, "flip": True, "weights": [1, 2], "num_ticks": 8}
    return given | changes


class Hosts:
    """Programs that load together, each the batches of one process."""

    def __init__(self, repository, dirs, process_count, workers, state=None, count=None):
        self.programs = []
        for index in range(process_count):
            arguments = arguments_of(
                dirs, process_index=index, process_count=process_count, worker_processes=workers, count=count
            )
            command = [sys.executable, "-m", "tests.data_pipelines.loading_program", json.dumps(arguments)]
            self.programs.append(
                subprocess.Popen(
                    [*command, *([json.dumps(state)] if state else [])],
                    cwd=repository,
                    env={**os.environ, "PYTHONPATH": str(repository)},
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )

    def next_batch(self):
        """The digests of a global batch, and the state after it, which is the same on every host."""
        told = [json.loads(program.stdout.readline()) for program in self.programs]
        assert all(one["state"] == told[0]["state"] for one in told)
        return [digest for one in told for digest in one["digests"]], told[0]["state"]

    def kill(self):
        for program in self.programs:
            program.kill()
            program.wait()
            program.stdout.close()

    def finish(self):
        for program in self.programs:
            assert program.wait(timeout=300) == 0
            program.stdout.close()


def test_hosts_and_workers_may_change_in_the_middle(repository, dirs, tokenizer):
    arguments = arguments_of(dirs)
    alone = make_loader(arguments.pop("dirs"), tokenizer, **arguments)
    wanted = [digests(next(alone)) for _ in range(11)]
    assert len({tuple(batch) for batch in wanted}) == 11
    # Two hosts with a worker each are killed after an odd batch, while they read ahead.
    two = Hosts(repository, dirs, process_count=2, workers=1)
    got = [two.next_batch() for _ in range(5)]
    two.kill()
    # Four hosts without go on, then this process.
    four = Hosts(repository, dirs, process_count=4, workers=0, state=got[-1][1], count=3)
    got += [four.next_batch() for _ in range(3)]
    four.finish()
    one = make_loader(dirs, tokenizer, **arguments)
    one.set_state(got[-1][1])
    got += [(digests(next(one)), one.get_state()) for _ in range(3)]
    assert [batch for batch, _ in got] == wanted
    assert [state["next_batch"] for _, state in got] == list(range(1, 12))


def test_workers_of_a_killed_host_end_too(repository, dirs):
    host = Hosts(repository, dirs, process_count=1, workers=1)
    host.next_batch()
    workers = children(host.programs[0].pid)
    assert len(workers) >= 1
    host.kill()
    deadline = time.monotonic() + 300
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, f"still there: {workers}"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """The processes that a process has started, of Linux."""
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def test_what_would_give_other_batches_is_refused(dirs, tokenizer):
    def make(**changes):
        arguments = arguments_of(dirs, **changes)
        return make_loader(arguments.pop("dirs"), tokenizer, **arguments)

    loader = make()
    next(loader)
    state = loader.get_state()
    for changes, said in (
        ({"batch_size": 16}, "batch_size was 8, is 16. Set them as they were"),
        ({"weights": [1, 3]}, r"weights was \[1.0, 2.0\], is \[1.0, 3.0\]"),
        ({"weights": None}, r"records was \[10, 5\], is 15; weights was \[1.0, 2.0\], is None"),
        ({"dirs": dirs[::-1]}, r"records was \[10, 5\], is \[5, 10\]"),
        ({"num_ticks": 7}, "num_ticks was 8, is 7"),
    ):
        with pytest.raises(ValueError, match=said):
            make(**changes).set_state(state)
    with pytest.raises(ValueError, match="8 does not divide among 3 processes: set the batch size to a multiple"):
        make(process_count=3)
