"""Videos of the server's own: what it may watch by itself, allowed by name, and the built-in world for the page."""

import asyncio
import logging
import os
import posixpath
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from data_pipelines.video_source import VideoError, redact, scheme_of
from mmduplex_jax.commentator import ModelFacts
from mmduplex_jax.serving.decoding import DecoderEnded, DecoderProcesses, SourceFailed
from mmduplex_jax.serving.protocol import ProtocolError
from mmduplex_jax.serving.session import Session
from mmduplex_jax.serving.source_ticks import SourceConfig

_log = logging.getLogger(__name__)
# What no address has in it: `redact` would take it for the address's end.
_NO_ADDRESS = re.compile(r"[\s'\"<>\\]")
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

    def watch(self, source: str, session: Session, facts: ModelFacts, decoders: DecoderProcesses) -> None:
        """Has the session watch it from now on; what breaks it ends the session with the cause."""
        work = _watch(source, session, facts, decoders)
        session.follow(asyncio.create_task(work, name=f"source of {session.id}"))


async def _watch(source: str, session: Session, facts: ModelFacts, decoders: DecoderProcesses) -> None:
    realtime = session.config.mode == "live"
    reading = decoders.source(SourceConfig(source, facts.clock, facts.frame_px, session.fit, realtime))
    fields: dict[str, object] = {"session": session.id, "source": redact(source)}
    try:
        while (tick := await reading.next()) is not None:
            await session.put_tick(tick)
    except VideoError as error:
        # (The path stays on the server; the cause is the client's to know.)
        cause = redact(str(error)).removeprefix(f"{redact(source)}: ")
        _log.info("source broke", extra=fields | {"error": cause})
        session.end("source", f"the source broke: {cause}", drain=True)
    except SourceFailed as failed:
        _log.error("source failed", extra=fields | {"error": redact(f"{failed.kind}: {failed}")})
        session.end("source", f"the source cannot be read: {failed.kind}", drain=True)
    except DecoderEnded as error:
        session.count_lost_decoder(error)
        _log.error("source failed", extra=fields | {"error": str(error)})
        session.end("source", f"the source cannot be read: {error}", drain=True)
    except Exception as error:  # noqa: BLE001  its stream is told, and the others go on
        _log.exception("source failed", extra=fields)
        session.end("source", f"the source cannot be shown: {type(error).__name__}", drain=True)
    else:
        session.end("end", "the source has ended", drain=True)
    finally:
        reading.close()


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
