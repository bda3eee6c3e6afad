"""Live streams on devices and hosts: by hand, from the command line, and the page in the docs."""

import json
import math
from pathlib import Path

import pytest

from configs import codec_mimi
from launch import estimate
from mmduplex_jax.planning import capacity
from mmduplex_jax.planning.cost import StreamCost
from mmduplex_jax.planning.devices import named
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.stages.config_file import load_config

PAGE = Path("docs/capacity.md")
ANEW = f"write {PAGE} anew: python -m launch.estimate --capacity={PAGE}"
SENT = capacity.Sent(0.01, 0.03, 10**6, 4 * 10**6, 2.0, 125_000, 1_000)
STREAM = StreamCost(flops_per_s=10e9, state_bytes=10**7, weights_bytes=10**9)
LOAD = capacity.Load("hand", STREAM, 12.5, {"jpeg": SENT, "source 640x360": SENT._replace(decoder_cores=0.1)}, 0.5)


def test_what_bounds_a_device_by_hand():
    found = capacity.limits(LOAD, "jpeg", named("h200"), mfu=0.5)
    state_and_temporaries = 10**7 * (1 + 1.26 / 0.87)
    by_hand = {
        "operations": 0.5 * 989e12 * 0.9 / 10e9,
        "bandwidth": (0.6 * 4.8e12 * 0.9 * 0.08 - 1e9) / (2 * state_and_temporaries - 10**7),
        "memory": (0.9 * 141e9 - 1e9) / state_and_temporaries,
        "Python": 0.7 / 0.01,
        "cores": 0.7 * 24 / 0.04,
        "RAM": 0.9 * 250e9 / 5e6,
    }
    assert found == pytest.approx(by_hand, abs=1)  # whole streams
    assert all(streams == math.floor(streams) for streams in found.values())


def test_a_stream_of_which_more_is_decoded_takes_cores_and_no_python():
    of = {sent: capacity.limits(LOAD, sent, named("h200")) for sent in LOAD.sent}
    assert of["source 640x360"]["Python"] == of["jpeg"]["Python"]
    assert of["source 640x360"]["cores"] < of["jpeg"]["cores"]


def test_a_plan_by_hand():
    found = capacity.plan(LOAD, "jpeg", named("h200"), 1000)
    assert (found.first, found.limits["Python"]) == ("Python", 70)
    assert (found.devices, found.devices_least, found.hosts, found.dollars) == (15, 1, 2, 60.0)
    assert found.cores == pytest.approx(40.0)
    assert found.memory_bytes == 5 * 10**9
    assert (found.in_bytes_per_s, found.out_bytes_per_s) == (125 * 10**6, 10**6)
    assert found.files == 140
    assert found.cores_without == pytest.approx(500 / 0.7)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="measured are jpeg, source 640x360"):
        capacity.plan(LOAD, "fax", named("h200"), 1)
    large = LOAD._replace(stream=STREAM._replace(weights_bytes=10**12))
    with pytest.raises(ValueError, match="does not fit one h200"):
        capacity.plan(large, "jpeg", named("h200"), 1)
    with pytest.raises(ValueError, match="the page has the tables"):
        capacity.written("<!-- rows: other -->\n<!-- rows end -->", [])


def test_the_command_says_what_streams_take(repository: Path, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    asked = []
    monkeypatch.setattr(capacity, "load_of", lambda name, config, codec: asked.append((name, config.stage)) or LOAD)
    flags = ["--config=configs/quickstart.py", "--streams=1000", "--hardware=h200", "--sent=jpeg"]
    assert estimate.main([*flags, "--json=-"]) == 0
    assert asked == [("quickstart", "duplex")]
    found = json.loads(capsys.readouterr().out)
    assert (found["devices"], found["first"]) == (15, "Python")
    assert estimate.main(flags) == 0
    assert "15 h200, a server each, in 2 hosts of 8" in capsys.readouterr().out


def test_a_stage_that_is_not_served_is_refused(repository: Path, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert estimate.main(["--config=configs/clip_quickstart.py", "--streams=1"]) == 2
    assert "clip" in capsys.readouterr().err


def test_what_was_measured_and_assumed_stands_on_the_page(repository: Path):
    page = (repository / PAGE).read_text(encoding="utf-8")
    assert set(capacity.SENT) == {"world", "real"}
    for table in (capacity.host_table(), capacity.assumed()):
        assert table in page, ANEW


def test_the_server_s_bounds_are_those_of_the_page(repository: Path):
    page = (repository / PAGE).read_text(encoding="utf-8")
    assert f"{Limits().connections:,} sockets (`--limit_connections`)" in page


@pytest.mark.slow
def test_the_page_is_up_to_date(repository: Path):
    page = (repository / PAGE).read_text(encoding="utf-8")
    loads = [
        capacity.load_of(name, load_config(f"configs/{name}.py"), codec_mimi.get_config()) for name in capacity.SERVED
    ]
    assert capacity.written(page, loads) == page, ANEW
