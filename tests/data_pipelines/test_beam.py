"""Apache Beam writes the bytes that our own processes write; what goes wrong is said."""

import sys

import pytest

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


def test_where_beam_is_absent_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ShardError, match=r'--runner=FlinkRunner needs Apache Beam.*pip install "mmduplex-jax\[data\]"'):
        write(SmallSource(), tmp_path, runner="FlinkRunner")
