"""`launch.prepare`: killed at any moment and run again, it gives the same bytes; its errors say what to do."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_pipelines.shards import open_dataset
from data_pipelines.sources.world import world_source
from launch.prepare import main
from tests.data_pipelines.numbered_video import number_in, write_numbered

PATIENCE_S = 300  # others may compute beside this
SMALL = ("--config.clip_s=5.0", "--config.frame_px=32", "--config.clips=12", "--config.units_per_shard=2")


def command(out, *arguments):
    """The command line; it is about the world unless `arguments` name another configuration."""
    world = (
        [] if any(argument.startswith("--config=") for argument in arguments) else ["--config=configs/data/world.py"]
    )
    return [sys.executable, "-m", "launch.prepare", *world, f"--out={out}", *arguments]


def output_of(process):
    """What it says on standard error until it, and all that it has started, have ended; else they are killed."""
    try:
        return process.communicate(timeout=PATIENCE_S)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


@pytest.fixture(scope="module")
def run(repository):
    """Runs the command in this process, as in one of its own: what it imports takes longer than its work."""

    def run_prepare(out, *arguments):
        program, said, errors = command(out, *arguments), io.StringIO(), io.StringIO()
        with contextlib.chdir(repository), contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            try:
                code = main(program[3:])
            except SystemExit as end:  # of the flags' parser
                code = end.code
        return subprocess.CompletedProcess(program, code, said.getvalue(), errors.getvalue())

    return run_prepare


@pytest.fixture(scope="module")
def prepared(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "world"
    done = run(out, *SMALL, "--workers=1")
    assert done.returncode == 0, done.stderr
    return out


def contents(directory):
    """Every file, those of parts too, but for the lock."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def identities(directory):
    stats = {path.name: path.stat() for path in directory.glob("*.arrayrecord")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_records_are_the_worlds_clips(prepared):
    dataset = open_dataset(prepared, verify=True)
    assert len(dataset) == 12
    source = world_source(dataset.manifest.config)
    [(_, key, made, _)] = source.items(7, 8)
    read = dataset[7]
    assert dataset.key(7) == read.key == key == "world/plain/0/000007"
    assert read.words == made.words
    assert read.events == made.events
    assert read.frames.shape == (32, 32, 32, 3)
    assert abs(read.frames.astype(int) - made.frames).mean() < 4.0  # of 255: JPEG


def test_workers_and_a_process_of_its_own_do_not_matter(repository, prepared, tmp_path):
    done = subprocess.run(
        command(tmp_path / "world", *SMALL, "--workers=3"),
        cwd=repository, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "world") == contents(prepared)


def test_second_run_redoes_nothing_and_sums_up(run, prepared, tmp_path):
    before = identities(prepared)
    done = run(prepared, *SMALL, "--verify", f"--json={tmp_path / 'summary.json'}")
    assert done.returncode == 0, done.stderr
    assert identities(prepared) == before
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == json.loads((prepared / "summary.json").read_text())
    assert (summary["samples"], summary["shards"], summary["rejected"]) == (12, 6, {})
    assert summary["hours"] == pytest.approx(12 * 5.12 / 3600)
    assert summary["bytes"] == sum(path.stat().st_size for path in prepared.glob("*.arrayrecord"))
    assert "0 written, 6 kept" in done.stdout


def test_workers_end_with_their_parent(repository, tmp_path):
    with subprocess.Popen(
        command(tmp_path / "world", *SMALL, "--config.clips=2000", "--workers=2"),
        cwd=repository,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not list((tmp_path / "world").glob("shard-*")):
            time.sleep(0.02)
        assert process.poll() is None
        process.kill()
        # The pipe ends when the last process that holds it has ended.
        output_of(process)


# Jobs in the background of a shell ignore Ctrl-C, and so would what they start.
HEED_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize(("group", "times"), [(False, 1), (True, 1), (True, 5)], ids=["parent", "group", "impatient"])
def test_ctrl_c_keeps_what_is_finished(repository, tmp_path, group, times):
    out = tmp_path / "world"
    with subprocess.Popen(
        [sys.executable, "-c", HEED_CTRL_C, *command(out, *SMALL, "--config.clips=2000", "--workers=2")],
        cwd=repository,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not list(out.glob("shard-*")):
            time.sleep(0.02)
        for _ in range(times):
            (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
            time.sleep(0.01)
        errors = output_of(process)
    assert process.returncode == 130
    assert "the same command goes on from here" in errors
    assert "Traceback" not in errors
    assert not list(out.glob(".*.tmp"))
    assert len(list(out.glob("shard-*"))) == len(list(out.glob("parts/shard-*"))) < 1000


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder of a captioned video, one without words, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    write_numbered(folder / "counted.mp4", count=75)
    (folder / "counted.srt").write_text("1\n00:00:00,400 --> 00:00:01,000\ncounting bars\n")
    write_numbered(folder / "silent.mp4", count=80)
    (folder / "broken.mp4").write_bytes(b"no video at all" * 100)
    (folder / "broken.srt").write_text("1\n00:00:00,400 --> 00:00:01,000\nnothing\n")
    return folder


FOLDER = ("--config=configs/data/folder.py", "--config.frame_px=64", "--config.motion.plane_px=32", "--workers=1")


def test_a_folder_of_videos_with_motion(run, videos, tmp_path):
    done = run(tmp_path / "out", *FOLDER, f"--config.root={videos}", "--config.motion.keep=True")
    assert done.returncode == 0, done.stderr
    dataset = open_dataset(tmp_path / "out", verify=True)
    assert len(dataset) == 1
    record = dataset[0]
    assert [word.text for word in record.words] == ["counting", "bars"]
    assert [number_in(frame) for frame in record.frames][:4] == [0, 4, 8, 12]
    assert record.motion.shape == (19, 16, 16, 4)
    assert record.motion.dtype == np.int8
    assert not record.motion[0].any()
    assert record.motion[1:].any()
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    causes = {line["key"]: line["cause"] for line in map(json.loads, lines)}
    assert causes == {"folder/broken.mp4": "cannot decode", "folder/silent.mp4": "no words"}
    assert "cannot decode  1" in done.stdout
    assert "hours of video an hour" in done.stdout


def test_motion_that_does_not_fit_the_frames_is_refused_at_once(run, videos, tmp_path):
    done = run(tmp_path / "out", *FOLDER, f"--config.root={videos}", "--config.motion.plane_px=24")
    assert done.returncode == 1
    assert (
        "config.frame_px by config.motion.plane_px must be one integer in both directions, got (64, 64) / (24, 24)"
        in done.stderr
    )
    assert not (tmp_path / "out").exists()


def test_a_place_for_json_that_is_not_there_is_refused_at_once(run, tmp_path):
    done = run(tmp_path / "out", *SMALL, f"--json={tmp_path / 'nowhere' / 'summary.json'}")
    assert done.returncode == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_processes_without_work_are_told_of(run, videos, tmp_path):
    arguments = (*FOLDER[:-1], f"--config.root={videos}", "--config.motion.keep=False", "--workers=2")
    done = run(tmp_path / "one", *arguments)
    assert "3 units at 20 a shard keep 1 of 2 processes busy" in done.stderr
    done = run(tmp_path / "two", *arguments, "--config.units_per_shard=2")
    assert done.returncode == 0, done.stderr
    assert "processes busy" not in done.stderr


def test_a_run_that_rejects_everything_fails(run, tmp_path):
    (tmp_path / "videos").mkdir()
    write_numbered(tmp_path / "videos" / "silent.mp4", count=80)
    out = tmp_path / "out"
    done = run(out, *FOLDER, f"--config.root={tmp_path / 'videos'}", f"--json={tmp_path / 'summary.json'}")
    assert done.returncode == 1
    assert "every one of 1 units was rejected" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((out / "rejected.jsonl").read_text())["cause"] == "no words"
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads((out / "summary.json").read_text())


def test_a_runner_that_is_not_there(run, tmp_path):
    done = run(tmp_path / "out", *SMALL, "--runner=NoSuchRunner")
    assert done.returncode == 1
    # With Beam it is the runner that is not there, without it Beam.
    assert "NoSuchRunner" in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_damaged_shard_is_rewritten(run, prepared, tmp_path):
    whole = contents(prepared)
    out = tmp_path / "world"
    shutil.copytree(prepared, out)
    victim = out / "shard-00002-of-00006.arrayrecord"
    data = bytearray(victim.read_bytes())
    data[len(data) // 3] ^= 4
    victim.write_bytes(data)
    done = run(out, *SMALL, "--verify", "--workers=1")
    assert done.returncode == 0, done.stderr
    assert "1 shards were not as they had been written and were rewritten" in done.stdout
    assert contents(out) == whole


def test_other_configuration_is_refused(run, prepared):
    before = identities(prepared)
    done = run(prepared, *SMALL, "--config.look=rich")
    assert done.returncode == 1
    assert 'config.look: "plain" there, "rich" asked for' in done.stderr
    assert "Traceback" not in done.stderr
    assert identities(prepared) == before


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.look=baroque", "look 'baroque' is unknown"),
        ("--config.clips=0", "config.clips must be positive"),
        ("--config.source=tape", "config.source 'tape' is unknown"),
        ("--config.image.format=gif", "image format 'gif' is unknown"),
        ("--config.image.quality=0", "image quality must be 1..100"),
        ("--config.units_per_shard=0", "units_per_shard and workers must be positive"),
        ("--config.no_such_value=1", "no_such_value"),
    ],
)
def test_wrong_values_are_named(run, tmp_path, argument, message):
    done = run(tmp_path / "world", *SMALL, "--workers=1", argument)
    assert done.returncode != 0
    assert message in done.stderr


def test_ranges_of_the_world_can_be_changed(run, tmp_path):
    done = run(tmp_path / "world", *SMALL, "--workers=1", "--config.clips=2", "--config.world.dynamics.max_things=1")
    assert done.returncode == 0, done.stderr
    manifest = open_dataset(tmp_path / "world").manifest
    assert manifest.source["world"]["dynamics"]["max_things"] == 1


def test_help_teaches(run, tmp_path):
    done = run(tmp_path, "--help")
    for needed in ("python -m launch.prepare --config=", "Interrupted?", "--verify", "--workers", "livecc "):
        assert needed in done.stdout
