"""Apache Beam writes the bytes that our own processes write; what goes wrong is said."""

import os
import signal
import sys
import time

import pytest

from data_pipelines import beam_runner
from data_pipelines.shards import ShardError, open_dataset, write_shards
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from tests.data_pipelines.small_records import SmallSource

TWO_WORKERS = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
NAMES = [f"shard-0000{number}-of-00004.arrayrecord" for number in range(4)]


def write(source, directory, **options):
    return write_shards(source, directory, config={}, units_per_shard=3, **options)


def contents(directory):
    """Every file, those of parts too, but for the lock."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.fixture
def beam():
    return pytest.importorskip(
        "apache_beam",
        reason='needs Apache Beam: pip install "mmduplex-jax[data]" in an environment of its own, it changes others',
    )


@pytest.mark.usefixtures("beam")
def test_two_workers_write_the_same_bytes(tmp_path):
    source = WorldSource(WorldConfig(clip_s=5.0), seed=3, clips=10)
    write(source, tmp_path / "plain")
    seen = []
    report = write(
        source, tmp_path / "beam", runner="DirectRunner", runner_options=TWO_WORKERS, on_progress=seen.append
    )
    assert contents(tmp_path / "beam") == contents(tmp_path / "plain")
    assert list(report.written) == NAMES
    assert len(open_dataset(tmp_path / "beam", verify=True)) == 10
    assert (seen[0].units, seen[-1].units) == (0, 10)
    assert seen[-1].written_s == pytest.approx(10 * 32 * 0.16)


@pytest.mark.usefixtures("beam")
def test_beam_goes_on_where_it_was(tmp_path):
    source = SmallSource(10, rejects={2, 7})
    write(source, tmp_path)
    whole = contents(tmp_path)
    (tmp_path / NAMES[2]).unlink()
    report = write(source, tmp_path, runner="DirectRunner")
    assert report.written == (NAMES[2],)
    assert contents(tmp_path) == whole


@pytest.mark.usefixtures("beam")
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [((), OSError, "no space left"), (TWO_WORKERS, ShardError, "DirectRunner failed: .*no space left")],
)
def test_an_error_of_a_worker_is_told(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        write(SmallSource(fails_at=7), tmp_path, runner="DirectRunner", runner_options=options)
    assert not (tmp_path / "manifest.json").exists()
    assert not list(tmp_path.glob(".*.tmp"))
    write(SmallSource(), tmp_path)  # finishes what Beam began
    assert len(open_dataset(tmp_path, verify=True)) == 10


class SeenSource(SmallSource):
    """Notes in `folder` which processes write, waits until `together` do, and kills those of unit 4 `kills` times."""

    def __init__(self, folder, together, kills):
        super().__init__(rejects={2, 7})
        folder.mkdir()
        self.folder, self.together, self.kills = folder, together, kills

    def items(self, begin, end):
        (self.folder / f"{os.getpid()}.writer").touch()
        while len(writers(self.folder)) < self.together:
            time.sleep(0.05)
        for item in super().items(begin, end):
            if item.unit == 4 and len(list(self.folder.glob("*.killed"))) < self.kills:
                (self.folder / f"{os.getpid()}.killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


def writers(folder):
    return {int(path.stem) for path in folder.glob("*.writer")}


@pytest.fixture(scope="module")
def dask_options():
    """Those of a scheduler with two worker processes, which gives up a shard of which two have died."""
    why = 'needs Beam and Dask: pip install "mmduplex-jax[dask]" in an environment of its own, Beam changes others'
    pytest.importorskip("apache_beam", reason=why)
    distributed = pytest.importorskip("distributed", reason=why)
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        yield (f"--dask_client_address={cluster.scheduler_address}",)


def test_two_processes_of_dask_write_the_same_bytes_though_one_is_killed(tmp_path, dask_options):
    write(SmallSource(rejects={2, 7}), tmp_path / "plain")
    source = SeenSource(tmp_path / "seen", together=2, kills=1)
    write(source, tmp_path / "dask", runner="DaskRunner", runner_options=dask_options)
    assert contents(tmp_path / "dask") == contents(tmp_path / "plain")  # what the dead process began is gone, too
    assert len(list(source.folder.glob("*.killed"))) == 1
    assert len(writers(source.folder) - {os.getpid()}) >= 2


@pytest.mark.slow
def test_a_shard_that_kills_every_worker_of_dask_is_told(tmp_path, dask_options):
    source, out = SeenSource(tmp_path / "seen", together=1, kills=2), tmp_path / "dask"
    with pytest.raises(ShardError, match=r"DaskRunner failed: .*2 different workers.* died"):
        write(source, out, runner="DaskRunner", runner_options=dask_options)
    assert not (out / "manifest.json").exists()
    report = write(source, out, runner="DaskRunner", runner_options=dask_options)
    assert NAMES[1] in report.written
    write(SmallSource(rejects={2, 7}), tmp_path / "plain")
    assert contents(out) == contents(tmp_path / "plain")


def test_a_worker_that_does_not_see_the_directory_says_so(tmp_path):
    with pytest.raises(ShardError, match="--out must lie on a file system that all machines mount"):
        beam_runner._WriteInWorker(tmp_path / "elsewhere" / ".writer.tmp")((0, 4, 0, 3))


def test_where_dask_is_absent_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ShardError, match=r'--runner=DaskRunner needs.* Dask.*pip install "mmduplex-jax\[dask\]"'):
        write(SmallSource(), tmp_path, runner="DaskRunner")


def test_where_beam_is_absent_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ShardError, match=r'--runner=FlinkRunner needs Apache Beam.*pip install "mmduplex-jax\[data\]"'):
        write(SmallSource(), tmp_path, runner="FlinkRunner")
