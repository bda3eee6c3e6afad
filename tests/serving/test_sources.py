"""What the server may watch by itself: only what lies under what was allowed."""

from pathlib import Path

import pytest

from mmduplex_jax.serving.protocol import ProtocolError
from mmduplex_jax.serving.sources import Sources, for_log


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    (tmp_path / "videos2").mkdir()
    (tmp_path / "secret.mp4").touch()
    (tmp_path / "videos" / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    return Sources([str(tmp_path / "videos"), "rtsp://camera.local/", "https://example.org:8443/live/"])


@pytest.mark.parametrize(
    "source",
    [
        "{tmp}/videos/a.mp4",
        "{tmp}/videos/deep/a.mp4",
        "{tmp}/videos/deep/../a.mp4",
        "rtsp://camera.local/stream?quality=high",
        "RTSP://CAMERA.local/stream",
        "https://example.org:8443/live/a.m3u8",
    ],
)
def test_what_is_allowed(sources: Sources, tmp_path: Path, source: str):
    sources.check(source.format(tmp=tmp_path))


@pytest.mark.parametrize(
    "source",
    [
        "{tmp}/secret.mp4",
        "{tmp}/videos/../secret.mp4",
        "{tmp}/videos/link.mp4",  # leads out of the folder
        "{tmp}/videos2/a.mp4",
        "{tmp}",
        "a.mp4",
        "0",  # a camera of the server's
        "",
        "file://{tmp}/videos/a.mp4",
        "concat:{tmp}/videos/a.mp4|{tmp}/secret.mp4",
        "rtsp://camera.local.evil.example/",
        "rtsp://camera.local@evil.example/",
        "rtsp://camera.local:8554/stream",
        "rtsps://camera.local/stream",
        "http://camera.local/stream",
        "https://example.org:8443/live/../private/a.m3u8",
        "https://example.org:8443/live/%2e%2e/private/a.m3u8",
        "https://example.org:8443/live\\..\\private",
        "https://example.org:8443/livestock",
        "https://example.org/live/a.m3u8",
        "https://example.org:99999/live/a.m3u8",
    ],
)
def test_what_is_not(sources: Sources, tmp_path: Path, source: str):
    with pytest.raises(ProtocolError, match="does not watch that source") as caught:
        sources.check(source.format(tmp=tmp_path))
    assert caught.value.code == "source_refused"


@pytest.mark.parametrize("spelling", ["file:{tmp}/secret.mp4", "concat:{tmp}/secret.mp4", "0", "a.mp4"])
def test_what_is_opened_is_a_file_and_no_protocol_or_camera(tmp_path: Path, monkeypatch, spelling: str):
    (tmp_path / "videos").mkdir()
    monkeypatch.chdir(tmp_path / "videos")
    spelling = spelling.format(tmp=tmp_path)
    # Each names something within the folder that is allowed, to this program; to libav the first two lead out of it.
    assert Sources(["."]).check(spelling) == str(tmp_path / "videos" / spelling)


@pytest.mark.parametrize(
    ("source", "logged"),
    [
        ("rtsp://me:secret@camera.local/a?key=secret", "rtsp://camera.local/a"),
        ("rtsp://camera.local?key=secret", "rtsp://camera.local"),
        ("https://a@b:c@camera.local/@a", "https://camera.local/@a"),
        ("videos/a?.mp4", "videos/a?.mp4"),
        (None, None),
    ],
)
def test_no_secret_is_logged(source: str | None, logged: str | None):
    assert for_log(source) == logged


def test_nothing_is_allowed_by_default(tmp_path: Path):
    with pytest.raises(ProtocolError):
        Sources().check(str(tmp_path / "a.mp4"))


@pytest.mark.parametrize(("allowed", "said"), [("no/such/folder", "no file or folder"), ("rtsp:///x", "names no host")])
def test_what_cannot_be_allowed(allowed: str, said: str):
    with pytest.raises(ValueError, match=said):
        Sources([allowed])
