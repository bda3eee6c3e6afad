"""The loop keeps what was said, however the source ends, counts what it does, and in real time keeps up or says so."""

import threading
import time

import numpy as np
import pytest

from mmduplex_jax.streaming.frame_feed import FrameFeed
from mmduplex_jax.streaming.runtime import Runtime
from mmduplex_jax.streaming.statistics import RunStatistics
from tests.streaming.scripted_stream import CLOCK, ScriptedReader, script, session

KEYS = {
    "duration_s", "wall_s", "real_time_factor", "ticks", "tokens_per_s_mean", "tokens_in_any_second_max",
    "step_ms_p50", "step_ms_p95", "step_ms_p99", "word_lag_p50_s", "words",
}  # fmt: skip


class Ear:
    """A listener that remembers."""

    def __init__(self, fail: bool = False, each_s: float = 0.0, stop=None):
        self.ticks, self.words, self.closed = [], [], 0
        self._fail, self._each_s, self.stop = fail, each_s, stop

    def on_tick(self, tick, result, tokens_in_last_second):
        time.sleep(self._each_s)
        self.ticks.append(tick.tick)
        self.words += result.words
        if self.stop and self.stop[0] == tick.tick:
            self.stop[1]()

    def close(self, words):
        self.closed += 1
        self.words += words
        if self._fail:
            raise OSError("disk full")


def test_a_whole_source_gives_words_and_a_report():
    ear, reader = Ear(), ScriptedReader([8, 0, 2, 0, 0, 1, 1, 1, 3, 0])
    runtime = Runtime(session(script({2: "red", 4: "circle", 18: "left"}, 20), delay_steps=2), reader, [ear])
    report = runtime.run()
    assert report.keys() >= KEYS
    assert [w["text"] for w in report["words"]] == ["red", "circle", "left"] == [w.text for w in ear.words]
    assert report["words"][1] == {"text": "circle", "t_video_s": 0.16, "t_emit_s": 0.4}
    assert report["ticks"] == 10
    assert report["duration_s"] == pytest.approx(1.6)
    assert report["tokens_per_s_mean"] == pytest.approx(16 / 1.6)
    assert report["tokens_in_any_second_max"] == 12  # seven ticks in a row
    assert report["word_lag_p50_s"] == pytest.approx(0.24)
    assert report["dropped_frames"] == 0
    assert 0 < report["step_ms_p50"] <= report["step_ms_p95"] <= report["step_ms_p99"]
    assert (ear.closed, reader.closed, runtime.error, runtime.stopped) == (1, True, None, False)


def test_a_source_that_breaks_keeps_what_was_said():
    ear = Ear()
    runtime = Runtime(session(script({1: "red", 6: "left"}, 8)), ScriptedReader([1] * 4, broken="cut at 0.64 s"), [ear])
    report = runtime.run()
    assert str(runtime.error) == "cut at 0.64 s"
    assert [w["text"] for w in report["words"]] == ["red", "left"]  # the last one was not over
    assert (ear.ticks, ear.closed) == ([0, 1, 2, 3], 1)


def test_stopping_finishes_everything():
    ear, reader = Ear(), ScriptedReader([1] * 100_000)
    runtime = Runtime(session(script({1: "red"}, 8)), reader, [ear])
    ear.stop = (4, runtime.stop)
    report = runtime.run()
    assert (report["ticks"], ear.closed, reader.closed, runtime.stopped) == (5, 1, True, True)
    assert [w["text"] for w in report["words"]] == ["red"]


def test_a_stop_reaches_a_source_that_hangs():
    reader = ScriptedReader([1] * 100, every_s=1.0)
    runtime = Runtime(session(script({}, 8)), reader, [])
    threading.Timer(0.2, runtime.stop).start()
    started_s = time.monotonic()
    runtime.run()
    assert time.monotonic() - started_s < 50.0


def test_stop_after_counts_video_time():
    report = Runtime(session(script({}, 8)), ScriptedReader([1] * 50), []).run(stop_after_s=1.0)
    assert report["ticks"] == CLOCK.ticks_in(1.0)
    assert report["duration_s"] <= 1.13


def test_every_listener_is_closed_also_when_one_fails():
    first, second = Ear(fail=True), Ear()
    with pytest.raises(OSError, match="disk full"):
        Runtime(session(script({}, 8)), ScriptedReader([1] * 3), [first, second]).run()
    assert (first.closed, second.closed) == (1, 1)


def test_an_empty_source_has_a_report_without_numbers():
    report = Runtime(session(script({}, 8)), ScriptedReader([]), []).run()
    assert report["ticks"] == 0
    assert report["step_ms_p50"] is None
    assert report["word_lag_p50_s"] is None


def test_in_real_time_a_file_plays_at_its_own_speed():
    ticks = 6
    runtime = Runtime(session(script({2: "red"}, 12)), ScriptedReader([1] * ticks), [], realtime=True)
    report = runtime.run()
    assert report["wall_s"] >= (ticks - 1) * CLOCK.tick_s - 0.02
    assert report["dropped_frames"] == 0
    assert report["words"][0]["t_emit_s"] >= 0.24


def test_a_slow_model_in_real_time_drops_the_oldest_frames_and_counts_them():
    ear = Ear(each_s=0.4)
    runtime = Runtime(session(script({2: "red"}, 60)), ScriptedReader([1] * 20), [ear], realtime=True)
    report = runtime.run()
    assert report["dropped_frames"] > 0
    assert report["ticks"] + report["dropped_frames"] == 20
    assert ear.ticks == sorted(ear.ticks)
    assert ear.ticks[-1] == 19  # the newest is never the one that goes
    assert report["lag_max_s"] < 1.0 + 3 * 0.4  # the limit, and what a tick takes
    assert [w["text"] for w in report["words"]] == ["red"]


def test_a_dropped_tick_leaves_its_pictures_to_the_next():
    reader = ScriptedReader([1] * 30, live=True, with_pictures=True)
    feed = FrameFeed(reader, realtime=False, max_waiting=2, lag_max_s=10.0)
    ticks = iter(feed)
    seen = [next(ticks)]
    time.sleep(0.2)
    seen += list(ticks)
    feed.close()
    assert feed.dropped == 30 - len(seen) > 0
    shown = [picture.t_s for tick in seen for picture in tick.pictures]
    assert shown == [i / 25 for i in range(4 * 29 + 1)]


def test_the_readers_other_errors_are_not_hidden():
    class Odd(ScriptedReader):
        def ticks(self):
            yield from super().ticks()
            raise RuntimeError("a fault of the program")

    ear = Ear()
    with pytest.raises(RuntimeError, match="a fault of the program"):
        Runtime(session(script({}, 8)), Odd([1] * 3), [ear]).run()
    assert ear.closed == 1


def test_the_most_tokens_of_any_second_by_brute_force():
    spent = np.random.default_rng(0).integers(0, 30, 500)
    statistics = RunStatistics(CLOCK)
    for number in spent.tolist():
        statistics.add([], number, [1.0, 2.0], 0.0)
    times_s = np.array([CLOCK.tick_time_s(k) for k in range(len(spent))])
    most = max(int(spent[(times_s >= t) & (times_s < t + 1 - 1e-9)].sum()) for t in times_s)
    report = statistics.report(duration_s=80.0, wall_s=8.0, compile_s=0.0, dropped_frames=0)
    assert report["tokens_in_any_second_max"] == most
    assert report["real_time_factor"] == 10.0
    assert (report["step_ms_p50"], report["tick_ms_p50"]) == (1.5, 3.0)
