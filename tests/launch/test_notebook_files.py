"""What is uploaded is kept, the one checkpoint is found wherever it lies, and videos come from anywhere."""

import io
import sys
import types
import zipfile
from pathlib import Path

import pytest

from data_pipelines.decode import VideoReader
from data_pipelines.schema import Event
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from mmduplex_jax.clock import Clock
from mmduplex_jax.pages.notebook_files import Video, collect_videos, find_checkpoint, upload_into


@pytest.fixture
def dialog(monkeypatch):
    """Colab's dialog: what is put into this dict is what somebody chooses."""
    chosen: dict[str, bytes] = {}

    def upload():
        for name, content in chosen.items():  # as Colab does, into the folder that is current
            Path(name).write_bytes(content)
        return dict(chosen)

    files = types.ModuleType("google.colab.files")
    files.upload = upload
    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "google.colab.files", files)
    return chosen


def archive(**contents: bytes) -> bytes:
    """A .zip; in the names `__` is a slash."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in contents.items():
            file.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def test_uploads_are_kept_and_archives_unpacked(dialog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dialog["a.mp4"] = b"film"
    dialog["b.ZIP"] = archive(x__y=b"1", x__z=b"2")
    kept = upload_into("up/loads")
    folder = tmp_path / "up" / "loads"
    assert kept == [folder / "a.mp4", folder / "b" / "x" / "y", folder / "b" / "x" / "z"]
    assert [path.read_bytes() for path in kept] == [b"film", b"1", b"2"]
    assert [path.name for path in tmp_path.iterdir()] == ["up"]  # nothing is left where the notebook runs


def test_an_archive_cannot_write_elsewhere(dialog, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../../out.txt", b"1")
        file.writestr("__MACOSX/._a", b"2")
    dialog["a.zip"] = buffer.getvalue()
    assert upload_into(tmp_path / "in") == [tmp_path / "in" / "a" / "out.txt"]
    assert not (tmp_path / "out.txt").exists()


def test_an_upload_that_cannot_be_is_told(dialog, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no file was chosen"):
        upload_into(tmp_path)
    dialog["a.zip"] = b"no archive"
    with pytest.raises(ValueError, match=r"a\.zip is no archive that can be read"):
        upload_into(tmp_path)
    monkeypatch.delitem(sys.modules, "google.colab.files")
    with pytest.raises(RuntimeError, match="in Colab only"):
        upload_into(tmp_path)


def test_the_one_checkpoint_is_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*params.safetensors.*checkpoints/STEP"):
        find_checkpoint(tmp_path / "nowhere")
    portable = tmp_path / "a" / "b"
    portable.mkdir(parents=True)
    (portable / "metadata.json").touch()
    with pytest.raises(FileNotFoundError, match="no checkpoint"):  # half of one is none
        find_checkpoint(tmp_path)
    (portable / "params.safetensors").touch()
    assert find_checkpoint(tmp_path) == find_checkpoint(portable) == portable
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "4").mkdir(parents=True)
    assert find_checkpoint(workdir) == workdir
    with pytest.raises(ValueError, match=r"several checkpoints: give one of .*a/b, .*run"):
        find_checkpoint(tmp_path)


def test_videos_come_from_anywhere_with_names_of_their_own(dialog, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("match.mp4", "match.mkv", "still.PNG", "notes.txt"):
        (folder / name).touch()
    dialog["up.zip"] = archive(**{"match.webm": b"", "read.me": b""})
    listed = f" {folder} , 0,rtsp://host:1/a?b/match*,"
    videos = collect_videos(listed, tmp_path / "out", upload=True)
    assert videos == [
        Video("match", str(folder / "match.mkv")),
        Video("match (2)", str(folder / "match.mp4")),
        Video("still", str(folder / "still.PNG")),
        Video("0", "0"),
        Video("match_", "rtsp://host:1/a?b/match*"),
        Video("match (3)", str(tmp_path / "out" / "uploaded" / "up" / "match.webm")),
    ]


def test_clips_of_the_world_are_the_evaluated_ones(tmp_path):
    (only,) = collect_videos("", tmp_path, world_clips=1, look="rich", clip_s=12.0, seed=3)
    ((_, _, record),) = WorldSource(WorldConfig(look="rich"), 3, 1).items(0, 1)
    assert only.name == "rich world, clip 0"
    assert only.events == tuple(record.events)
    assert all(isinstance(event, Event) for event in only.events)
    with VideoReader(only.source, Clock(), 64) as reader:
        assert len(list(reader)) == Clock().ticks_in(12.0)


def test_what_is_not_there_is_told(dialog, tmp_path):
    with pytest.raises(ValueError, match="there is nothing to watch"):
        collect_videos(" , ", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no .*lost\.mp4"):
        collect_videos(f"{tmp_path / 'lost.mp4'}", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no pictures and no videos"):
        collect_videos(f"{tmp_path / 'empty'}", tmp_path)
    with pytest.raises(ValueError, match="'odd' is unknown"):
        collect_videos("", tmp_path, world_clips=1, look="odd")
    dialog["read.me"] = b""
    with pytest.raises(ValueError, match=r"no picture among what was uploaded \(read\.me\).*\.png"):
        collect_videos("", tmp_path, upload=True)
