"""The rendered video has the source's times, and shows words when they were said and tokens where they are."""

from pathlib import Path

import av
import numpy as np
import pytest

from data_pipelines.decode import Picture, Tick
from mmduplex_jax.streaming.render import Renderer
from mmduplex_jax.streaming.runtime import Runtime
from mmduplex_jax.streaming.slot import NO_TOKENS, SpentTokens, TickResult
from mmduplex_jax.tokenizer.bflow import FLOW
from mmduplex_jax.word_decoder import TimedWord
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, ScriptedReader, script, session


def rendered(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def render(path: Path, spend: list[int], said: dict[int, str], **reader) -> list[tuple[float, np.ndarray]]:
    renderer = Renderer(path, frame_px=FRAME_PX, fit="crop", tokens_per_s_max=8, tick_s=CLOCK.tick_s)
    reader = ScriptedReader(spend, with_pictures=True, **reader)
    Runtime(session(script(said, 2 * len(spend) + 2)), reader, [renderer]).run()
    return rendered(path)


def at(frames: list[tuple[float, np.ndarray]], t_s: float) -> np.ndarray:
    return [image for time_s, image in frames if time_s <= t_s + 1e-3][-1]


def test_pictures_keep_their_times_and_get_a_readable_size(tmp_path: Path):
    frames = render(tmp_path / "a.mp4", [0] * 20, {})
    times_s = [t for t, _ in frames]
    assert times_s[: 4 * 19 + 1] == pytest.approx([i / 25 for i in range(4 * 19 + 1)], abs=2e-3)
    assert times_s[-1] == pytest.approx(20 * CLOCK.tick_s, abs=0.02)
    assert frames[0][1].shape == (360 + 34, 480, 3)  # 64x48, enlarged, and the bar
    assert at(frames, 2.0)[40, 240].mean() == pytest.approx(50, abs=4)


def test_words_are_shown_from_when_they_were_said_and_then_go(tmp_path: Path):
    frames = render(tmp_path / "a.mp4", [0] * 40, {4: "enters"})
    subtitle = lambda t_s: (at(frames, t_s)[300:350] > 225).any()
    assert not subtitle(0.40)
    assert subtitle(0.52)
    assert subtitle(2.0)
    assert not subtitle(4.0)


def test_what_was_said_of_a_scene_is_not_shown_in_the_next(tmp_path: Path):
    renderer = Renderer(tmp_path / "a.mp4", frame_px=FRAME_PX, fit="crop", tokens_per_s_max=8, tick_s=CLOCK.tick_s)
    image = np.full((270, 480, 3), 50, np.uint8)
    for number in range(12):
        t_s = CLOCK.tick_time_s(number)
        words = [TimedWord("red", 0.0, t_s, ends_sentence=False)] if number in (2, 3) else []
        scene_s = CLOCK.tick_time_s(6) if number >= 6 else None
        frame = np.zeros((FRAME_PX, FRAME_PX, 3), np.uint8)
        result = TickResult(words, NO_TOKENS, [], (), scene_s)
        renderer.on_tick(Tick(number, t_s, frame, (Picture(t_s, image),)), result, 0)
    renderer.close([])
    frames = rendered(tmp_path / "a.mp4")
    subtitle = lambda tick: (at(frames, CLOCK.tick_time_s(tick))[210:260] > 225).any()
    assert [bool(subtitle(tick)) for tick in (1, 2, 5, 6, 10)] == [False, True, True, False, False]


def test_crops_anchors_and_the_gauge(tmp_path: Path):
    spend = [0] * 5 + [8] + [0] * 9 + [2] * 2 + [0] * 9
    frames = render(tmp_path / "a.mp4", spend, {})
    colourful = lambda image: int((np.ptp(image.astype(int), axis=2) > 40).sum())
    still, anchor, flow = (at(frames, CLOCK.tick_time_s(k))[:360] for k in (3, 5, 16))
    assert colourful(still) == 0
    assert colourful(anchor) > 500
    assert colourful(flow) > 100
    gauge = lambda t_s: colourful(at(frames, t_s)[360:])
    assert gauge(CLOCK.tick_time_s(5)) > gauge(CLOCK.tick_time_s(16)) > gauge(CLOCK.tick_time_s(3)) == 0


def test_a_broken_source_leaves_a_video_that_plays(tmp_path: Path):
    frames = render(tmp_path / "a.mp4", [1] * 6, {}, broken="cut")
    assert len(frames) >= 21


def test_without_a_picture_there_is_no_file_also_not_an_older_one(tmp_path: Path):
    (tmp_path / "a.mp4").write_bytes(b"older")
    renderer = Renderer(tmp_path / "a.mp4", frame_px=FRAME_PX, fit="crop", tokens_per_s_max=8, tick_s=CLOCK.tick_s)
    renderer.close([])
    assert not (tmp_path / "a.mp4").exists()


def test_a_picture_of_another_size_keeps_its_shape_and_its_boxes(tmp_path: Path):
    renderer = Renderer(tmp_path / "a.mp4", frame_px=FRAME_PX, fit="crop", tokens_per_s_max=8, tick_s=CLOCK.tick_s)
    spent = SpentTokens(1, False, np.array([[16, 16]]), np.array([16]), np.array([FLOW]))
    for number, (height_px, width_px) in enumerate([(90, 160), (160, 90)]):
        image = np.full((height_px, width_px, 3), 200, np.uint8)
        t_s = number * CLOCK.tick_s
        tick = Tick(number, t_s, np.zeros((FRAME_PX, FRAME_PX, 3), np.uint8), (Picture(t_s, image),))
        renderer.on_tick(tick, TickResult([], spent, []), 1)
    renderer.close([])
    wide, tall, *_ = [image for _, image in rendered(tmp_path / "a.mp4")]
    lit = lambda image: np.flatnonzero((image[:270] > 120).all(axis=2).any(axis=0))
    assert (lit(wide)[0], lit(wide)[-1]) == (0, 479)
    assert lit(tall)[-1] - lit(tall)[0] + 1 == pytest.approx(270 * 90 / 160, abs=3)
    # The box is half of the square that the model sees, in the middle, in both.
    for image, square_px in ((wide, 270), (tall, 270 * 90 / 160)):
        box = np.flatnonzero((np.abs(image[135].astype(int) - (86, 224, 200)) < 60).all(axis=1))
        assert box[-1] - box[0] == pytest.approx(square_px / 2, abs=4)
        assert (box[0] + box[-1]) / 2 == pytest.approx(240, abs=3)
