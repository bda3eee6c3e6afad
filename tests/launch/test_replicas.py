"""Three server processes behind HAProxy: restarted one after the other and killed, and the words are those of one."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import replicas
from benchmarks.replicas import CONFIG, Server, Watched, compared, local_config
from mmduplex_jax.client import Word
from tests.serving.served import PATIENCE_S

needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")


@needs_haproxy
def test_haproxy_takes_the_configuration(tmp_path: Path):
    for name, text in (("shipped", CONFIG.read_text(encoding="utf-8")), ("local", local_config([1, 2, 3], 8080))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        checked = subprocess.run(
            ["haproxy", "-c", "-f", str(tmp_path / name)], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
        # (Of the cluster's names, which this machine does not know, it says that they are looked up later.)
        warnings = [line for line in checked.stderr.splitlines() if "WARNING" in line]
        assert all("could not resolve address 'serve-" in line for line in warnings), warnings
        assert len(warnings) == (3 if name == "shipped" else 0)


class Client:
    """What is asked of a client's stream."""

    reconnections, doubled = 1, 0


def test_words_that_are_lost_doubled_or_others_are_counted():
    words = [Word(number, f"w{number}", number / 4, number / 4 + 0.1, None) for number in range(1, 5)]
    other = words[3]._replace(t_emit_s=9.0)
    found = compared([Watched([words[0], words[0], words[2], other], Client(), 20, 1)], [words])
    assert (found["words"], found["lost"], found["doubled"], found["different"]) == (4, 1, 1, 1)
    assert (found["reconnections"], found["told_of_missing_words"], found["too_many"]) == (1, 1, 0)
    assert compared([Watched(words, Client(), 20, 0)], [words[:3]])["too_many"] == 1


@pytest.mark.parametrize(("words", "lost", "code"), [(0, 0, 2), (9, 0, 0), (9, 1, 1)])
def test_a_model_that_says_nothing_is_no_success(tmp_path: Path, monkeypatch, capsys, words: int, lost: int, code: int):
    found = {"words": words, "lost": lost, "doubled": 0, "different": 0, "too_many": 0, "ticks": 1200}
    monkeypatch.setattr(replicas, "run", lambda *_, **__: found)
    assert replicas.main(["--checkpoint=quiet", f"--json={tmp_path / 'found.json'}"]) == code
    assert ("quiet said no word in 1,200 undisturbed ticks" in capsys.readouterr().err) == (not words)
    assert json.loads((tmp_path / "found.json").read_text())["words"] == words


def test_what_a_server_prints_never_holds_it_up(tmp_path: Path):
    server = Server("talks", 0, [], tmp_path / "log")
    server._command = [sys.executable, "-c", "print('up on http', flush=True); print('x' * (1 << 20), flush=True)"]
    server.start()
    server.wait_until_it_listens()
    assert server._process.wait(PATIENCE_S) == 0


@pytest.mark.slow
@needs_haproxy
def test_streams_behind_haproxy_go_on_through_restarts_and_kills(portable_dir: Path):
    found = replicas.run(
        [f"--checkpoint={portable_dir}"], streams=4, seconds=12.0, tick_s=0.1, rest_s=3.0, snapshot_s=1.0
    )
    assert found["words"] > found["ticks"] / 10
    assert min(found["SIGTERM"], found["SIGKILL"]) >= 1
    assert found["reconnections"] >= 2
    assert not any(found[name] for name in ("lost", "doubled", "different", "too_many", "told_of_missing_words"))
