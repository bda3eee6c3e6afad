"""A model of rectangular frames, live: its stream is its clip, a video is whole between bars, and boxes lie on it."""

import dataclasses
import functools
from pathlib import Path

import av
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines.decode import Picture, Tick
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Commentator
from mmduplex_jax.models.dual_stream import shifted
from mmduplex_jax.models.event_memory import MemoryConfig
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.streaming.render import Renderer
from mmduplex_jax.streaming.slot import NO_TOKENS, SpentTokens, TickResult
from mmduplex_jax.tokenizer.bflow import FLOW
from mmduplex_jax.tokenizer.motion import MotionConfig
from tests import tiny
from tests.data_pipelines.numbered_video import write_numbered
from tests.streaming.scripted_stream import TOKENIZER

FRAME_PX, BATCH, TICKS = (32, 48), 2, 40
MEMORY = MemoryConfig(
    Clock(), period_ticks=3, capacity_steps=40, recent_steps=8, heads=2, kv_heads=1, head_width=8, gate=0.7
)


def config():
    """With all that looks at frames: bars, crops of two sizes, an event memory."""
    base = tiny.tokenizer()
    tokenizer = dataclasses.replace(
        base,
        frame_px=FRAME_PX,
        motion=MotionConfig(plane_px=(16, 24), search_radius=2, bars=True),
        anchor=dataclasses.replace(base.anchor, tower=dataclasses.replace(base.anchor.tower, image_px=FRAME_PX)),
        flow=dataclasses.replace(base.flow, crop_scales=(1, 2)),
    )
    return dataclasses.replace(tiny.dual_stream(memory=MEMORY), tokenizer=tokenizer)


@functools.cache
def params():
    return tiny.init(config())


def test_a_stream_equals_its_clip():
    frames = tiny.clips(BATCH, TICKS, FRAME_PX, busy=True)
    frames[1, :, :, :12] = frames[1, :, :, -12:] = 0  # an upright picture between bars
    slots = np.random.default_rng(1).integers(0, tiny.VOCAB - 1, (BATCH, 2 * TICKS)).astype(np.int32)
    delay = np.array([0, 3], np.int32)
    expected = np.asarray(tiny.offline(config())(params(), frames, np.asarray(shifted(slots, tiny.START)), delay))
    active = np.ones(BATCH, bool)
    state, step = tiny.init_state(config())(params(), BATCH), tiny.live_step(config())
    looked = []
    for s in range(2 * TICKS):
        state, out = step(params(), state, frames[:, s // 2], active, delay, jnp.zeros(BATCH), forced=slots[:, s])
        np.testing.assert_allclose(out.logits, expected[:, s], atol=1e-5)
        flow = np.asarray(out.report.valid & (out.report.kind == FLOW))[1]
        looked += np.asarray(out.report.centre_px)[1][flow].tolist()
    # Nothing is spent on bars, nor on their edges.
    assert len(looked) > 20
    assert all(12 <= column < 36 for _, column in looked)


def test_a_video_is_watched_as_its_config_says(tmp_path: Path):
    """What a model was trained with is what it watches with; what is asked for instead is heeded."""
    images = [np.full((36, 48, 3), 40 + 20 * i, np.uint8) for i in range(8)]
    path = write_numbered(tmp_path / "a.mp4", images=images)
    for trained, asked, bars in (("pad", None, True), ("crop", None, False), ("crop", "pad", True), ("pad", "crop", 0)):
        seen = []
        settings = ConfigDict({"fit": trained, "delay": {"min": 0, "max": 6, "eval": 2}})
        model = Commentator("tiny", LiveModel(config()), {}, settings, TOKENIZER)
        object.__setattr__(model, "session", lambda *_, seen=seen, **__: Watcher(seen))
        list(model.commentate(path, fit=asked))
        assert {frame.shape for frame in seen} == {(*FRAME_PX, 3)}
        assert (model.frame_px, model.fit) == (FRAME_PX, trained)
        # 4:3 in 3:2: 43 of 48 columns are picture.
        assert [int((frame.max(axis=(0, 2)) > 20).sum()) for frame in seen[:1]] == [43 if bars else 48]


class Watcher:
    """A session that keeps its frames and says nothing."""

    clock, compile_s, error = Clock(), 0.0, None

    def __init__(self, seen: list[np.ndarray]):
        self._seen = seen

    def tick(self, t_s, frame):
        self._seen.append(frame)
        return TickResult([], NO_TOKENS, [0.0, 0.0])

    def finish(self):
        return []


@pytest.mark.parametrize(("width_px", "height_px"), [(640, 360), (480, 360), (360, 640)])
def test_boxes_lie_on_the_picture(tmp_path: Path, width_px, height_px):
    """A crop that the model looks at is drawn around what it shows, whatever bars the frame has."""
    renderer = Renderer(tmp_path / "a.mp4", frame_px=(72, 128), fit="pad", tokens_per_s_max=8, tick_s=0.16)
    scale = min(128 / width_px, 72 / height_px)
    # The thing is a quarter of the picture's height down, in the middle; the crop of 16 px of the frame is around it.
    centre = np.array([[36 - height_px * scale / 4, 64]])
    spent = SpentTokens(1, False, centre, np.array([16]), np.array([FLOW]))
    image = np.full((height_px, width_px, 3), 40, np.uint8)
    tick = Tick(0, 0.0, np.zeros((72, 128, 3), np.uint8), (Picture(0.0, image),))
    renderer.on_tick(tick, TickResult([], spent, []), 1)
    renderer.close([])
    with av.open(str(tmp_path / "a.mp4")) as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)[:-34]
    drawn = (np.abs(shown - (86, 224, 200)) < 70).all(axis=2)
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    enlarged = shown.shape[0] / height_px
    side = 16 / scale * enlarged
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(height_px * enlarged / 4, abs=2)
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(shown.shape[1] / 2, abs=2)
    assert rows[-1] - rows[0] == pytest.approx(side, abs=3)
    assert columns[-1] - columns[0] == pytest.approx(side, abs=3)
