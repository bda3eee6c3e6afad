"""Writing shards is killed, runs out of disk, or is damaged afterwards: nothing half is ever taken for whole."""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import manifest
from data_pipelines.schema import encode_record
from data_pipelines.shards import ShardError, open_dataset, write_shards
from launch.prepare import main
from tests.data_pipelines.small_records import SmallSource

WORLD = ("--config=configs/data/world.py", "--config.clip_s=6.0", "--config.units_per_shard=10")


def prepare(out, *arguments):
    return [sys.executable, "-m", "launch.prepare", f"--out={out}", *WORLD, *arguments]


def run(command, repository, **options):
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300, check=False, **options)


def in_this_process(repository, command):
    """Does what the command line `prepare(...)` would, without its imports, which take longer than its work."""
    with contextlib.chdir(repository):
        assert main(command[3:]) == 0


def contents(directory):
    """Every file, those of parts too, but for the lock."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def finished_shards(directory):
    return sorted(path.name for path in directory.glob("shard-*"))


@pytest.mark.parametrize(
    ("kills", "clips"), [(4, 120), pytest.param(20, 1200, marks=pytest.mark.slow)], ids=["4 kills", "20 kills"]
)
def test_killed_at_random_moments_it_gives_the_same_bytes(repository, tmp_path, kills, clips):
    arguments = ("--config.look=rich", f"--config.clips={clips}", "--workers=2")
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "killed"
    in_this_process(repository, prepare(undisturbed, *arguments[:-1], "--workers=1"))
    whole = contents(undisturbed)
    chance = random.Random(kills)
    killed = 0
    for attempt in range(kills):
        with subprocess.Popen(
            prepare(out, *arguments),
            cwd=repository,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            if attempt % 4 == 3:  # any moment from its start on: imports, looking at what is there, the first shard
                time.sleep(chance.uniform(0, 2.0))
            else:  # the middle of writing: soon after this run's first file appears, under its temporary name
                before = set(os.listdir(out)) if out.exists() else set()
                while process.poll() is None and not (out.exists() and set(os.listdir(out)) - before - {".lock"}):
                    time.sleep(0.002)
                time.sleep(chance.uniform(0, 0.3))
            if process.poll() is None:
                killed += 1
                # Now the whole group, now the parent alone, whose workers must not go on for ever.
                (os.killpg if attempt % 2 else os.kill)(process.pid, signal.SIGKILL)
        # What has a final name is whole, always.
        assert all((out / name).read_bytes() == whole[name] for name in (finished_shards(out) if out.exists() else ()))
    assert killed == kills, "runs ended too soon to be killed: give them more clips"
    done = run(prepare(out, *arguments), repository)
    assert done.returncode == 0, done.stderr
    assert contents(out) == whole


class PowerCut(BaseException):
    """Ends a run at once, past every `except Exception`."""


class CutRename:
    """`os.replace`, that ends the run just before or just after its call number `cut_at`."""

    def __init__(self, cut_at, after):
        self.cut_at, self.after, self.calls, self.replace = cut_at, after, 0, os.replace

    def __call__(self, source, target):
        self.calls += 1
        if self.calls == self.cut_at and not self.after:
            raise PowerCut
        self.replace(source, target)
        if self.calls == self.cut_at:
            raise PowerCut


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_cut_off_at_every_rename_it_gives_the_same_bytes(tmp_path, monkeypatch, after):
    """Renames are the moments at which the state on the disk changes: the run ends at each in turn."""
    source = SmallSource(rejects={1, 4})
    write_shards(source, tmp_path / "whole", config={}, units_per_shard=3)
    whole = contents(tmp_path / "whole")
    renames = 1 + 2 * 4 + 3  # the plan; of each shard the file and its part; the three files about them all
    for cut_at in range(1, renames + 1):
        out = tmp_path / f"cut{cut_at}"
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", CutRename(cut_at, after))
            with pytest.raises(PowerCut):
                write_shards(source, out, config={}, units_per_shard=3)
        if not (out / "manifest.json").exists():
            with pytest.raises(ShardError, match="unfinished|holds no shards"):
                open_dataset(out)
        finished = {path.stem for path in out.glob("parts/shard-*.json")}
        source.asked.clear()
        report = write_shards(source, out, config={}, units_per_shard=3)
        assert contents(out) == whole, cut_at
        # No work is done twice but that of the shard in progress, whose part was not there.
        assert {name.removesuffix(".arrayrecord") for name in report.kept} == finished
        assert len(source.asked) == max(0, 10 - 3 * len(finished))


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    write_shards(SmallSource(), tmp_path, config={}, units_per_shard=3)
    whole = contents(tmp_path)
    (tmp_path / ".shard-00001-of-00004.arrayrecord.0123.tmp").write_bytes(b"half")
    (tmp_path / "parts" / ".shard-00001-of-00004.json.77.tmp").write_bytes(b"half")
    (tmp_path / ".writer.0123.tmp").write_bytes(b"of a killed Beam driver")
    write_shards(SmallSource(), tmp_path, config={}, units_per_shard=3)
    assert contents(tmp_path) == whole


@pytest.fixture(scope="module")
def undisturbed(repository, tmp_path_factory):
    """What 60 clips give where nothing happens."""
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    in_this_process(repository, prepare(out, "--config.clips=60", "--workers=1"))
    return out


def test_a_file_too_large_for_its_limit(repository, undisturbed, tmp_path):
    """A limit on the length of files, set so that the largest shard does not fit and others do."""
    arguments, out = ("--config.clips=60", "--workers=1"), tmp_path / "limited"
    sizes = {path.name: path.stat().st_size for path in undisturbed.glob("shard-*")}
    largest = next(name for name in sorted(sizes) if sizes[name] == max(sizes.values()))
    blocks = (sizes[largest] - 1) // 1024
    limited = ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash", *prepare(out, *arguments)]
    done = run(limited, repository)
    assert done.returncode == 1
    assert f"{largest} could not be written" in done.stderr
    assert "File too large" in done.stderr
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert finished_shards(out) == [name for name in sorted(sizes) if name < largest]
    assert not list(out.glob(".*.tmp"))
    assert run(prepare(out, *arguments), repository).returncode == 0
    assert contents(out) == contents(undisturbed)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk(repository, undisturbed, tmp_path, workers):
    """A disk of 3 MB, in a name space of its own, that is made larger afterwards."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], "/").returncode:
        pytest.skip("needs `unshare` with the right to mount in a name space of its own, for a small disk to fill")
    arguments = ("--config.clips=60", f"--workers={workers}")
    copy, disk = tmp_path / "copy", tmp_path / "disk"
    disk.mkdir()
    script = """
        mount -t tmpfs -o size=3m tmpfs "$1"; disk=$1; copy=$2; shift 2
        "$@"; echo "exit code $?"; ls -A "$disk/data"
        mount -o remount,size=100m "$disk"
        "$@" && cp -a "$disk/data" "$copy"
    """
    done = run([*unshare, "bash", "-c", script, "bash", disk, copy, *prepare(disk / "data", *arguments)], repository)
    assert done.returncode == 0, done.stderr
    first, listing = done.stdout.split("exit code 1\n")
    assert first == ""
    assert "No space left on device" in done.stderr
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert ".tmp" not in listing
    there = set(listing.split()) & set(finished_shards(undisturbed))
    assert 0 < len(there) < 6
    assert contents(copy) == contents(undisturbed)


def test_a_full_disk_under_the_files_about_all(tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(manifest.os, "fsync", no_room)
        with pytest.raises(ShardError, match="could not be written .*No space left.*run the same command again"):
            write_shards(SmallSource(), tmp_path, config={}, units_per_shard=3)
    write_shards(SmallSource(), tmp_path, config={}, units_per_shard=3)
    assert len(open_dataset(tmp_path, verify=True)) == 10


@pytest.fixture(scope="module")
def damageable(tmp_path_factory):
    """A data set, and its records as they are."""
    directory = tmp_path_factory.mktemp("damage") / "data"
    write_shards(SmallSource(6), directory, config={}, units_per_shard=3)
    dataset = open_dataset(directory)
    return directory, [encode_record(dataset[number], "raw") for number in range(6)]


@settings(max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found(damageable, place, bit):
    """Verifying always finds it. Reading finds it or it lies where nothing is stored; it never gives other data."""
    directory, records = damageable
    path = directory / "shard-00001-of-00002.arrayrecord"
    whole = path.read_bytes()
    # Half of the places in what is stored, which is a small part of the file: shards end at multiples of 64 kB.
    position = int(place * 2 * len(whole)) if place < 0.5 else int((2 * place - 1) * len(whole.rstrip(b"\0")))
    damaged = bytearray(whole)
    damaged[position] ^= 1 << bit
    try:
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"shard-00001-of-00002.* sha256.*launch\.prepare"):
            open_dataset(directory, verify=True)
        dataset = open_dataset(directory)
        read, errors = {}, {}
        for number in range(6):
            try:
                read[number] = encode_record(dataset[number], "raw")
            except ShardError as error:
                errors[number] = str(error)
    finally:
        path.write_bytes(whole)
    assert all(read[number] == records[number] for number in read)
    assert all(number >= 3 and path.name in error for number, error in errors.items())


def test_a_flipped_bit_in_each_record_is_found_when_it_is_read(damageable):
    directory, _ = damageable
    path = directory / "shard-00001-of-00002.arrayrecord"
    whole = path.read_bytes()
    for number in range(3, 6):
        damaged = bytearray(whole)
        damaged[whole.index(f"small/{number:06d}".encode()) + 300] ^= 1
        try:
            path.write_bytes(damaged)
            dataset = open_dataset(directory)
            with pytest.raises(ShardError, match=rf"shard-00001-of-00002.*record {number - 3} of 3"):
                dataset[number]
        finally:
            path.write_bytes(whole)
