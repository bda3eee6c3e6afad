"""The device is never left waiting for the host while there is work; counted, not timed."""

import pytest

from mmduplex_jax.streaming.batch import DispatchedStep, StreamBatch
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import StreamPool
from mmduplex_jax.streaming.statistics import Histogram, Rate
from tests.streaming.scripted_pool import FakeClock, frame, join
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, TOKENIZER, ScriptedLive, script

TICK_S = CLOCK.tick_s


class Diary:
    """Writes down what a pool does to the device, in order: sends, steps, and reads that had to wait."""

    def __init__(self, monkeypatch):
        self.events = []
        send, step, read = StreamBatch.send, StreamBatch.step, DispatchedStep.read
        names = {}

        def sending(rows, frames):
            self.events.append("send")
            return send(rows, frames)

        def stepping(rows, *args, **kwargs):
            dispatched = step(rows, *args, **kwargs)
            names[id(dispatched)] = (len(names), dispatched)
            self.events.append(f"step {names[id(dispatched)][0]}")
            return dispatched

        def reading(dispatched):
            self.events.append(f"read {names[id(dispatched)][0]}")
            return read(dispatched)

        monkeypatch.setattr(StreamBatch, "send", sending)
        monkeypatch.setattr(StreamBatch, "step", stepping)
        monkeypatch.setattr(DispatchedStep, "read", reading)
        # As on a device that is slower than the host: every read waits.
        monkeypatch.setattr(DispatchedStep, "ready", property(lambda step: False))


def saturated(monkeypatch, ahead, ticks=12):
    pool = StreamPool(
        ScriptedLive(script({0: "red"}, 400)), {}, TOKENIZER, CLOCK, FRAME_PX, slots=2,
        policy=DeadlinePolicy(lag_max_s=10.0, gather_s=0.0), tokens_per_s_max=8, ahead=ahead, now=FakeClock(),
    )  # fmt: skip
    diary = Diary(monkeypatch)
    seats = [join(pool, delay_steps=0, live=False) for _ in range(2)]
    for k in range(ticks):
        for seat in seats:
            seat.offer(k * TICK_S, frame())
    while pool.run_once():
        pass
    return diary.events, pool.statistics().counts, [list(range(len(seat.outputs))) for seat in seats]


def test_a_round_is_sent_and_dispatched_before_the_last_one_is_read(monkeypatch):
    events, counts, _ = saturated(monkeypatch, ahead=1)
    assert events[:10] == [
        "send", "step 0", "step 1", "send", "step 2", "step 3", "read 0", "read 1", "send", "step 4",
    ]  # fmt: skip
    at = {event: i for i, event in enumerate(events) if event != "send"}
    for step in range(0, 20, 2):
        assert at[f"step {step + 2}"] < at[f"read {step}"]  # the next round is there …
        assert at[f"read {step + 1}"] < at[f"step {step + 4}"]  # … and no more than that
    # Of 24 reads only the very last one finds nothing behind it.
    assert (counts.overlapped_waits, counts.idle_waits) == (23, 1)


def test_without_it_the_device_waits_once_a_round(monkeypatch):
    events, counts, _ = saturated(monkeypatch, ahead=0)
    assert events[:6] == ["send", "step 0", "step 1", "read 0", "read 1", "send"]
    assert (counts.overlapped_waits, counts.idle_waits) == (12, 12)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_what_is_said_does_not_depend_on_it(monkeypatch, ahead):
    _, counts, outputs = saturated(monkeypatch, ahead)
    assert outputs == [list(range(24))] * 2
    assert (counts.rounds, counts.steps, counts.ticks, counts.words) == (12, 24, 24, 2)
    assert counts.step_s.number == 24
    assert counts.lag_s.number == 24


def test_a_histogram_by_hand():
    histogram = Histogram((0.1, 0.2, 0.5))
    assert (histogram.number, histogram.quantile(0.5)) == (0, None)
    for value in (0.05, 0.1, 0.15, 0.5, 0.7):
        histogram.add(value)
    assert histogram.cumulative() == [("0.1", 2.0), ("0.2", 3.0), ("0.5", 4.0), ("+Inf", 5.0)]
    assert histogram.sum == pytest.approx(1.5)
    assert [histogram.quantile(q) for q in (0.0, 0.4, 0.5, 0.8, 0.99)] == [0.1, 0.1, 0.2, 0.5, float("inf")]


def test_a_rate_forgets():
    rate = Rate()
    for second in range(20):
        rate.add(second + 0.5, 30)
    assert rate.per_s(20.0) == pytest.approx(30.0)
    assert rate.per_s(25.0) == pytest.approx(15.0)
    assert rate.per_s(40.0) == 0.0
