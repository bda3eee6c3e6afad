"""Videos of the server's own: what it may watch by itself, allowed by name, and the built-in world for the page."""

import asyncio
import contextlib
import logging
import os
import posixpath
import re
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from data_pipelines.decode import VideoReader
from data_pipelines.video_source import VideoError, redact, scheme_of
from mmduplex_jax.commentator import ModelFacts
from mmduplex_jax.serving.pictures import Tick, changed_share
from mmduplex_jax.serving.protocol import ProtocolError
from mmduplex_jax.serving.session import Session
from mmduplex_jax.streaming.frame_feed import FrameFeed

_log = logging.getLogger(__name__)
# What no address has in it: `redact` would take it for the address's end.
_NO_ADDRESS = re.compile(r"[\s'\"<>\\]")
# How far a file is decoded ahead.
_AHEAD_S = 2.0
_LAG_MAX_S = 1.0
# Threads that read sources, those included whose streams are gone and which hang in a read.
_READING_MAX = 256
# A page plays one after another; after so many they begin again.
CLIPS = 16
_CLIP_S = 12.0
_SIZE_PX, _FPS = 256, 25
# No training takes clips of this seed.
_SEED = 20_240_229


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
                    raise ValueError(f"--allow_sources: {redact(one)} names no host")
                self._addresses.append(address)
        self._reading = 0

    def check(self, source: str) -> str:
        """What to open for a source: an address as it is, a file by its whole path.

        The client's own spelling of a path is not what is opened: libav takes `concat:a` and `file:a` for protocols,
        and a number is a camera.

        Raises:
          ProtocolError: it is not allowed. It is not said whether there is such a file.
        """
        if scheme_of(source) is None:
            path = Path(os.path.realpath(source))
            # (A named pipe or a device may keep its reader waiting for ever.)
            allowed = any(path.is_relative_to(folder) for folder in self._paths)
            allowed, opened = allowed and (path.is_file() or not path.exists()), str(path)
        else:
            allowed, opened = any(_begins_with(source, address) for address in self._addresses), source
        if not allowed:
            raise ProtocolError("source_refused", "this server does not watch that source (--allow_sources says which)")
        return opened

    def watch(self, source: str, session: Session, facts: ModelFacts) -> None:
        """Has the session watch it from now on; what breaks it ends the session with the cause."""
        session.follow(asyncio.create_task(self._watch(source, session, facts), name=f"source of {session.id}"))

    async def _watch(self, source: str, session: Session, facts: ModelFacts) -> None:
        if self._reading >= _READING_MAX:
            session.end("source", f"{self._reading} sources are being read or given up already; try again later")
            return
        reading = _Reading(source, session, facts)
        self._reading += 1
        reading.finished.add_done_callback(self._read)
        try:
            # (Cancelled, the thread still says when it has ended.)
            await asyncio.shield(reading.finished)
        except VideoError as error:
            # (The path stays on the server; the cause is the client's to know.)
            cause = redact(str(error)).removeprefix(f"{redact(source)}: ")
            _log.info("source broke", extra={"session": session.id, "source": redact(source), "error": cause})
            session.end("source", f"the source broke: {cause}", drain=True)
        except Exception as error:  # noqa: BLE001  whatever a file or a library does, its stream is told and ends
            fields: dict[str, object] = {"session": session.id, "source": redact(source)}
            fields |= {"error": redact(repr(error)), "at": traceback.format_tb(error.__traceback__)}
            _log.error("source failed", extra=fields)
            session.end("source", f"the source cannot be read: {type(error).__name__}", drain=True)
        else:
            session.end("end", "the source has ended", drain=True)
        finally:
            reading.stop()

    def _read(self, finished: "asyncio.Future[None]") -> None:
        self._reading -= 1
        if not finished.cancelled():
            finished.exception()  # (taken, also where nobody waits for it any more)


class _Reading:
    """A source on its way into a session, in a thread that nobody waits for: libav may hang in a read for long.

    Attributes:
      finished: done at the source's end; raises what broke it.
    """

    def __init__(self, source: str, session: Session, facts: ModelFacts):
        self._source, self._session, self._facts = source, session, facts
        self._loop = asyncio.get_running_loop()
        self._feed: FrameFeed | None = None
        self._stopped = False
        self.finished: asyncio.Future[None] = self._loop.create_future()
        threading.Thread(target=self._run, name="source", daemon=True).start()

    def stop(self) -> None:
        """Ends it at its next picture."""
        self._stopped = True
        if self._feed is not None:
            self._feed.stop()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._read()
        except BaseException as caught:  # noqa: BLE001  raised where the source is waited for
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(self._finish, error)

    def _finish(self, error: BaseException | None) -> None:
        if self.finished.cancelled():
            return
        if error is None:
            self.finished.set_result(None)
        else:
            self.finished.set_exception(error)

    def _read(self) -> None:
        session, facts = self._session, self._facts
        reader = VideoReader(self._source, facts.clock, facts.frame_px, session.fit)
        ahead = max(1, facts.clock.ticks_in(_AHEAD_S))
        realtime = session.config.mode == "live"
        self._feed = feed = FrameFeed(reader, realtime=realtime, max_waiting=ahead, lag_max_s=_LAG_MAX_S)
        before = None
        try:
            for one in feed:
                if self._stopped:
                    return
                tick = Tick(one.t_s, one.frame, changed_share(before, one.frame))
                asyncio.run_coroutine_threadsafe(session.put_tick(tick), self._loop).result()
                before = one.frame
        finally:
            feed.stop()
            feed.close()


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
    if _NO_ADDRESS.search(source):
        return False
    path = posixpath.normpath(address.path or "/")
    prefix = allowed.path or "/"
    inside = path == prefix.rstrip("/") or path.startswith(prefix if prefix.endswith("/") else f"{prefix}/")
    return same and (inside or prefix == "/") and "%" not in address.path


class WorldClips:
    """Films clips, one at a time, and the next one while one is watched."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mmduplex-world-")
        self._filming = asyncio.Lock()
        self._clips: dict[int, Path] = {}
        self._ahead: asyncio.Task[Path] | None = None

    async def clip(self, index: int) -> Path:
        """The mp4 of the `index`-th clip, in H.264, as browsers play it.

        Raises:
          ValueError: this PyAV has no encoder for it.
        """
        path = await self._filmed(index % CLIPS)
        if self._ahead is None or self._ahead.done():
            self._ahead = asyncio.create_task(self._filmed((index + 1) % CLIPS))
        return path

    async def close(self) -> None:
        """Removes the videos."""
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)
        # A film that is being made is waited for: it is written into the folder.
        async with self._filming:
            self._folder.cleanup()

    async def _filmed(self, number: int) -> Path:
        async with self._filming:
            if number not in self._clips:
                # (A request that is cancelled leaves the thread to its end, with the lock.)
                filming = asyncio.get_running_loop().run_in_executor(None, self._film, number)
                self._clips[number] = await _to_its_end(filming)
            return self._clips[number]

    def _film(self, number: int) -> Path:
        from data_pipelines.world import WorldConfig
        from data_pipelines.world.clip import write_clip_files

        config = WorldConfig(look="plain", clip_s=_CLIP_S)
        files = write_clip_files(self._folder.name, config, _SEED, number, size_px=_SIZE_PX, fps=_FPS, codec="libx264")
        return files.video


async def _to_its_end(filming: "asyncio.Future[Path]") -> Path:
    """Waits for a thread also when whoever waits is cancelled, and passes the cancelling on after it."""
    try:
        return await asyncio.shield(filming)
    except asyncio.CancelledError:
        await asyncio.gather(filming, return_exceptions=True)
        raise
