"""Logs as a JSON object a line, for programs that collect them; the event is the message, the rest are fields."""

import json
import logging
import time

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


class NoStrangersNoise(logging.Filter):
    """Drops what aiohttp says, with a trace, of requests that are not HTTP: anybody could fill the log with it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is kept."""
        from aiohttp.http_exceptions import HttpProcessingError

        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


def configure_logs(form: str, level: int = logging.INFO) -> None:
    """Has all loggers write to stderr.

    Args:
      form: "json" for an object a line, "text" for people.
      level: the least that is written.
    """
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("aiohttp.server").addFilter(NoStrangersNoise())
    # Each request is no event; sessions say what matters, and metrics count the rest.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    # It tells of every candidate and every packet that is late.
    logging.getLogger("aioice").setLevel(logging.WARNING)
    logging.getLogger("aiortc").setLevel(logging.WARNING)
