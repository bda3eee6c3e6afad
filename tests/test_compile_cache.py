"""Compiled programs that are kept: found again, shared, bounded, mended, and done without where they cannot be."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmduplex_jax.compile_cache import OFF, default_folder
from mmduplex_jax.stages.config_file import command_parser, parse_args

# What a process does: compiles and runs programs, and says how many it found compiled and how many it kept.
PROGRAM = """
import json, os, resource, sys
given = json.loads(sys.argv[1])
if given.get("largest_file"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (given["largest_file"],) * 2)
import jax
from mmduplex_jax.compile_cache import keep_compiled
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
where = keep_compiled(given.get("where"))
results = []
for factor in given.get("factors", [1]):
    def times(x):
        return x * factor + 1
    results.append(float(jax.jit(times)(2.0)))
found, kept = events.count("cache_hits"), events.count("cache_misses")
print(json.dumps({"where": where, "results": results, "found": found, "kept": kept}))
"""


def start(tmp_path: Path, environment: dict[str, str] | None = None, **given: Any) -> subprocess.Popen:
    """A process of a user whose home is `tmp_path`, who has set nothing but `environment`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XDG_"))}
    home = {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    path = {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    command = [sys.executable, "-c", PROGRAM, json.dumps(given)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=inherited | home | path | (environment or {}), **pipes)


def ended(process: subprocess.Popen) -> tuple[dict[str, Any], list[str]]:
    """What it printed, and the lines of its standard error."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out), err.splitlines()


def run(tmp_path: Path, environment: dict[str, str] | None = None, **given: Any) -> tuple[dict[str, Any], list[str]]:
    return ended(start(tmp_path, environment, **given))


def folder_of(tmp_path: Path) -> Path:
    return tmp_path / ".cache" / "mmduplex-jax" / "compiled"


def programs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-cache"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """The home of a user of whom two processes have compiled the same programs at the same time, and what was kept."""
    home = tmp_path_factory.mktemp("home")
    processes = [start(home, factors=[1, 2, 3]) for _ in range(2)]
    for said, errors in map(ended, processes):
        assert (said["where"], said["results"], errors) == (str(folder_of(home)), [3.0, 5.0, 7.0], [])
        assert said["found"] + said["kept"] == 3
    return home, {file.name: file.read_bytes() for file in folder_of(home).iterdir()}


@pytest.fixture
def home(filled: tuple[Path, dict[str, bytes]]) -> Path:
    """It, as it was then. (A program's key has the folder's path in it.)"""
    home, files = filled
    for file in folder_of(home).iterdir():
        file.unlink()
    for name, data in files.items():
        (folder_of(home) / name).write_bytes(data)
    return home


def test_two_that_begin_at_once_leave_what_a_third_finds(home: Path):
    assert len(programs(folder_of(home))) == 3
    assert run(home, factors=[1, 2, 3])[0]["found"] == 3
    assert folder_of(home).stat().st_mode & 0o777 == 0o700  # whoever writes there has programs run


def test_a_damaged_entry_is_said_and_compiled_again(home: Path):
    for entry in programs(folder_of(home)):
        os.truncate(entry, 100)
    said, errors = run(home, factors=[1])
    assert (said["results"], said["found"], said["kept"]) == ([3.0], 0, 1)
    (line,) = errors
    assert "jit_times" in line
    assert "is damaged" in line
    assert run(home, factors=[1])[0]["found"] == 1


def test_an_entry_of_one_that_was_killed_keeps_nobody_from_writing(home: Path):
    for written in folder_of(home).glob("*-atime"):
        written.unlink()
    said, errors = run(home, factors=[1, 4])
    assert (said["found"], said["kept"], errors) == (1, 1, [])
    assert len(programs(folder_of(home))) == 4


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit of files' sizes on this system")
def test_a_full_disk_is_said_once_and_leaves_no_halves(tmp_path: Path):
    said, errors = run(tmp_path, factors=[1, 2, 3], largest_file=1000)
    assert said["results"] == [3.0, 5.0, 7.0]
    (line,) = errors
    assert f"cannot be kept in {folder_of(tmp_path)} (" in line
    assert "File too large" in line
    assert programs(folder_of(tmp_path)) == []


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path):
    (tmp_path / ".cache").write_text("in the way")
    said, errors = run(tmp_path, factors=[1, 2])
    assert (said["where"], said["results"]) == (None, [3.0, 5.0])
    (line,) = errors
    assert f"cannot be kept in {folder_of(tmp_path)} (Not a directory): going on without" in line


def test_what_was_used_longest_ago_goes_first(home: Path):
    # Room for three and a half: programs are not all of one size to the byte.
    room = sum(entry.stat().st_size for entry in programs(folder_of(home))) * 7 // 6
    run(home, {"JAX_COMPILATION_CACHE_MAX_SIZE": str(room)}, factors=[1, 4, 5])
    assert sum(entry.stat().st_size for entry in programs(folder_of(home))) <= room
    assert len(programs(folder_of(home))) == 3
    assert run(home, factors=[1, 4, 5])[0]["found"] == 3


@pytest.mark.parametrize(
    ("environment", "given"),
    [({"JAX_ENABLE_COMPILATION_CACHE": "false"}, {}), ({}, {"where": OFF})],
    ids=["environment", "argument"],
)
def test_it_can_be_turned_off(tmp_path: Path, environment: dict[str, str], given: dict[str, str]):
    said, errors = run(tmp_path, environment, **given)
    assert (said["where"], said["kept"], errors) == (None, 0, [])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_own(tmp_path: Path):
    own = tmp_path / "own"
    said, _ = run(tmp_path, {"JAX_COMPILATION_CACHE_DIR": str(own)})
    assert (said["where"], said["kept"]) == (str(own), 1)
    assert not folder_of(tmp_path).exists()
    (entry,) = programs(own)
    os.truncate(entry, 100)
    (line,) = run(tmp_path, {"JAX_COMPILATION_CACHE_DIR": str(own)})[1]
    assert "is damaged" in line
    assert run(tmp_path, where=str(own))[0]["found"] == 1


def test_tests_do_not_write_where_users_keep_theirs():
    assert default_folder().name == "compiled"
    assert Path(os.environ["JAX_COMPILATION_CACHE_DIR"]) != default_folder()


def test_commands_that_compile_have_the_flag(tmp_path: Path, capsys):
    assert parse_args(command_parser("launch.x", ""), []).compile_cache is None
    assert "compile_cache" not in parse_args(command_parser("launch.x", "", compiles=False), [])
    assert "compile_cache" not in parse_args(command_parser("benchmarks.x", ""), [])
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(SystemExit):
        parse_args(command_parser("launch.x", ""), [f"--compile_cache={file}"])
    assert capsys.readouterr().err == (
        f"python -m launch.x: error: --compile_cache={file}: compiled programs cannot be kept there (File exists)\n"
    )
