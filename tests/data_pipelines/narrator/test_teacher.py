import av
import numpy as np
import pytest

from data_pipelines.narrator.events import Happening
from data_pipelines.narrator.teacher import (
    LiveTeacher,
    Teacher,
    TeacherSettings,
    classes_with,
    event_of,
    narrate,
)
from data_pipelines.narrator.tracks import Follower, TrackSettings, distances_in_lengths
from data_pipelines.schema import Event
from data_pipelines.video_source import VideoError
from tests.data_pipelines.narrator.red_car import RedDetector, drives, needs_norfair, road, write_drive
from tests.data_pipelines.narrator.scenes import HEIGHT_PX, WIDTH_PX, said


def test_live():
    needs_norfair()
    teacher = LiveTeacher(RedDetector())
    phrases = teacher(*drives(8.0))
    assert [one.text for one in phrases] == ["car enters left", "car leaves right"]
    assert 1.0 < phrases[0].t_s < 2.5
    assert 5.5 < phrases[1].t_s < 7.0
    assert teacher.gflop == 2.0 * 50  # 8 s at 6.25 pictures a second
    teacher(*drives(1.0))
    assert teacher.gflop == 2.0 * 56


def test_live_says_nothing_of_what_is_still_to_come():
    needs_norfair()
    whole = LiveTeacher(RedDetector())(*drives(8.0))
    for cut_s in (2.0, 4.0, 6.4):
        until = [one for one in whole if one.t_s < cut_s]
        assert LiveTeacher(RedDetector())(*drives(cut_s))[: len(until)] == until


def test_narration_of_a_file(tmp_path):
    needs_norfair()
    file = write_drive(tmp_path / "road.mp4")
    narration = narrate(file, "road.mp4", RedDetector(), TeacherSettings())
    assert said(narration.happenings) == [("enters", "car", "left"), ("leaves", "car", "right")]
    enters, leaves = narration.happenings
    assert enters.t_s == pytest.approx(1.1, abs=0.4)
    assert leaves.t_s == pytest.approx(5.7, abs=0.4)
    assert narration.duration_s == pytest.approx(8.0, abs=0.05)
    assert len(narration.moving) == 50
    assert (narration.width_px, narration.height_px) == (WIDTH_PX, HEIGHT_PX)
    middle = [one for one in narration.followed if abs(one.t_s - 3.52) < 0.01]
    # 2.52 s after it came: the car's left side is at 141.6 of 320 px. A block of MPEG-4 may blur 4 px.
    np.testing.assert_allclose(middle[0].box, [141.6 / 320, 100 / 240, 201.6 / 320, 140 / 240], atol=4 / 240)
    # It has 60x40 px, in the middle of its way.
    assert dict(narration.moving)[middle[0].t_s] == pytest.approx(60 * 40 / (WIDTH_PX * HEIGHT_PX), rel=0.2)
    assert narrate(file, "road.mp4", RedDetector(), TeacherSettings())[0][0].t_s == enters.t_s


def test_a_file_of_pictures_of_two_sizes_is_refused(tmp_path):
    """Recordings that were joined: no camera that stands still."""
    needs_norfair()
    wide = [road()] * 25
    joined = b""
    for number, pictures in enumerate((wide, [picture[:120] for picture in wide])):
        file = write_pictures(tmp_path / f"{number}.ts", pictures)
        joined += file.read_bytes()
    (tmp_path / "joined.ts").write_bytes(joined)
    with pytest.raises(VideoError, match="joined.ts: at .* s the pictures' size changes from 320x240 to 320x120"):
        narrate(tmp_path / "joined.ts", "joined.ts", RedDetector(), TeacherSettings())


def write_pictures(path, pictures):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_pictures_must_come_in_order_and_in_one_size():
    needs_norfair()
    teacher = Teacher(RedDetector(), TeacherSettings(), WIDTH_PX, HEIGHT_PX)
    teacher.push(1.0, road())
    with pytest.raises(ValueError, match="at 0.50 s comes after that at 1.00 s"):
        teacher.push(0.5, road())
    with pytest.raises(ValueError, match="at 2.00 s is 320x120, not as the first"):
        teacher.push(2.0, road()[:120])


def test_a_follower_keeps_fast_small_things_apart():
    """Two things of 10 px that move 12 px a picture never overlap with where they were."""
    needs_norfair()
    follower = Follower(TrackSettings(distance_max=1.5), 6.25)
    tracks = set()
    for step in range(12):
        x = 12.0 * step
        boxes = np.array([[x, 0, x + 10, 10], [x, 40, x + 10, 50]])
        tracks.add(tuple(one.track for one in follower.update(boxes)))
    assert len(tracks) == 1
    assert len(next(iter(tracks))) == 2
    assert follower.followed() == set(next(iter(tracks)))


def test_distances_are_in_lengths():
    a = np.array([[0, 0, 10, 10]], float)
    b = np.array([[10, 0, 20, 10], [0, 0, 20, 20]], float)
    np.testing.assert_allclose(
        distances_in_lengths(a, b), [[1.0, np.hypot(5, 5) / np.sqrt(250) + 0.5 * np.log(2.0)]], rtol=1e-12
    )


def test_classes_of_a_detector_of_ones_own():
    assert "forklift" in classes_with(("person", "forklift"))
    assert classes_with(("person",)).count("person") == 1
    one = Happening(1.0, 2.0, "enters", "forklift", "left", 1, np.zeros(4))
    assert event_of(one, classes_with(("forklift",)), 2.0) == Event(2.0, "enters", "forklift", "left")
    with pytest.raises(ValueError, match="'forklift' is unknown"):
        event_of(one, classes_with(()))
