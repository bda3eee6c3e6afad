"""Videos that the server itself watches: only those that whoever started it allows by name."""

import asyncio
import logging
import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from data_pipelines.decode import VideoReader
from data_pipelines.source_info import VideoError, redact, scheme_of
from mmduplex_jax.serving.intake import TakenTick, changed_share
from mmduplex_jax.serving.protocol import ProtocolError
from mmduplex_jax.serving.seats import ModelFacts
from mmduplex_jax.serving.session import Session
from mmduplex_jax.streaming.frame_feed import FrameFeed

_log = logging.getLogger(__name__)
# How far a file is decoded ahead.
_AHEAD_S = 2.0
_LAG_MAX_S = 1.0


class Sources:
    """What may be watched: folders, files, and beginnings of addresses."""

    def __init__(self, allowed: Sequence[str] = ()):
        """Takes what is allowed.

        Args:
          allowed: files and folders (with all in them), and addresses such as `rtsp://camera.local/`, whose scheme and
            host must be the same and whose path must begin so.

        Raises:
          ValueError: a file or folder that is not there, or an address without a host.
        """
        self._addresses: list[SplitResult] = []
        self._paths: list[Path] = []
        for one in allowed:
            if scheme_of(one) is None:
                if not Path(one).exists():
                    raise ValueError(f"--allow_sources: there is no file or folder {one}")
                self._paths.append(Path(one).resolve())
            else:
                address = urlsplit(one)
                if not address.hostname:
                    raise ValueError(f"--allow_sources: {one} names no host")
                self._addresses.append(address)
        self._readers: ThreadPoolExecutor | None = None

    def check(self, source: str) -> str:
        """What to open for a source: an address as it is, a file by its whole path.

        The client's own spelling of a path is not what is opened: libav takes `concat:a` and `file:a` for protocols,
        and a number is a camera.

        Raises:
          ProtocolError: it is not allowed. It is not said whether there is such a file.
        """
        if scheme_of(source) is None:
            path = Path(os.path.realpath(source))
            allowed, opened = any(path.is_relative_to(folder) for folder in self._paths), str(path)
        else:
            allowed, opened = any(_begins_with(source, address) for address in self._addresses), source
        if not allowed:
            raise ProtocolError("source_refused", "this server does not watch that source (--allow_sources says which)")
        return opened

    def watch(self, source: str, session: Session, facts: ModelFacts) -> None:
        """Has the session watch it from now on; what breaks it ends the session with the cause."""
        session.watch(asyncio.create_task(self._watch(source, session, facts), name=f"source of {session.id}"))

    def close(self) -> None:
        """Frees the threads; a source that hangs in a read is left to the end of the process."""
        if self._readers is not None:
            self._readers.shutdown(wait=False, cancel_futures=True)

    async def _watch(self, source: str, session: Session, facts: ModelFacts) -> None:
        loop = asyncio.get_running_loop()
        if self._readers is None:
            # Reading waits for the network; each source may hold a thread for as long as it runs.
            self._readers = ThreadPoolExecutor(256, thread_name_prefix="source")
        run = lambda function, *arguments: loop.run_in_executor(self._readers, function, *arguments)
        realtime = session.config.mode == "live"
        ahead = max(1, facts.clock.ticks_in(_AHEAD_S))
        feed, before = None, None
        try:
            reader = await run(VideoReader, source, facts.clock, facts.frame_px, session.config.fit)
            feed = FrameFeed(reader, realtime=realtime, max_waiting=ahead, lag_max_s=_LAG_MAX_S)
            ticks = iter(feed)
            while (tick := await run(next, ticks, None)) is not None:
                await session.watched(TakenTick(tick.t_s, tick.frame, changed_share(before, tick.frame)))
                before = tick.frame
        except VideoError as error:
            cause = str(error).removeprefix(f"{redact(source)}: ")
            _log.info("source broke", extra={"session": session.id, "source": for_log(source), "error": cause})
            # The path stays on the server; the cause is the client's to know.
            session.end("source", f"the source broke: {cause}", drain=True)
            return
        finally:
            if feed is not None:
                feed.stop()
                self._readers.submit(feed.close)
        session.end("end", "the source has ended", drain=True)


def for_log(source: str | None) -> str | None:
    """A source without what may be secret in it: who signs in at an address, and what is asked of it."""
    if source is None or scheme_of(source) is None:
        return source
    scheme, _, rest = source.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}".partition("?")[0]


def _begins_with(source: str, allowed: SplitResult) -> bool:
    try:
        address = urlsplit(source)
        same = (address.scheme.lower(), address.hostname, address.port) == (
            allowed.scheme.lower(),
            allowed.hostname,
            allowed.port,
        )
    except ValueError:
        return False
    path = posixpath.normpath(address.path or "/")
    prefix = allowed.path or "/"
    inside = path == prefix.rstrip("/") or path.startswith(prefix if prefix.endswith("/") else f"{prefix}/")
    return same and (inside or prefix == "/") and "%" not in address.path and "\\" not in source
