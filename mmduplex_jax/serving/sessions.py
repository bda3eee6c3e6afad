"""All streams of the server: who may begin, who may come back, who has been away too long, and how all end."""

import asyncio
import hmac
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from data_pipelines.video_source import redact
from mmduplex_jax.commentator import ModelFacts
from mmduplex_jax.serving.decoding import DecoderProcesses
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.monitoring import Counters
from mmduplex_jax.serving.protocol import Hello, ProtocolError, Resume, StreamConfig, error_reply
from mmduplex_jax.serving.session import Session, checked_delay
from mmduplex_jax.serving.sound import sounds_of
from mmduplex_jax.serving.sources import Sources
from mmduplex_jax.streaming.pool import PoolFull, StreamPool

_log = logging.getLogger(__name__)
_SWEEP_S = 0.5
# The reason in a refusal, by that of the pool.
_REASONS = {"full": "full", "overloaded": "overloaded", "stopping": "draining"}


class Refused(Exception):
    """A hello that was understood and is refused.

    Attributes:
      reason: one of `protocol.CLOSE_CODES`.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Opened(NamedTuple):
    """A session for a connection: whether it went on, and the last word that the client has.

    Attributes:
      config: of this connection: of a session that goes on only what is said of sound counts.
    """

    session: Session
    resumed: bool
    seq: int
    missed_words: int
    config: StreamConfig


class Attachment:
    """A connection's hold on a session; a newer one takes it over."""

    def __init__(self, session: Session):
        self.session = session
        self.superseded = asyncio.Event()


class Sessions:
    """The table of streams. Lives on the event loop in which it is used."""

    def __init__(
        self,
        pool: StreamPool,
        facts: ModelFacts,
        limits: Limits,
        counters: Counters,
        sources: Sources,
        decoders: DecoderProcesses,
        *,
        now: Callable[[], float] = time.monotonic,
    ):
        self.facts, self.limits, self.counters = facts, limits, counters
        self._pool, self._sources, self._now = pool, sources, now
        self._decoders = decoders
        self._to_loop = ToLoop(asyncio.get_running_loop())
        self._sessions: dict[str, Session] = {}
        self._attached: dict[str, Attachment] = {}
        self._sweeper = asyncio.create_task(self._sweep(), name="sweep sessions")
        self.draining = False

    def __len__(self) -> int:
        return sum(session.ended is None for session in self._sessions.values())

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def with_feed(self, session_id: str, feed: str) -> Session | None:
        """The session whose words may be read with this secret."""
        session = self._sessions.get(session_id)
        if session is None or not hmac.compare_digest(session.feed.encode(), feed.encode()):
            return None
        return session

    async def open(self, hello: Hello, *, has_track: bool = False) -> Opened:
        """A new session, or the one to go on with.

        Args:
          hello: the client's.
          has_track: its connection has a track for sound.

        Raises:
          Refused: there is no room, the server is going down, the source is not allowed, or the session is unknown.
          ProtocolError: settings that the model does not have.
        """
        sound = hello.config.sound
        if sound is not None:
            self._check_sound(sound, has_track)
        if hello.resume is not None:
            return self._resume(hello.resume, hello.config)
        if self.draining:
            raise Refused("draining", "the server is going down; try another one, or again in a minute")
        config, facts = hello.config, self.facts
        if config.delay_steps is not None:
            checked_delay(config.delay_steps, facts)
        source = None if config.source is None else self._sources.check(config.source)
        session = Session(config, facts, self.limits, self.counters, self._decoders, now=self._now)
        try:
            handle = self._pool.join(
                delay_steps=session.delay_steps,
                pad_bias=session.pad_bias,
                live=config.mode == "live",
                speaking=session.speaking,
                on_output=lambda output: self._to_loop.call(session.on_output, output),
                on_end=lambda: self._to_loop.call(session.on_stream_ended),
            )
        except PoolFull as full:
            reason = _REASONS[full.reason]
            self.counters.refused.labels(reason).inc()
            raise Refused(reason, str(full)) from full
        session.begin(handle)
        if source is not None:
            self._sources.watch(source, session, facts, self._decoders)
        self._sessions[session.id] = session
        self.counters.sessions_begun.inc()
        _log.info(
            "session began",
            extra={
                "session": session.id,
                "mode": config.mode,
                "source": source and redact(source),
                "client": hello.client,
            },
        )
        return Opened(session, False, 0, 0, config)

    def _check_sound(self, sound: str, has_track: bool) -> None:
        """ProtocolError for sound that this model, or this connection, does not have."""
        sounds = sounds_of(self.facts.sample_rate_hz, self.facts.clock)
        if not sounds:
            raise ProtocolError("bad_config", "`sound`: this model has no voice, or no codec to be heard by")
        if sound == "track" and not has_track:
            raise ProtocolError("bad_config", "`sound` is track: only a WebRTC offer with an audio track has one")
        if sound != "track" and sound not in sounds:
            hint = f"a voice of {self.facts.sample_rate_hz} Hz in steps of {self.facts.clock.step_s:g} s"
            raise ProtocolError("bad_config", f"`sound`: there is no {sound} of {hint}; ask for {', '.join(sounds)}")

    def _resume(self, resume: Resume, config: StreamConfig) -> Opened:
        session = self._sessions.get(resume.session)
        if session is None or not hmac.compare_digest(session.token.encode(), resume.token.encode()):
            self.counters.refused.labels("unknown_session").inc()
            raise Refused("unknown_session", "there is no such session (any more); begin a new one")
        if resume.last_seq > session.words.seq:
            raise ProtocolError(
                "bad_message", f"`last_seq` is {resume.last_seq}, but only {session.words.seq} words were said"
            )
        self.counters.resumed.inc()
        _log.info("session resumed", extra={"session": session.id, "last_seq": resume.last_seq})
        missed = session.words.missed(resume.last_seq)
        return Opened(session, True, resume.last_seq + missed, missed, config)

    def attach(self, session: Session) -> Attachment:
        """Gives the session to a connection; one that has it is superseded."""
        before = self._attached.get(session.id)
        if before is not None:
            before.superseded.set()
        session.detached_s = None
        session.last_activity_s = self._now()
        attachment = self._attached[session.id] = Attachment(session)
        self.counters.connections.inc()
        return attachment

    def detach(self, attachment: Attachment) -> None:
        """The connection is gone; the session waits for it to come back."""
        self.counters.connections.dec()
        session = attachment.session
        if self._attached.get(session.id) is attachment:
            del self._attached[session.id]
            session.detached_s = self._now()

    def forget(self, session: Session) -> None:
        """Lets go of a session of which its client has everything."""
        if session.ended is not None and not session.readers:
            self._drop(session)

    async def drain(self, drain_s: float) -> None:
        """Takes no new streams, lets those that have a client end by themselves for so long, then ends them."""
        self.draining = True
        _log.info("draining", extra={"sessions": len(self), "drain_s": drain_s})
        for session in self:
            if session.id not in self._attached:
                session.end("shutdown", "the server is going down", drain=True)
            session.notify(error_reply("draining", f"the server goes down in at most {drain_s:g} s", fatal=False))
        deadline_s = self._now() + drain_s
        while len(self) and self._now() < deadline_s:
            await asyncio.sleep(min(0.05, max(0.0, deadline_s - self._now())))
        for session in self:
            session.end("shutdown", "the server is going down", drain=True)
        await asyncio.gather(*(session.stopped() for session in self))

    async def close(self) -> None:
        """Ends whatever still runs."""
        self.draining = True
        self._sweeper.cancel()
        await asyncio.gather(self._sweeper, return_exceptions=True)
        for session in self:
            session.end("shutdown", "the server is going down")
            await session.stopped()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """Ends what has been away or silent for too long, and forgets what ended a while ago."""
        now_s, limits = self._now(), self.limits
        for session in self:
            if session.ended is None:
                if session.detached_s is not None and now_s - session.detached_s > limits.resume_s:
                    session.end("gone", f"its client did not come back within {limits.resume_s:g} s")
                elif now_s - session.last_activity_s > limits.idle_s:
                    session.end("idle", f"nothing came for {limits.idle_s:g} s")
            elif now_s - session.ended_s > limits.resume_s and session.id not in self._attached:
                self._drop(session)

    def _drop(self, session: Session) -> None:
        self._sessions.pop(session.id, None)


class ToLoop:
    """Brings calls to the loop, which is woken once for the outputs of all streams at a moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._lock = threading.Lock()
        self._waking = False

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Has the loop call the function; returns at once, from any thread (RuntimeError: the loop is closed)."""
        with self._lock:
            self._calls.append((function, arguments))
            wake, self._waking = not self._waking, True
        if wake:
            self._loop.call_soon_threadsafe(self._run)

    def _run(self) -> None:
        with self._lock:
            calls, self._calls, self._waking = self._calls, deque(), False
        for function, arguments in calls:
            # Each as a callback of its own: what one raises goes to the loop's handler and spares the others.
            self._loop.call_soon(function, *arguments)
