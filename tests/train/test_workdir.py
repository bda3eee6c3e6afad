"""One training at a time in a workdir."""

import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from mmduplex_jax.train.workdir import LOCK, WorkdirError, hold_workdir

HOLD = """
import sys, time
from pathlib import Path
from mmduplex_jax.train.workdir import hold_workdir
with hold_workdir(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_is_refused_and_the_first_named(repository, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(repository), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        with (
            pytest.raises(WorkdirError, match=rf"process {first.pid} on {socket.gethostname()}"),
            hold_workdir(tmp_path),
        ):
            pass
    finally:
        first.kill()
        first.wait()
    # What a killed training leaves is no training.
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == first.pid
    with hold_workdir(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert (tmp_path / LOCK).read_text() == ""


def elsewhere(tmp_path):
    lock = tmp_path / LOCK
    lock.write_text(json.dumps({"host": "another-machine", "pid": 7, "started": "today"}))
    return lock


def test_a_lock_of_another_machine_that_nobody_touches_is_stale(tmp_path):
    elsewhere(tmp_path)
    with hold_workdir(tmp_path, touch_s=0.02, lost_s=0.1):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_one_that_is_touched_is_not(tmp_path):
    lock, done = elsewhere(tmp_path), threading.Event()

    def touch():
        while not done.wait(0.02):
            os.utime(lock)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(WorkdirError, match="process 7 on another-machine, since today"), hold_workdir(tmp_path):
            pass
    finally:
        done.set()
        thread.join()


def test_processes_of_one_job_are_one_training(tmp_path, monkeypatch):
    with hold_workdir(tmp_path):
        monkeypatch.setattr("jax.process_index", lambda: 1)
        with hold_workdir(tmp_path):
            pass
