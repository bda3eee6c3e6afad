"""Contestants that are servers: each is shown every video once, at the video's own pace, and what it says is recorded.

A word counts as said when it came here, or at the time that the server says, whichever is later: so it is seen as a
viewer of that server would have seen it, with all that its model, its load and the way to it cost. Every voter sees
the same recording, so that votes on a video are about one thing, and no voter waits for a server.

Servers are reached at addresses that whoever runs the arena names, and nowhere else: a redirect is not followed, and
nothing that a voter sends becomes an address.
"""

import asyncio
import dataclasses
import logging
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data_pipelines.decode import VideoReader
from data_pipelines.video_source import VideoError, redact
from mmduplex_jax.arena.entries import PRINTABLE_NAME, TAIL_S, Entries, read_entries, video_files
from mmduplex_jax.arena.recordings import (
    Failure,
    LiveReport,
    Recording,
    Recordings,
    live_reports,
    model_id,
    video_sha256,
)
from mmduplex_jax.client import Refused, Status, Stream, StreamLost, Word, connect, encode, info, read_token
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, fit_of, frame_size

_log = logging.getLogger(__name__)

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
# Pictures up to this size go without loss, as `launch.commentate --server` sends them; for larger ones that takes
# longer than a tick lasts.
_LOSSLESS_PX_MAX, _JPEG_QUALITY = 256 * 256, 95
# How far pictures are decoded ahead, and how late one may leave here: later than that it is this machine that is slow,
# and not the server.
_AHEAD_TICKS, _LATE_S = 12, 0.5
# From the last picture to the stream's end. Words later than `TAIL_S` after the video are not shown anyway.
_END_S = 2 * TAIL_S
# What no commentator needs, so that no server fills the disk, the memory or a page.
_WORDS_HZ, _WORD_CHARS, _FRAME_SIDE_PX, _STEP_HZ = 50.0, 200, 4096, 100.0
# A recording that failed is tried again after this, and after ever longer where nothing comes of it.
_AGAIN_S, _AGAIN_MAX_S = 60.0, 3600.0
# How often a server that is recorded whole is asked whether its model is still the same.
_CHECK_S = 300.0


@dataclasses.dataclass(frozen=True)
class LiveServer:
    """A contestant's server: what voters are told that it is called, where it is, and the token that it asks for."""

    name: str
    url: str
    token: str | None = dataclasses.field(default=None, repr=False)


def live_server(text: str, tokens: Mapping[str, str]) -> LiveServer:
    """Reads `NAME=ADDRESS`; a WebSocket's address is that of its server.

    Args:
      text: as `mine=http://127.0.0.1:8080` or `mine=ws://127.0.0.1:8080`.
      tokens: by name.

    Raises:
      ValueError: it is none; says why.
    """
    name, _, address = text.partition("=")
    if not PRINTABLE_NAME.fullmatch(name) or name.startswith("."):
        raise ValueError(f"--live={redact(text)}: NAME=ADDRESS is expected, NAME of 1 to 64 printable characters")
    try:
        parts = urlsplit(address)
        _ = parts.port  # (ValueError where it is no number)
    except ValueError as error:
        raise ValueError(f"--live={redact(text)}: is no address: {error}") from error
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"--live={redact(text)}: an address of launch.serve is expected (http://HOST:PORT)")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"--live={redact(text)}: a token goes into a file (--live_token_file={name}=FILE)")
    url = f"{_SCHEMES[parts.scheme]}://{parts.netloc}{parts.path.removesuffix('/v1/stream').rstrip('/')}"
    return LiveServer(name, url, tokens.get(name))


def live_servers(live: Sequence[str], token_files: Sequence[str]) -> list[LiveServer]:
    """The servers that an operator names.

    Args:
      live: NAME=ADDRESS of each.
      token_files: NAME=FILE of those that want a token, which is the file's first line.

    Raises:
      ValueError: an address is none, or a token is for nobody.
      OSError: a token's file cannot be read.
    """
    tokens = {}
    for text in token_files:
        name, _, path = text.partition("=")
        token = read_token(path) if path else None
        if token is None:
            raise ValueError(f"--live_token_file={text}: NAME=FILE is expected")
        tokens[name] = token
    servers = [live_server(text, tokens) for text in live]
    nobody = tokens.keys() - {server.name for server in servers}
    if nobody:
        raise ValueError(f"--live_token_file={min(nobody)}=...: there is no --live={min(nobody)}=ADDRESS")
    return servers


class RecordingFailed(Exception):
    """No recording came of it; `code` says why in a word."""

    def __init__(self, code: str, message: str):
        super().__init__(redact(message))
        self.code = code


@dataclasses.dataclass(frozen=True)
class _Model:
    """What has to be known of a server's model to show it a video."""

    clock: Clock
    frame_px: FrameSize
    fit: str


def _model_of(facts: Any) -> _Model:
    """Of what `/v1/info` says; RecordingFailed for what no server of ours says."""
    try:
        clock = Clock(facts["clock"]["step_hz"], facts["clock"]["video_stride"])
        frame_px, fit = frame_size(facts["frame_px"]), fit_of(facts)
        known = clock.step_hz <= _STEP_HZ and max(frame_px) <= _FRAME_SIDE_PX and isinstance(facts["model"], str)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RecordingFailed("bad_answer", f"what it says of its model cannot be read: {error!r}") from error
    if not known:
        raise RecordingFailed("bad_answer", f"no model of ours has this clock and frames: {facts!r:.200}")
    return _Model(clock, frame_px, fit)


async def record(server: LiveServer, path: Path, facts: Mapping[str, Any]) -> Recording:
    """Shows a server a video at the video's own pace, and takes down what it says.

    Args:
      server: which.
      path: of the video.
      facts: what the server says of its model.

    Raises:
      RecordingFailed: the server refused, broke off, or spoke what is no commentary; the video is broken; this machine
        was too slow to show it. Nothing of such a recording is kept.
    """
    model = _model_of(facts)
    try:
        async with connect(server.url, token=server.token, client="launch.arena") as stream:
            return await _shown(stream, path, model)
    except Refused as error:
        raise RecordingFailed(error.code, str(error)) from error
    except StreamLost as error:
        raise RecordingFailed("unreachable", str(error)) from error
    except VideoError as error:
        raise RecordingFailed("bad_video", str(error)) from error


async def _shown(stream: Stream, path: Path, model: _Model) -> Recording:
    clock, loop = model.clock, asyncio.get_running_loop()
    reader = await asyncio.to_thread(VideoReader, path, clock, model.frame_px, model.fit)
    lossless = math.prod(model.frame_px) <= _LOSSLESS_PX_MAX
    ticks = reader.ticks()

    def next_picture() -> tuple[float, tuple[bytes, str]] | None:
        tick = next(ticks, None)
        return None if tick is None else (tick.t_s, encode(tick.frame, None if lossless else _JPEG_QUALITY))

    ahead: asyncio.Queue[tuple[float, tuple[bytes, str]] | None] = asyncio.Queue(_AHEAD_TICKS)

    async def decode() -> None:
        while (picture := await asyncio.to_thread(next_picture)) is not None:
            await ahead.put(picture)
        await ahead.put(None)

    words: list[tuple[str, float, float]] = []
    pictures, begin_s, dropped = 0, math.inf, 0

    async def show() -> None:
        nonlocal pictures, begin_s
        while (picture := await ahead.get()) is not None:
            t_s, encoded = picture
            if not pictures:
                begin_s = loop.time() - t_s
            wait_s = begin_s + t_s - loop.time()
            if -wait_s > _LATE_S:
                raise RecordingFailed("late", f"this machine was {-wait_s:.1f} s late at {t_s:.1f} s of {path.name}")
            await asyncio.sleep(max(0.0, wait_s))
            await stream.send_encoded(t_s, *encoded)
            pictures += 1
        await stream.end()

    async def listen() -> None:
        nonlocal dropped
        async for event in stream:
            if isinstance(event, Word):
                words.append(_checked(event, loop.time() - begin_s))
                if len(words) > _WORDS_HZ * (1.0 + loop.time() - begin_s):
                    raise RecordingFailed("bad_words", f"over {_WORDS_HZ:g} words a second are no commentary")
            elif isinstance(event, Status):
                if type(event.dropped_frames) is not int:
                    raise RecordingFailed("bad_answer", f"{event.dropped_frames!r:.100} pictures were dropped")
                dropped = event.dropped_frames

    try:
        async with asyncio.TaskGroup() as tasks:
            decoding, showing = tasks.create_task(decode()), tasks.create_task(show())
            listening = tasks.create_task(listen())
            await asyncio.wait([listening, showing], return_when=asyncio.FIRST_COMPLETED)
            if not showing.done():
                # The stream has ended before the video; unless that was an error, it is one.
                decoding.cancel()
                showing.cancel()
            else:
                await asyncio.wait([listening], timeout=_END_S)
                listening.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        reader.close()
    if stream.bye is None or not showing.done() or showing.cancelled():
        raise RecordingFailed("no_end", f"the stream on {path.name} ended too soon, or not within {_END_S:g} s")
    if stream.reconnections:
        raise RecordingFailed("dropped", f"the connection dropped {stream.reconnections} times on {path.name}")
    if stream.missing:
        raise RecordingFailed("missed", f"{stream.missing} words on {path.name} did not come")
    return Recording(tuple(sorted(words, key=lambda word: word[2])), pictures, stream.left_out + dropped)


def _checked(word: Word, now_s: float) -> tuple[str, float, float]:
    """A word with the time at which a viewer has it; RecordingFailed for what is none, or from another time."""
    times = [t_s for t_s in (word.t_video_s, word.t_emit_s) if type(t_s) in (int, float) and math.isfinite(t_s)]
    if type(word.text) is not str or not 0 < len(word.text) <= _WORD_CHARS or not word.text.isprintable():
        raise RecordingFailed("bad_words", f"this is no word: {word.text!r:.100}")
    if len(times) < 2 or not -TAIL_S <= min(times) <= max(times) <= now_s + TAIL_S:
        raise RecordingFailed("bad_words", f"{word.text!r} is of a time that has not been: {word.t_emit_s!r:.100}")
    return word.text, round(word.t_video_s, 3), round(max(0.0, word.t_emit_s, now_s), 3)


class Recorder:
    """Records every video of an arena's folder from some servers: of each one video at a time, all of them at once."""

    def __init__(
        self,
        root: Path,
        servers: Sequence[LiveServer] = (),
        identity_words: Sequence[str] | None = None,
        *,
        again_s: float = _AGAIN_S,
    ):
        """Checks the names.

        Args:
          root: the arena's folder.
          servers: of different names, which no contestant with a folder of captions has.
          identity_words: as for `read_entries`.
          again_s: after what time a failure is tried again.

        Raises:
          ValueError: two have a name.
        """
        names = [server.name for server in servers]
        taken = [name for name in names if names.count(name) > 1 or (root / "contestants" / name).exists()]
        if taken:
            raise ValueError(f"--live: the name {taken[0]} is taken by another contestant; each needs its own")
        self._root, self._servers, self._identity_words, self._again_s = root, servers, identity_words, again_s
        self._reached = dict.fromkeys(names, True)

    def entries(self) -> Entries:
        """All that the arena shows now; raises as `read_entries`."""
        return read_entries(self._root, self._identity_words, live=[server.name for server in self._servers])

    def reports(self) -> list[LiveReport]:
        """How far every contestant that is or was a server is recorded; ValueError for a damaged list of failures."""
        return live_reports(self._root, list(video_files(self._root)))

    async def check(self) -> None:
        """Asks every server for its model, and sets aside what was recorded of another one.

        A server that cannot be reached now keeps its recordings, and is asked again by `run`.
        """
        await asyncio.gather(*(self._facts(server, Recordings(self._root, server.name)) for server in self._servers))

    async def run(self, recorded: Callable[[], Awaitable[None]]) -> None:
        """Records until it is cancelled; `recorded` is called after each one that is new or was taken away."""
        await asyncio.gather(*(self._run(server, recorded) for server in self._servers))

    async def _run(self, server: LiveServer, recorded: Callable[[], Awaitable[None]]) -> None:
        recordings = Recordings(self._root, server.name)
        wait_s = self._again_s
        while True:
            before = recordings.number()
            try:
                facts, stale = await self._facts(server, recordings)
                if stale:
                    await recorded()
                whole = facts is not None and await self._record_missing(server, recordings, facts, recorded)
            except (OSError, ValueError):
                # (A full disk, a file that is no recording: said, and tried again.)
                _log.exception("recording %s failed", server.name)
                whole = False
            wait_s = self._again_s if whole or recordings.number() > before else min(2 * wait_s, _AGAIN_MAX_S)
            await asyncio.sleep(_CHECK_S if whole else wait_s)

    async def _facts(self, server: LiveServer, recordings: Recordings) -> tuple[Mapping[str, Any] | None, list[str]]:
        """What the server says of its model, or None; and what had to be set aside. One outage is one failure."""
        try:
            facts = await info(server.url, server.token)
            _model_of(facts)
        except (Refused, StreamLost, ValueError, RecordingFailed) as error:
            if self._reached[server.name]:
                recordings.failed(Failure("", _code(error), redact(str(error))))
                _log.warning("%s does not answer: %s", server.name, redact(str(error)))
            self._reached[server.name] = False
            return None, []
        self._reached[server.name] = True
        stale = await asyncio.to_thread(recordings.set_aside, model_id(facts), video_files(self._root))
        if stale:
            _log.warning(
                "%s is another model, or videos are others: %d recordings are set aside and made anew; "
                "votes from before were on the former",
                server.name, len(stale),
            )  # fmt: skip
        return facts, stale

    async def _record_missing(
        self,
        server: LiveServer,
        recordings: Recordings,
        facts: Mapping[str, Any],
        recorded: Callable[[], Awaitable[None]],
    ) -> bool:
        """Records each video that is missing, or fails to; whether all are there then."""
        whole = True
        for stem, path in video_files(self._root).items():
            if recordings.has(stem):
                continue
            sha256 = await asyncio.to_thread(video_sha256, path)
            try:
                recording = await record(server, path, facts)
                now = await info(server.url, server.token)
                _model_of(now)
            except (RecordingFailed, Refused, StreamLost, ValueError) as error:
                whole = False
                recordings.failed(Failure(stem, _code(error), redact(str(error))))
                _log.warning("%s is not recorded on %s: %s", server.name, stem, redact(str(error)))
                continue
            if model_id(now) != model_id(facts):
                return False  # it became another model meanwhile, which is asked for next
            recordings.keep(stem, recording, model_id(facts), sha256)
            _log.info("%s is recorded on %s, %d pictures left out", server.name, stem, recording.left_out)
            await recorded()
        return whole


def _code(error: Exception) -> str:
    """Why, in a word."""
    return "unreachable" if isinstance(error, StreamLost) else getattr(error, "code", "bad_answer")
