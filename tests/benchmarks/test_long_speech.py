"""Streams are as long as they should be, and watched in parts they say what they say as a whole."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.long_speech import free_run, main, make_stream, world_of
from data_pipelines.world import WorldConfig
from tests.data_pipelines.world.synthetic_pack import write_pack
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, ScriptedLive, script


def test_streams_of_one_scene_and_of_cuts():
    world = WorldConfig(frame_px=32)
    one, cuts = (make_stream(world, 12.0, 2, cut, 0) for cut in (False, True))
    for stream in (one, cuts):
        assert stream.frames.shape == (150, 32, 32, 3)
        assert stream.words
        assert all(0 <= word.t_s < 24.0 for word in stream.words)
        assert {int(event.t_s // 12.0) for event in stream.events} == {0, 1}
    # A cut shows: the frames on both sides of it differ more than any neighbours of the one scene.
    step = lambda stream: np.abs(np.diff(stream.frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert step(cuts)[74] > step(one).max()
    assert np.array_equal(one.frames, make_stream(world, 12.0, 2, False, 0).frames)


def test_parts_are_one_stream(capsys):
    slots = script({3: "red", 9: "circle", 16: "enters"}, 20)
    speaker = SimpleNamespace(live=ScriptedLive(slots), params={}, clock=CLOCK)
    frames = np.zeros((2, 10, FRAME_PX, FRAME_PX, 3), np.uint8)
    found = free_run(speaker, frames, 2, 0.0, part_s=CLOCK.tick_time_s(4))
    np.testing.assert_array_equal(found, [slots, slots])
    begun_anew = free_run(speaker, frames, 2, 0.0, part_s=CLOCK.tick_time_s(5), anew=True)
    np.testing.assert_array_equal(begun_anew, [[*slots[:10], *slots[:10]]] * 2)
    assert "100% watched" in capsys.readouterr().err


def test_streams_begin_anew_at_their_own_cuts(capsys):
    slots = script({3: "red", 9: "circle", 16: "enters"}, 20)
    speaker = SimpleNamespace(live=ScriptedLive(slots), params={}, clock=CLOCK)
    frames = np.zeros((2, 10, FRAME_PX, FRAME_PX, 3), np.uint8)
    frames[1, 3:] = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).repeat(8, axis=0).repeat(8, axis=1)
    found = free_run(speaker, frames, 2, 0.0, part_s=CLOCK.tick_time_s(4), anew_at_cuts=True)
    np.testing.assert_array_equal(found, [slots, [*slots[:6], *slots[:14]]])
    goes_on = free_run(speaker, frames, 2, 0.0)
    np.testing.assert_array_equal(goes_on, [slots, slots])


def test_streams_of_the_look_real_leave_out_what_the_training_left_out(tmp_path):
    args = SimpleNamespace(look="real", pack=str(write_pack(tmp_path)))
    held = SimpleNamespace(get=lambda name: {"held_cameras": "cam_yard"}[name])
    model = SimpleNamespace(frame_px=(36, 64), config=SimpleNamespace(data=held))
    world, split = world_of(args, model)
    assert (world.frame_px, world.exclude_cameras) == ((36, 64), "cam_yard")
    stream = make_stream(world, 16.0, 10, False, 1)
    assert stream.frames.shape == (1000, 36, 64, 3)
    assert len(stream.events) > 8
    assert stream.events[-1].t_s > 100
    phrases = split([(word.text, word.t_s) for word in stream.words])
    assert [attributes for attributes, _, _ in phrases] == [event.attributes for event in stream.events]
    for look, pack in (("real", None), ("plain", "somewhere")):
        with pytest.raises(ValueError, match="--look=real needs --pack"):
            world_of(SimpleNamespace(look=look, pack=pack), model)


def test_one_window_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--scene=none"])
    assert main(["--minutes=0.2"]) == 2
    assert "at least 2 windows" in capsys.readouterr().err
