"""Logs: whose they are, and what is left of them when a command is over."""

import io
import json
import logging
import threading

from mmduplex_jax.serving.monitoring import BackgroundHandler, logs


def test_loggers_write_for_as_long_as_the_block_lasts_and_nothing_is_left(monkeypatch, capsys):
    root, access = logging.getLogger(), logging.getLogger("aiohttp.access")
    before = root.handlers[:], root.level, access.level, logging.getLogger("aiohttp.server").filters[:]
    threads = threading.active_count()
    written = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", written)
        with logs("json"):
            logging.getLogger("a").info("begun", extra={"number": 3})
    said = json.loads(written.getvalue())
    assert (said["event"], said["logger"], said["level"], said["number"]) == ("begun", "a", "info", 3)
    after = root.handlers, root.level, access.level, logging.getLogger("aiohttp.server").filters
    assert (list(after[0]), *after[1:]) == before
    # A test's standard error is closed when the test is over.
    written.close()
    logging.getLogger("a").error("later")
    for thread in threading.enumerate():
        if thread.name == "log":
            thread.join(1.0)
    assert threading.active_count() <= threads
    assert "Logging error" not in capsys.readouterr().err


def test_what_is_closed_has_nothing_more_to_wait_for():
    handler = BackgroundHandler(logging.NullHandler())
    handler.close()
    handler._thread.join(5.0)
    # (Once more, as `logging.shutdown` does at the end of the process.)
    handler.close()
    assert not handler._waiting.unfinished_tasks
