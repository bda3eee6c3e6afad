"""What Prometheus reads: the server's own counters, and the pool's numbers at the moment of reading."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mmduplex_jax.serving.logs import dropped_lines
from mmduplex_jax.streaming.statistics import PoolStatistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counters:
    """Counts what the server does. A registry of its own: two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = lambda name, text, *labels: Counter(f"mmduplex_{name}", text, labels, registry=self.registry)
        self.sessions_begun = counter("sessions_begun", "Streams that began.")
        self.sessions_ended = counter("sessions_ended", "Streams that ended, by reason.", "reason")
        self.resumed = counter("sessions_resumed", "Connections that went on with a stream.")
        self.refused = counter("refused", "Requests that were refused, by reason.", "reason")
        self.frames = counter("frames_received", "Pictures that clients sent.")
        self.bad_frames = counter("bad_frames", "Pictures that did not decode or were too large.")
        self.words = counter("words", "Words that were said.")
        self.connections = Gauge("mmduplex_connections", "Open connections with a stream.", registry=self.registry)

    def text(self) -> bytes:
        """All of it in Prometheus's text form."""
        return generate_latest(self.registry)


class PoolCollector:
    """Reads the pool's statistics whenever somebody asks for the metrics."""

    def __init__(self, statistics: Callable[[], PoolStatistics]):
        self._statistics = statistics

    def collect(self) -> Iterator[Metric]:
        """The pool's numbers as metrics."""
        s = self._statistics()
        yield GaugeMetricFamily("mmduplex_sessions", "Streams that have a seat.", s.sessions)
        yield GaugeMetricFamily("mmduplex_slots", "Streams that may have one.", s.slots)
        yield GaugeMetricFamily("mmduplex_load", "The share of the time that steps take.", s.load)
        yield GaugeMetricFamily("mmduplex_overload_rung", "How much gives way; 0 is nothing.", s.rung)
        yield GaugeMetricFamily("mmduplex_lag_seconds", "How far the slowest stream is behind.", s.lag_s)
        yield GaugeMetricFamily("mmduplex_tokens_per_second", "Video tokens a second, all streams.", s.tokens_per_s)
        yield CounterMetricFamily("mmduplex_dropped_frames", "Ticks that overload left out.", s.dropped_frames)
        yield CounterMetricFamily("mmduplex_recompilations", "Compilations since the start.", s.recompilations)
        yield CounterMetricFamily("mmduplex_log_lines_dropped", "Log lines that nobody read in time.", dropped_lines())
        yield HistogramMetricFamily(
            "mmduplex_step_seconds",
            "Time of a step of all streams.",
            buckets=s.step_s_buckets,
            sum_value=s.step_s_sum,
        )
