"""A client hears what the model behind the server says: a real pool with a voice, to the sample."""

from types import SimpleNamespace

import numpy as np

from mmduplex_jax.client import Heard, connect
from mmduplex_jax.commentator import Delays
from mmduplex_jax.serving.sound import pcm16
from mmduplex_jax.streaming.deadlines import DeadlinePolicy, Level
from mmduplex_jax.streaming.pool import StreamPool
from mmduplex_jax.streaming.slot import StreamOutput
from tests import tiny
from tests.serving.served import run, served
from tests.streaming.tiny_voice import CONFIG, MODEL, TOKENIZER, params, voice

TICKS = 6


class Pool(StreamPool):
    """A pool as `served` wants it."""

    def __init__(self):
        policy = DeadlinePolicy(ladder=(Level(),))
        super().__init__(
            MODEL, params(), TOKENIZER, CONFIG.clock, CONFIG.tokenizer.frame_px, slots=1, policy=policy,
            tokens_per_s_max=CONFIG.tokenizer.cap, voice=voice(), always_heard=True,
        )  # fmt: skip
        self.may_go = SimpleNamespace(set=lambda: None)

    def close(self) -> None:
        self.stop()


def test_a_client_hears_what_the_model_says():
    clock, rate_hz = CONFIG.clock, voice().sample_rate_hz
    facts = SimpleNamespace(
        name="tiny", fingerprint="0" * 64, clock=clock, frame_px=CONFIG.tokenizer.frame_px, fit="crop",
        tokens_per_s_max=CONFIG.tokenizer.cap, sample_rate_hz=rate_hz, delays=Delays(0, 2, 1),
    )  # fmt: skip
    frames = tiny.clips(1, TICKS, busy=True)[0]
    pool = Pool()
    said: list[StreamOutput] = []
    handle = pool.join(delay_steps=1, on_output=said.append, live=False, speaking=True)
    for tick, frame in enumerate(frames):
        handle.offer(tick * clock.tick_s, frame)
        while pool.run_once():
            pass
    handle.leave()
    while pool.run_once():
        pass
    pieces = [piece for output in said for piece in output.sound]
    assert len(pieces) == TICKS * clock.video_stride
    assert any(piece.samples.any() for piece in pieces)
    pool.start()

    async def test():
        async with served(pool, facts=facts) as server, connect(server.url, mode="file", sound="pcm16") as stream:
            for tick, frame in enumerate(frames):
                await stream.send(tick * clock.tick_s, frame)
            await stream.end()
            heard = [event async for event in stream if isinstance(event, Heard)]
        assert [piece.sample_rate_hz for piece in heard] == [rate_hz] * len(pieces)
        assert [piece.step for piece in heard] == [piece.step for piece in pieces]
        np.testing.assert_allclose([piece.t_s for piece in heard], [piece.t_s for piece in pieces], atol=1e-6)
        for ours, theirs in zip(heard, pieces):
            np.testing.assert_array_equal(np.round(ours.samples * 32767), pcm16(theirs.samples))

    run(test())
