import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.free_running import make_decoder
from tests.evals.scripted_model import Output, Report, ScriptedLive, State, scripted_frames


class EchoLive:
    """Says one more than it said before, by the row's delay; so a token that is not fed back shows."""

    def init_state(self, params, batch):
        return State(jnp.zeros((batch,), jnp.int32), jnp.zeros((batch,), jnp.int32))

    def live_step(self, params, state, frame, active, delay, pad_bias):
        token = state.token + params["by"] + delay
        return State(state.step + active, token), Output(token, Report(jnp.zeros_like(token)))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_each_step_sees_its_tick_and_is_kept_in_order(stride):
    rng = np.random.default_rng(0)
    slots = rng.integers(0, 200, size=(4, 10 * stride))
    frames = np.stack([scripted_frames(row, stride, 8, spent=5) for row in slots])
    decoded = make_decoder(ScriptedLive(stride, pad_id=7), Clock(12.5, stride))(None, frames, 0)
    assert decoded.slots.dtype == np.int32
    np.testing.assert_array_equal(decoded.slots, slots)
    np.testing.assert_array_equal(decoded.video_tokens, np.full((4, 10), 5))


def test_the_model_hears_itself():
    decode = make_decoder(EchoLive(), Clock())
    frames = np.zeros((2, 3, 8, 8, 3), np.uint8)
    assert decode({"by": jnp.int32(1)}, frames, 0).slots.tolist() == [[1, 2, 3, 4, 5, 6]] * 2
    assert decode({"by": jnp.int32(1)}, frames, 1).slots.tolist() == [[2, 4, 6, 8, 10, 12]] * 2


def test_the_pad_bias_arrives():
    frames = np.zeros((1, 2, 8, 8, 3), np.uint8)
    assert (make_decoder(ScriptedLive(2, pad_id=7), Clock())(None, frames, 0, pad_bias=100.0).slots == 7).all()


def test_one_shape_is_compiled_once():
    traced = []

    class Counting(EchoLive):
        def init_state(self, params, batch):
            traced.append(batch)
            return super().init_state(params, batch)

    decode = make_decoder(Counting(), Clock())
    for pixel, delay in ((0, 0), (9, 3)):
        decode({"by": jnp.int32(pixel)}, np.full((2, 3, 8, 8, 3), pixel, np.uint8), delay, pad_bias=float(delay))
    assert traced == [2]


def test_frames_that_are_no_clips_are_refused():
    with pytest.raises(ValueError, match=r"uint8 \[B, T, H, W, C\], got float32 \[2, 8, 8, 3\]"):
        make_decoder(EchoLive(), Clock())(None, np.zeros((2, 8, 8, 3), np.float32), 0)
