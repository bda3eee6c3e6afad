"""What operators read: logs as a JSON object a line, and what Prometheus asks for.

In a log line the event is the message, the rest are fields. Metrics are the server's own counters, and the pool's
numbers at the moment of reading.
"""

import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from mmduplex_jax.streaming.statistics import PoolStatistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Lines that wait to be written, and how long the last ones may take at the end.
_LINES_WAITING, _FLUSH_S = 10_000, 1.0
# What every record has; anything else on it was given by `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line: time (UTC), level, logger, event, and the fields of `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        whole_s = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{whole_s}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Whatever a client wrote stays one line of ASCII.
        return json.dumps(line, default=str)


class MalformedRequestFilter(logging.Filter):
    """Drops what aiohttp logs, with a trace, of requests that are not HTTP: anybody could fill the log with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is kept."""
        from aiohttp.http_exceptions import HttpProcessingError

        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


class BackgroundHandler(logging.Handler):
    """Writes through another handler in a thread of its own: a standard error that nobody reads stops only that thread.

    Lines over `waiting_max` are dropped and counted; how many is logged once lines go out again.

    Attributes:
      dropped: lines so far.
    """

    def __init__(self, target: logging.Handler, waiting_max: int = _LINES_WAITING):
        super().__init__()
        self._target = target
        # (None ends the thread.)
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(waiting_max)
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record; returns at once."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def flush(self) -> None:
        """Waits until what was taken is written, but not for long."""
        deadline_s = time.monotonic() + _FLUSH_S
        while self._waiting.unfinished_tasks and time.monotonic() < deadline_s:
            time.sleep(0.005)

    def close(self) -> None:
        """Flushes, and ends the thread, unless nobody reads what it writes: then it ends with the process."""
        self.flush()
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)
        super().close()

    def _write(self) -> None:
        reported = 0
        while (record := self._waiting.get()) is not None:
            self._target.handle(record)
            if self.dropped > reported:
                count, reported = self.dropped - reported, self.dropped
                fields = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "lines": count}
                self._target.handle(logging.makeLogRecord(fields | {"msg": "log lines were dropped: nobody read them"}))
            self._waiting.task_done()
        self._waiting.task_done()  # (who flushes or closes it once more has nothing to wait for)


def dropped_lines() -> int:
    """Lines that the root logger's handler has dropped."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, BackgroundHandler))


def flush_logs() -> None:
    """Waits until the root logger's handlers have written what they took, but not for long."""
    for handler in logging.getLogger().handlers:
        handler.flush()


@contextlib.contextmanager
def logs(form: str) -> Iterator[None]:
    """Has all loggers write to stderr, in the background, for as long as the block lasts.

    Then all is as it was: what a program logs after a command is not for that one's stderr, which may be closed.

    Args:
      form: "json" for an object a line, "text" for people.
    """
    target = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    target.setFormatter(JsonFormatter() if form == "json" else text)
    root, requests, malformed = logging.getLogger(), logging.getLogger("aiohttp.server"), MalformedRequestFilter()
    # Each request is no event; sessions report what matters, and metrics count the rest. The others report every
    # candidate, every packet that is late, and every step of reading a checkpoint.
    quiet = [logging.getLogger(name) for name in ("aiohttp.access", "aioice", "aiortc", "orbax", "absl")]
    handler, handlers = BackgroundHandler(target), root.handlers[:]
    levels = [(logger, logger.level) for logger in (root, *quiet)]
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    requests.addFilter(malformed)
    for logger in quiet:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        requests.removeFilter(malformed)
        for logger, level in levels:
            logger.setLevel(level)
        handler.close()


class Counters:
    """Counts what the server does. A registry of its own: two servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = lambda name, text, *labels: Counter(f"mmduplex_{name}", text, labels, registry=self.registry)
        self.sessions_begun = counter("sessions_begun", "Streams that began.")
        self.sessions_ended = counter("sessions_ended", "Streams that ended, by reason.", "reason")
        self.moved_in = counter(
            "sessions_moved_in", "Streams of other replicas that went on here: left to it, or kept and lost.", "how"
        )
        self.moved_out = counter("sessions_moved_out", "Streams that were left to other replicas.")
        self.unkept = counter("sessions_unkept", "Times that what a stream is could not be written.")
        self.resumed = counter("sessions_resumed", "Connections that went on with a stream.")
        self.refused = counter("refused", "Requests that were refused, by reason.", "reason")
        self.frames = counter("frames_received", "Pictures that clients sent.")
        self.bad_frames = counter("bad_frames", "Pictures that did not decode or were too large.")
        self.lost_decoders = counter(
            "lost_decoders", "Decoder processes that were lost and replaced, or ended their stream.", "reason"
        )
        self.words = counter("words", "Words of all streams.")
        self.sound_steps = counter("sound_steps", "Steps of sound that were made.")
        self.sound_left_out = counter(
            "sound_left_out_steps", "Steps whose sound gave way, to the load or to a slow client's words.", "reason"
        )
        self.decoders_caged = Gauge(
            "mmduplex_decoders_caged",
            "1 where the system calls of decoder processes are filtered, 0 where this machine has no such filter.",
            registry=self.registry,
        )
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
        yield GaugeMetricFamily("mmduplex_sessions", "Streams in the pool.", s.sessions)
        yield GaugeMetricFamily("mmduplex_slots", "Streams that it has room for.", s.slots)
        yield GaugeMetricFamily("mmduplex_load", "The share of the time that steps take.", s.load)
        yield GaugeMetricFamily("mmduplex_overload_rung", "How much gives way; 0 is nothing.", s.rung)
        yield GaugeMetricFamily("mmduplex_lag_seconds", "How far the slowest stream is behind.", s.lag_s)
        yield GaugeMetricFamily("mmduplex_turn_seconds", "How long the model's present turn has taken.", s.turn_s)
        yield GaugeMetricFamily("mmduplex_speaking_streams", "Streams that are to be heard.", s.speaking)
        yield GaugeMetricFamily("mmduplex_unheard_streams", "Those of them whose sound gives way now.", s.unheard)
        yield GaugeMetricFamily("mmduplex_tokens_per_second", "Video tokens a second, all streams.", s.tokens_per_s)
        yield CounterMetricFamily("mmduplex_dropped_frames", "Ticks that overload left out.", s.dropped_frames)
        yield CounterMetricFamily("mmduplex_cuts", "Cuts at which streams began anew.", s.cuts)
        yield CounterMetricFamily("mmduplex_recompilations", "Compilations since the start.", s.recompilations)
        yield CounterMetricFamily("mmduplex_log_lines_dropped", "Log lines that nobody read in time.", dropped_lines())
        yield HistogramMetricFamily(
            "mmduplex_step_seconds", "Time of a step of all streams.", buckets=s.step_s_buckets, sum_value=s.step_s_sum
        )
