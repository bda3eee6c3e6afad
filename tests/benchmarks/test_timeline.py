"""The timeline's arithmetic by hand, and a recording of a scripted pool."""

import jax
import pytest

from benchmarks.timeline import Timeline, common, length, read_timeline, shares, strip, union
from tests.streaming.scripted_pool import FakeClock, join, make_pool, play


def test_spans_by_hand():
    joined = union([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (3.0, 4.0), (0.5, 1.0)])
    assert joined == [(0.0, 4.0), (5.0, 6.0)]
    assert length(joined) == 5.0
    assert common(joined, [(-1.0, 0.5), (3.5, 5.5), (5.75, 9.0)]) == [(0.0, 0.5), (3.5, 4.0), (5.0, 5.5), (5.75, 6.0)]
    assert union([]) == common(joined, []) == []


# Two rounds of 4 ms: the host sends for 1, waits for 2, delivers for 1; the device works while it waits, a little late.
WAITING = Timeline(
    device=[(1.0, 3.0), (5.0, 8.0)],
    dispatch=[(0.0, 1.0), (4.0, 5.0)],
    wait=[(1.0, 3.0), (5.0, 7.0)],
    deliver=[(3.0, 4.0), (7.0, 8.0)],
)


def test_shares_by_hand():
    assert shares(WAITING) == {
        "device_idle_share": pytest.approx(3 / 8),
        "host_overlap_share": pytest.approx(1 / 4),
        "host_work_share": pytest.approx(4 / 8),
        "host_wait_share": pytest.approx(4 / 8),
        "length_ms": 8.0,
    }


def test_a_strip_by_hand():
    assert strip(WAITING, 0.0, 9.0, columns=18) == "host   |DD....ttDD....tt  |\ndevice |  ####    ######  |"


def test_a_recording_holds_every_round(tmp_path):
    ticks, clock = 6, FakeClock()
    pool = make_pool(slots=1, now=clock)
    seats = [join(pool, delay_steps=0, live=False)]
    with jax.profiler.trace(str(tmp_path)):
        play(pool, clock, seats, range(ticks))
    timeline = read_timeline(tmp_path)
    assert len(timeline.dispatch) == ticks
    assert len(timeline.wait) == len(timeline.deliver) == 2 * ticks  # two steps a tick
    assert 0 <= shares(timeline)["device_idle_share"] < 1  # the device's programs were found
    for spans in timeline:
        assert all(end > start for start, end in spans)
        assert all(later[0] > earlier[1] for earlier, later in zip(spans, spans[1:]))
