"""A pool over a scripted model, whose clock passes when told to."""

import numpy as np

from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import StreamPool
from mmduplex_jax.streaming.slot import StreamHandle, StreamOutput
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, TOKENIZER, ScriptedLive, script

TICK_S = CLOCK.tick_s
SAID = {2: "red", 4: "circle", 9: "left"}


class FakeClock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def frame(number: int = 1) -> np.ndarray:
    return np.full((FRAME_PX, FRAME_PX, 3), number, np.uint8)


def make_pool(slots: int = 2, said=SAID, now=None, live=None, **policy) -> StreamPool:
    """A pool that waits for nobody and whose clock stands still."""
    policy = dict(gather_s=0.0) | policy
    return StreamPool(
        live or ScriptedLive(script(said, 400)),
        {},
        TOKENIZER,
        CLOCK,
        FRAME_PX,
        slots=slots,
        policy=DeadlinePolicy(**policy),
        tokens_per_s_max=8,
        now=now or FakeClock(),
    )


def join(pool: StreamPool, **settings) -> StreamHandle:
    """A stream whose outputs are kept, in order, in its `outputs`."""
    outputs: list[StreamOutput] = []
    handle = pool.join(on_output=outputs.append, **settings)
    handle.outputs = outputs
    return handle


def run(pool: StreamPool) -> None:
    """Turns the loop until nothing is to be done."""
    while pool.run_once():
        pass


def play(pool: StreamPool, clock: FakeClock, seats, ticks, number: int = 1) -> None:
    """Offers a frame a tick to every seat, in real time."""
    for k in ticks:
        for seat in seats:
            seat.offer(k * TICK_S, frame(number))
        run(pool)
        clock.s += TICK_S


def taken(seat) -> list:
    """The outputs that wait."""
    outputs, seat.outputs[:] = list(seat.outputs), []
    return outputs


def words_of(outputs) -> list[str]:
    return [word.text for output in outputs for word in output.words]
