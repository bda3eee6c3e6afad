"""Single pictures at given times: those that a player would show."""

from pathlib import Path

import pytest

from data_pipelines.geometry import rgb_of
from data_pipelines.moments import pictures_at
from data_pipelines.video_source import VideoError
from tests.data_pipelines.numbered_video import number_in, write_numbered


@pytest.mark.parametrize("suffix", [".mp4", ".ts"])  # with an index of times, and without one
def test_the_picture_on_the_screen(tmp_path: Path, suffix: str):
    video = write_numbered(tmp_path / f"a{suffix}", count=250, rate=10)
    times_s = [0.0, 0.05, 0.1, 3.0, 3.0, 19.99, 24.9, 40.0]
    found, aspect = pictures_at(video, "a", times_s)
    assert [number_in(rgb_of(one.frame)) for one in found] == [0, 0, 1, 30, 30, 199, 249, 249]
    assert [one.t_s for one in found] == pytest.approx([0.0, 0.0, 0.1, 3.0, 3.0, 19.9, 24.9, 24.9])
    assert aspect == 1


def test_no_video(tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        pictures_at(tmp_path / "a.mp4", "a", [0.0])
