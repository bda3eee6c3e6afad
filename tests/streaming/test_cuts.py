"""At a cut a stream of a model of single scenes begins anew, as if another video followed; its time goes on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.clock import Clock
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.streaming.cuts import CutDetector, cells_of
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import Session, StreamPool
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests import tiny
from tests.streaming.scripted_pool import SAID, TICK_S, FakeClock, frame, join, play, run, taken, words_of
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, TOKENIZER, ScriptedLive, script


def scene(seed, size_px=(72, 128)):
    """A picture of large patches."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 255, (6, 8, 3))
    height, width = size_px
    return patches[np.arange(height) * 6 // height][:, np.arange(width) * 8 // width].astype(np.uint8)


# Another scene than `frame`.
OTHER = scene(1, (FRAME_PX, FRAME_PX))


def cuts(frames):
    detector = CutDetector()
    return [detector.is_cut(tick * TICK_S, cells_of(one)) for tick, one in enumerate(frames)]


def test_a_cut_is_there_once_and_never_before_the_first_frame():
    assert cuts([scene(0)] * 3 + [scene(1)] * 3) == [False, False, False, True, False, False]


def test_bars_beside_the_picture_hide_no_cut_and_make_none():
    between = lambda one: np.pad(one[:, 16:-16], [(0, 0), (48, 48), (0, 0)])
    assert cuts([between(scene(seed)) for seed in (0, 0, 1, 1)]) == [False, False, True, False]
    dark = np.zeros_like(scene(0))
    speck = dark.copy()
    speck[:20, :20] = 255
    assert not any(cuts([dark, speck, dark]))


def test_noise_light_and_things_that_move_are_no_cut():
    rng = np.random.default_rng(0)
    noisy = [np.clip(scene(0) + rng.normal(0, 8, scene(0).shape), 0, 255).astype(np.uint8) for _ in range(5)]
    drifting = [np.clip(scene(0) * gain, 0, 255).astype(np.uint8) for gain in np.linspace(0.7, 1.3, 25)]
    moving = []
    for x in range(0, 64, 8):
        moving.append(scene(0))
        moving[-1][8:64, x : x + 64] = scene(1)[8:64, :64]
    exposed = [scene(0) // 2, np.clip(scene(0) // 2 * 1.7 + 20, 0, 255).astype(np.uint8), scene(0) // 2]
    for frames in (noisy, drifting, moving, exposed):
        assert not any(cuts(frames))


@given(
    height=st.integers(1, 60), width=st.integers(1, 90), seed=st.integers(0, 99)
)  # also fewer pixels than there are cells
def test_cells_are_means(height, width, seed):
    one = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    cells = cells_of(one)
    rows, columns, _ = cells.shape
    assert (rows, columns) == (min(height, 18), min(width, 32))
    for row in (0, rows - 1):
        for column in (0, columns - 1):
            part = one[
                row * height // rows : (row + 1) * height // rows,
                column * width // columns : (column + 1) * width // columns,
            ]
            np.testing.assert_array_equal(cells[row, column], part.astype(int).sum(axis=(0, 1)) // part[..., 0].size)


def test_of_large_frames_some_pixels_are_looked_at():
    large = scene(0, (720, 1280))
    inner = (cells_of(large).reshape(18, 32, 3) == large[20::40, 20::40]).all(axis=-1)
    assert inner.mean() > 0.9  # (all but those on the edge of two patches)


def test_forgotten_frames_and_frames_of_another_size_make_no_cut():
    detector = CutDetector()
    assert not detector.is_cut(0.0, cells_of(scene(0)))
    assert not detector.is_cut(2.0, cells_of(scene(1, (12, 16))))
    assert detector.is_cut(4.0, cells_of(scene(2, (12, 16))))
    detector.forget()
    # (Times may begin anew, too.)
    assert not detector.is_cut(0.0, cells_of(scene(3, (12, 16))))
    assert detector.is_cut(0.2, cells_of(scene(4, (12, 16))))


def test_noise_of_small_frames_and_flashing_lights_are_a_cut_a_second_at_most():
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(100)]
    strobe = [scene(tick % 2, (64, 64)) for tick in range(100)]
    for frames in (noise, strobe):
        found = np.flatnonzero(cuts(frames)) * TICK_S
        assert len(found) > 10
        assert np.diff(found).min() >= 1.0


@pytest.mark.parametrize("every_s", [1.2, 2.0])
def test_every_cut_of_a_video_that_is_cut_fast_is_found(every_s: float):
    shots = [int(tick * TICK_S / every_s) for tick in range(100)]
    found = np.flatnonzero(cuts([scene(shot, (64, 64)) for shot in shots]))
    np.testing.assert_array_equal(found, np.flatnonzero(np.diff(shots)) + 1)


def test_a_scene_that_follows_a_flash_begins_when_the_second_is_over():
    (flash, lasting) = np.flatnonzero(cuts([scene(0)] * 3 + [scene(1)] * 2 + [scene(2)] * 12))
    assert (flash, lasting) == (3, 3 + int(np.ceil(1.0 / TICK_S)))
    assert np.flatnonzero(cuts([scene(0)] * 3 + [scene(1)] + [scene(2)] * 2 + [scene(1)] * 12)).tolist() == [3]


def pool(clock, slots=2, **policy):
    return StreamPool(
        ScriptedLive(script(SAID, 400)), {}, TOKENIZER, CLOCK, FRAME_PX, slots=slots, tokens_per_s_max=8,
        policy=DeadlinePolicy(**dict(gather_s=0.0) | policy), anew_at_cuts=True, now=clock,
    )  # fmt: skip


def test_at_a_cut_a_stream_begins_anew_and_its_time_goes_on():
    clock = FakeClock()
    both = pool(clock)
    one, other = join(both, delay_steps=0), join(both, delay_steps=0)
    for k in range(8):
        one.offer(k * TICK_S, frame() if k < 3 else OTHER)
        other.offer(k * TICK_S, frame())
        run(both)
        clock.s += TICK_S
    outputs = taken(one)
    # (The word that was being said at the cut is said, at a step that is no step of the model's.)
    assert [o.step for o in outputs] == [*range(6), 6, *range(10)]
    assert [o.seq for o in outputs] == list(range(17))
    assert words_of(outputs) == ["red", "circle", "red", "circle"]
    # Every output says of which scene it is, and so does every word: of the one before also what is said at the cut.
    assert [o.scene_s for o in outputs] == [None] * 7 + [3 * TICK_S] * 10
    assert [word.scene_s for o in outputs for word in o.words] == [None, None, 3 * TICK_S, 3 * TICK_S]
    after = outputs[7:]
    assert [o.t_video_s for o in after] == pytest.approx([3 * TICK_S + 0.08 * step for step in range(10)])
    assert [word.t_video_s for o in after for word in o.words] == pytest.approx([0.64, 0.80])
    of_other = taken(other)
    assert words_of(of_other) == ["red", "circle", "left"]
    assert not any(o.scene_s for o in of_other)
    assert both.statistics().counts.cuts == 1
    # One that is reset is another stream.
    one.reset()
    one.offer(0.0, OTHER)
    run(both)
    assert [o.scene_s for o in taken(one)][-2:] == [None, None]


def test_a_cut_before_a_frame_that_is_dropped_is_one_before_the_next():
    clock = FakeClock()
    alone = pool(clock, slots=1, lag_max_s=2.5 * TICK_S)
    seat = join(alone, delay_steps=0)
    play(alone, clock, [seat], range(2))
    for k in range(2, 8):  # nobody looks, so that the first of them are dropped: by number, and then by age
        seat.offer(k * TICK_S, frame() if k == 2 else OTHER)
        clock.s += TICK_S
    run(alone)
    outputs = taken(seat)[4:]
    assert outputs[-1].dropped_frames >= 2
    begun = [o.step for o in outputs]
    assert begun.index(0) == begun.count(4)  # nothing of the new scene is a step of the old stream
    # (Which began with the frame at the cut, though that was dropped.)
    after = outputs[begun.index(0) :]
    assert after[0].t_video_s > 3 * TICK_S
    assert {o.scene_s for o in after} == {3 * TICK_S}
    assert alone.statistics().counts.cuts == 1


def test_a_cut_that_age_brings_to_the_front_is_seen_before_its_frame_is_taken():
    clock = FakeClock()
    alone = pool(clock, slots=1, lag_max_s=3.5 * TICK_S)
    seat = join(alone, delay_steps=0)
    seat.offer(0.0, frame(1))
    seat.offer(TICK_S, OTHER)
    clock.s += 3 * TICK_S
    seat.offer(2 * TICK_S, OTHER)
    clock.s += TICK_S  # now the first two are too old
    run(alone)
    outputs = taken(seat)
    assert [o.step for o in outputs] == [0, 1]
    assert (outputs[0].t_video_s, outputs[0].dropped_frames) == (2 * TICK_S, 2)
    assert alone.statistics().counts.cuts == 1


def test_what_comes_after_a_reset_is_no_cut():
    clock = FakeClock()
    alone = pool(clock, slots=1)
    seat = join(alone, delay_steps=0)
    play(alone, clock, [seat], range(2))
    seat.reset()
    seat.offer(0.0, OTHER)
    run(alone)
    assert alone.statistics().counts.cuts == 0


def test_two_scenes_in_one_stream_are_two_streams_bit_for_bit():
    config, clock = tiny.dual_stream(), Clock()
    tokenizer = TextTokenizer.word_level([f"w{i}" for i in range(tiny.PAD)])
    params, live = tiny.init(config), LiveModel(config)
    clips = tiny.clips(2, 12)
    clips[1] = clips[0][::-1] ^ 128  # another scene: every pixel differs
    begin = lambda anew: Session(
        live, params, tokenizer, clock, clips.shape[2], delay_steps=3, pad_bias=-1.0, anew_at_cuts=anew
    )
    stream, goes_on = begin(True), begin(False)
    watch = lambda session, frames, first: [
        session.tick(clock.tick_time_s(first + k), one) for k, one in enumerate(frames)
    ]
    first, second = watch(stream, clips[0], 0), watch(stream, clips[1], 12)
    last = stream.finish()

    said = lambda results: [(word.text, round(word.t_video_s, 6)) for result in results for word in result.words]
    assert said(watch(goes_on, clips[0], 0)) == said(first)
    rest = goes_on.finish()
    alone = watch(goes_on, clips[1], 12)
    assert said(second) == [(word.text, round(word.t_video_s, 6)) for word in rest] + said(alone)
    assert [r.scene_s for r in first + second] == [None] * 12 + [clock.tick_time_s(12)] * 12
    assert [word.scene_s for r in second for word in r.words] == (
        [None] * len(rest) + [clock.tick_time_s(12)] * len(said(alone))
    )
    assert [word._replace(scene_s=None) for word in last] == goes_on.finish()
    assert [r.tokens.number for r in second] == [r.tokens.number for r in alone]
    assert all(len(r.step_ms) == clock.video_stride for r in second)
    assert said(alone)
    # And without, the same frames are one stream.
    watch(goes_on, clips[0], 0)
    assert said(watch(goes_on, clips[1], 12)) != said(second)
