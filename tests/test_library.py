"""What `pip install` gives: an import that costs nothing, eight lines that commentate, and no more than the library."""

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

import mmduplex_jax as mm
from data_pipelines.video_source import VideoError
from data_pipelines.world import WorldConfig, make_clip
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Commentator, Delays
from mmduplex_jax.weights import trained
from tests.streaming.scripted_stream import FRAME_PX, TOKENIZER, ScriptedLive, script

ROOT = Path(__file__).resolve().parent.parent
WORLD = WorldConfig(look="plain", clip_s=12.0)
HEAVY = ("jax", "flax", "numpy", "av", "cv2", "grain", "orbax", "tensorflow_datasets", "ml_collections", "tokenizers")


class Scripted(Commentator):
    """A model that says a script, as `tests/streaming` has it."""

    clock, tokens_per_s_max, frame_px, fit, delays = Clock(), 8, (FRAME_PX, FRAME_PX), "crop", Delays(0, 6, 2)


def scripted(said: dict[int, str]) -> Commentator:
    return Scripted("a script", ScriptedLive(script(said, 400)), {}, ConfigDict(), TOKENIZER)


@pytest.fixture(scope="module")
def model():
    return mm.load("world")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    return Path(write_clip_files(folder, WORLD, seed=20_240_229, index=0).video).rename(folder / "video.mp4")


def test_the_import_loads_nothing():
    program = f"import sys, mmduplex_jax as mm; print([m for m in {HEAVY} if m in sys.modules], *dir(mm))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[]")
    assert {"load", "Commentator", "CommentaryStream", "TimedWord"} <= set(done.stdout.split())
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        mm.lode  # noqa: B018


def test_the_pages_lines_commentate(video, monkeypatch):
    monkeypatch.chdir(video.parent)
    monkeypatch.setattr(trained, "DEFAULT", "world")  # the video is a clip of the world
    scope: dict = {}
    printed = io.StringIO()
    with redirect_stdout(printed):
        for block in re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/library.md").read_text("utf-8"), re.M | re.S):
            exec(block, scope)
    lines = printed.getvalue().splitlines()
    assert len([line for line in lines if re.fullmatch(r"\[ +\d+\.\d\ds\] \w+   \(said \d+\.\d\ds\)", line)]) >= 8
    assert lines[-1] == "[]"


def test_a_file_and_its_own_pictures_give_the_commentators_words(model, video):
    clip = make_clip(WORLD, 20_240_229, 0)
    expected = [word.text for word in clip.words]
    words = list(model.commentate(video))  # a path-like
    delay_s = model.delays.usual * model.clock.step_s
    assert [word.text for word in words] == expected
    for word in words:
        assert delay_s <= word.t_emit_s - word.t_video_s <= delay_s + 4 * model.clock.step_s
    stream = model.stream()
    pushed = [word for k, frame in enumerate(clip.frames) for word in stream.push(frame, model.clock.tick_time_s(k))]
    assert [word.text for word in pushed + stream.close()] == expected
    shorter = list(model.commentate(str(video), max_s=6.0))
    assert 0 < len(shorter) < len(words)
    assert shorter == words[: len(shorter)]


def test_what_cannot_be_watched_is_said(model, tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        next(model.commentate(tmp_path / "none.mp4"))
    with pytest.raises(ValueError, match="delays of 1 to 6 steps"):
        model.stream(delay_steps=7)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        mm.load(tmp_path)


def test_own_frames_of_any_rate_size_and_zero():
    model = scripted({2: "red", 4: "circle", 9: "left"})
    epoch_s = 1.7e9
    stream = model.stream(delay_steps=0)
    frame = np.zeros((48, 64, 3), np.uint8)
    words = [word for k in range(30) for word in stream.push(frame, epoch_s + k / 25)]
    words += stream.close()
    assert [word.text for word in words] == ["red", "circle", "left"]
    assert all(epoch_s <= word.t_video_s <= word.t_emit_s < epoch_s + 2 for word in words)
    assert stream.close() == []
    with pytest.raises(ValueError, match="closed"):
        stream.push(frame, epoch_s + 9)
    with model.stream() as again:
        for wrong in (frame[..., 0], frame.astype(np.float32), np.zeros((0, 4, 3), np.uint8)):
            with pytest.raises(ValueError, match=r"RGB, uint8 \[H, W, 3\]"):
                again.push(wrong, 0.0)
        again.push(frame, 0.0)
        with pytest.raises(ValueError, match="came after"):
            again.push(frame, 0.0)
        with pytest.raises(ValueError, match="number of seconds"):
            again.push(frame, float("nan"))


def test_streams_at_once_and_one_after_another_share_what_was_compiled():
    model = scripted({2: "red", 4: "circle"})
    frame = np.zeros((FRAME_PX, FRAME_PX, 3), np.uint8)
    one, other = model.stream(), model.stream()
    said = [[w.text for w in stream.push(frame, 0.16 * k)] for k in range(4) for stream in (one, other)]
    assert said == [[]] * 4 + [["red"]] * 2 + [["circle"]] * 2
    one.close(), other.close()
    third = model.stream()
    assert len(model._idle) == 1
    assert [w.text for k in range(4) for w in third.push(frame, 0.16 * k)] == ["red", "circle"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, so that no build folder stays in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build")
    for name in ("mmduplex_jax", "data_pipelines", "launch", "configs", "benchmarks", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=skip)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--quiet", "-w", out, source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(out.glob("*.whl"))


def test_a_wheel_holds_the_library_and_its_model_and_runs(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        files.extractall(tmp_path / "site")
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"mmduplex_jax", "data_pipelines"}
    for path in (ROOT / "mmduplex_jax").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in names
    program = "import mmduplex_jax as mm; print(mm.load().name, mm.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["model", "real", str(tmp_path / "site" / "mmduplex_jax" / "__init__.py")]
