"""All streams of the server: who may begin, who may come back, who has been away too long, and how all end."""

import asyncio
import hmac
import logging
import math
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

from data_pipelines.video_source import redact
from mmduplex_jax.commentator import ModelFacts
from mmduplex_jax.serving.decoding import DecoderProcesses
from mmduplex_jax.serving.handover import OWNER_S, SESSION_KEY, CannotGoOn, Found, Handover, SavedStream, token_sha256
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.monitoring import Counters
from mmduplex_jax.serving.protocol import Hello, ProtocolError, Resume, StreamConfig, error_reply, kept_reply
from mmduplex_jax.serving.session import Session, checked_delay
from mmduplex_jax.serving.sound import sounds_of
from mmduplex_jax.serving.sources import Sources
from mmduplex_jax.streaming.pool import PoolFull, StreamPool

_log = logging.getLogger(__name__)
_SWEEP_S = 0.5
# Handing a stream over takes a few ticks; one that takes longer ends instead, before the process does.
_HAND_OVER_S = 7.0
# A stream that is asked for is looked for this often; where it is said to be another replica's, for so long (the folder
# may be seen as it was a moment ago).
_LOOK_S, _SEEN_S = 0.05, 1.0
# So many rows are copied off the device at once to be kept, and so many readers' streams are looked for.
_COPIES, _LOOKERS = 2, 2
# What has ended is removed from a folder that does not hang.
_FORGET_S = 1.0
# What nobody comes for is kept this much longer than a stream waits for its client.
_KEPT_S = 30.0
_TAKEN_SOONER = "another replica has just taken this stream: come back, to that one"
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
        handover: Handover | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        self.facts, self.limits, self.counters = facts, limits, counters
        self._pool, self._sources, self._now = pool, sources, now
        self._decoders = decoders
        self._to_loop = ToLoop(asyncio.get_running_loop())
        self._sessions: dict[str, Session] = {}
        self._attached: dict[str, Attachment] = {}
        self._handover = handover
        # What is kept, handed over and removed just now; and of which streams it is kept.
        self._moving: set[asyncio.Task[None]] = set()
        self._forgetting: set[asyncio.Task[None]] = set()
        self._keeping: set[str] = set()
        self._copying, self._looking = asyncio.Semaphore(_COPIES), asyncio.Semaphore(_LOOKERS)
        # (Each for as long as somebody takes that stream, or waits to.)
        self._taking: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._workers = [asyncio.create_task(self._sweep(), name="sweep sessions")]
        if handover is not None:
            self._workers.append(asyncio.create_task(self._give_wanted(handover), name="hand over streams"))
            if handover.snapshot_s:
                self._workers.append(asyncio.create_task(self._snapshots(handover), name="keep streams"))
        self.draining = False

    def __len__(self) -> int:
        return sum(session.ended is None for session in self._sessions.values())

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def with_feed(self, session_id: str, feed: str) -> Session | None:
        """The session whose words may be read with this secret."""
        session = self._sessions.get(_key(session_id))
        if session is None or not hmac.compare_digest(session.feed.encode(), feed.encode()):
            return None
        return session

    async def whereabouts(self, session_id: str) -> str | None:
        """The name that a stream has now, where it has moved; "" while it is on its way; None: nobody knows it."""
        key, handover = _key(session_id), self._handover
        here = self._sessions.get(key)
        if here is not None and not here.has_moved:
            return None  # (whoever asks has another's secret)
        if handover is None or not SESSION_KEY.fullmatch(key):
            return None
        try:
            async with self._looking:
                found = await handover.run(handover.find, key)
                owner = None if found is None else await handover.run(handover.owner, found)
        except OSError as error:
            _log.error("the folder of streams failed", extra={"session": session_id, "error": repr(error)})
            return ""
        if found is None:
            return None
        return "" if owner is None or f"{owner}.{key}" == session_id else f"{owner}.{key}"

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
            return await self._resume(hello.resume, hello.config)
        if self.draining:
            raise Refused("draining", "the server is going down; try another one, or again in a minute")
        config, facts = hello.config, self.facts
        if config.delay_steps is not None:
            checked_delay(config.delay_steps, facts)
        source = None if config.source is None else self._sources.check(config.source)
        session = Session(
            config, facts, self.limits, self.counters, self._decoders, replica=self._replica, now=self._now
        )
        self._join(session)
        self._sessions[session.key] = session
        if source is not None:
            self._sources.watch(source, session, facts, self._decoders)
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

    @property
    def keeps_streams(self) -> bool:
        """Whether what streams are is written from time to time, for the case that this server is lost."""
        return self._handover is not None and self._handover.snapshot_s > 0

    @property
    def _replica(self) -> str:
        return "" if self._handover is None else self._handover.replica

    def _join(self, session: Session, saved: SavedStream | None = None) -> None:
        """Gives a session its stream of the pool; Refused where there is no room."""
        # (Pools that do not move streams need not know of it.)
        begun = {} if saved is None else {"begun": saved.stream}
        try:
            handle = self._pool.join(
                delay_steps=session.delay_steps,
                pad_bias=session.pad_bias,
                live=session.config.mode == "live",
                speaking=session.speaking,
                on_output=lambda output: self._to_loop.call(session.on_output, output),
                on_end=lambda: self._to_loop.call(session.on_stream_ended),
                **begun,
            )
        except PoolFull as full:
            reason = _REASONS[full.reason]
            self.counters.refused.labels(reason).inc()
            raise Refused(reason, str(full)) from full
        session.begin(handle, self._to_loop.call)

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

    async def _resume(self, resume: Resume, config: StreamConfig) -> Opened:
        session = self._sessions.get(_key(resume.session))
        if self._handover is not None and (session is None or session.has_moved):
            session = await self._take_over(resume, self._handover)
        if session is None or not hmac.compare_digest(session.token.encode(), resume.token.encode()):
            raise self._unknown()
        if resume.last_seq > max(session.words.seq, session.replay_seq):
            raise ProtocolError(
                "bad_message", f"`last_seq` is {resume.last_seq}, but only {session.words.seq} words were said"
            )
        self.counters.resumed.inc()
        _log.info("session resumed", extra={"session": session.id, "last_seq": resume.last_seq})
        missed = session.words.missed(resume.last_seq)
        return Opened(session, True, resume.last_seq + missed, missed, config)

    def _unknown(self) -> Refused:
        self.counters.refused.labels("unknown_session").inc()
        return Refused("unknown_session", "there is no such session (any more); begin a new one")

    # Streams that move.

    async def _take_over(self, resume: Resume, handover: Handover) -> Session | None:
        """The session of a stream that was elsewhere, which goes on here; None where there is none.

        Raises:
          Refused: this replica goes down or is full, or what was left of the stream cannot be gone on with.
        """
        key = _key(resume.session)
        if self.draining:
            raise Refused("draining", "this replica goes down: come back, and another one goes on with the stream")
        lock = self._taking.setdefault(key, asyncio.Lock())
        async with lock:
            session = self._sessions.get(key)
            if session is not None and session.ended is None:
                return session  # (another connection was sooner)
            try:
                return await self._take_saved(key, resume, handover)
            except OSError as error:
                _log.error("the folder of streams failed", extra={"session": resume.session, "error": repr(error)})
                raise Refused("draining", "the folder of streams cannot be read or written: come back") from error

    async def _take_saved(self, key: str, resume: Resume, handover: Handover) -> Session | None:
        found, saved = await self._read(resume, handover)
        if found is None or saved is None:
            return None
        if not found.left:
            # Its replica may live, and have it as it is now.
            generation = found.generation
            await handover.run(handover.want, key)
            until_s = self._now() + OWNER_S
            while found is not None and not found.left and self._now() < until_s:
                await asyncio.sleep(_LOOK_S)
                found = await handover.run(handover.find, key)
                if found is not None and found.generation != generation:
                    raise Refused("draining", _TAKEN_SOONER)
            found, saved = await self._read(resume, handover)
            if found is None or saved is None:
                return None
        session = Session(
            saved.config,
            self.facts,
            self.limits,
            self.counters,
            self._decoders,
            replica=handover.replica,
            saved=saved,
            token=resume.token,
            now=self._now,
        )
        session.generation = found.generation + 1
        session.kept_s = self._now() - random.random() * handover.snapshot_s
        self._join(session, saved)
        how = "left" if found.left else "kept"
        self.counters.moved_in.labels(how).inc()  # (it is in the pool, and its end will be counted)
        try:
            if not await handover.run(handover.claim, found):
                raise Refused("draining", _TAKEN_SOONER)
            # (Says to all where it is now, whatever of it is kept later.)
            await handover.run(handover.write, saved, session.generation, left=False)
        except BaseException:
            session.end("superseded", "this stream is not this replica's")
            raise
        if not found.left:
            session.restored(resume.last_seq, resume.has_after_s)
        self._sessions[key] = session
        _log.info("session moved in", extra={"session": session.id, "how": how, "words": saved.seq})
        return session

    async def _find(self, session_id: str, handover: Handover) -> Found | None:
        """The newest file of a stream."""
        key = _key(session_id)
        elsewhere = session_id not in (key, f"{handover.replica}.{key}")
        until_s = self._now() + (_SEEN_S if elsewhere else 0.0)
        while (found := await handover.run(handover.find, key)) is None and self._now() < until_s:
            await asyncio.sleep(_LOOK_S)
        return found

    async def _read(self, resume: Resume, handover: Handover) -> tuple[Found | None, SavedStream | None]:
        """The newest file of a stream, and what is in it; nothing where there is none."""
        for _ in range(3):
            found = await self._find(resume.session, handover)
            if found is None:
                return None, None
            try:
                saved = await handover.run(handover.read, found)
            except FileNotFoundError:
                continue  # claimed, or written anew, since it was looked for
            except CannotGoOn as error:
                self.counters.refused.labels("cannot_go_on").inc()
                _log.warning("a stream cannot go on", extra={"file": found.path.name, "error": str(error)})
                raise Refused("cannot_go_on", str(error)) from error
            if not hmac.compare_digest(saved.token_sha256, token_sha256(resume.token)):
                raise self._unknown()
            return found, saved
        raise Refused("draining", "this stream is just being moved: come back")

    async def _hand_over(self, session: Session, handover: Handover) -> None:
        """Leaves a stream to other replicas and sends its client there; one that cannot be left ends."""
        if not session.can_move:
            return  # (another request was sooner)
        try:
            async with asyncio.timeout(_HAND_OVER_S):
                saved = await session.save(leave=True)
                if saved is None:
                    return  # it has ended meanwhile
                left = await handover.run(handover.write, saved, session.generation, left=True)
            if not left:
                session.end("superseded", "another replica has taken this stream over")
            elif session.moved():
                self.counters.moved_out.inc()
        except (TimeoutError, OSError) as error:
            _log.error("a stream could not be handed over", extra={"session": session.id, "error": repr(error)})
            if self.draining:
                session.end("shutdown", "the server is going down, and could not hand the stream over")
            else:
                session.end("internal", "the stream could not be handed over to the server to which its client came")

    async def _hand_over_all(self, handover: Handover) -> None:
        await asyncio.gather(*(self._hand_over(session, handover) for session in self if session.can_move))

    async def _give_wanted(self, handover: Handover) -> None:
        """Hands over the streams whose clients came to another replica."""
        swept_s = self._now()
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                for key in await handover.run(handover.wanted):
                    session = self._sessions.get(key)
                    # (One that takes long holds up no other.)
                    if session is not None and session.can_move:
                        self._begin(self._hand_over(session, handover), self._moving)
                if self._now() - swept_s > _KEPT_S / 2:
                    swept_s = self._now()
                    ours = [(session.key, session.generation) for session in self if session.ended is None]
                    await handover.run(handover.touch, ours)
                    await handover.run(handover.sweep, self.limits.resume_s + handover.snapshot_s + _KEPT_S)
            except OSError as error:
                _log.error("the folder of streams failed", extra={"error": repr(error)})

    async def _snapshots(self, handover: Handover) -> None:
        """Keeps what streams are, in case this replica is lost: soon after they begin, and again and again."""
        while True:
            for session in self:
                due = self._now() - session.kept_s >= handover.snapshot_s
                if due and session.can_move and session.key not in self._keeping:
                    # Those that began together are not kept together for ever.
                    early_s = random.random() * handover.snapshot_s if session.kept_s == -math.inf else 0.0
                    session.kept_s = self._now() - early_s
                    self._keeping.add(session.key)
                    # (One that waits for its client's sound to be taken holds up no other.)
                    self._begin(self._keep(session, handover), self._moving)
            await asyncio.sleep(min(_SWEEP_S, handover.snapshot_s / 2))

    def _begin(self, work: Coroutine[Any, Any, None], running: set[asyncio.Task[None]]) -> None:
        """Has something done beside everything else; it is in `running` meanwhile."""
        task = asyncio.create_task(work)
        running.add(task)
        task.add_done_callback(running.discard)

    async def _keep(self, session: Session, handover: Handover) -> None:
        try:
            async with asyncio.timeout(_HAND_OVER_S):
                saved = await session.save(turn=self._copying)
            if saved is None or not session.can_move:
                return
            if not await handover.run(handover.write, saved, session.generation, left=False):
                session.end("superseded", "another replica has taken this stream over")
            elif session.ended is not None:
                await handover.run(handover.forget, session.key, session.generation)
            else:
                session.notify(kept_reply(saved.received_s))
        except (TimeoutError, OSError) as error:
            self.counters.unkept.inc()
            _log.error("a stream could not be kept", extra={"session": session.id, "error": repr(error)})
        finally:
            self._keeping.discard(session.key)

    # Connections.

    def attach(self, session: Session) -> Attachment:
        """Gives the session to a connection; one that has it is superseded."""
        before = self._attached.get(session.key)
        if before is not None:
            before.superseded.set()
        session.detached_s = None
        session.last_activity_s = self._now()
        attachment = self._attached[session.key] = Attachment(session)
        self.counters.connections.inc()
        return attachment

    def detach(self, attachment: Attachment) -> None:
        """The connection is gone; the session waits for it to come back."""
        self.counters.connections.dec()
        session = attachment.session
        if self._attached.get(session.key) is attachment:
            del self._attached[session.key]
            session.detached_s = self._now()

    def forget(self, session: Session) -> None:
        """Lets go of a session of which its client has everything."""
        if session.ended is not None and not session.readers:
            self._drop(session)

    async def drain(self, drain_s: float) -> None:
        """Takes no new streams, lets those that have a client end by themselves for so long, then ends them.

        Where there are other replicas, streams are handed over to them soon after it has stopped to be ready.
        """
        self.draining = True
        _log.info("draining", extra={"sessions": len(self), "drain_s": drain_s})
        deadline_s = self._now() + drain_s
        for session in self:
            if self._handover is None and session.key not in self._attached:
                session.end("shutdown", "the server is going down", drain=True)
            if self._handover is None or not session.can_move:
                session.notify(error_reply("draining", f"the server goes down in at most {drain_s:g} s", fatal=False))
        if self._handover is not None:
            # What stands before the replicas sees that this one is not ready.
            await asyncio.sleep(self._handover.notice_s)
            deadline_s += self._handover.notice_s
            await self._hand_over_all(self._handover)
        while len(self) and self._now() < deadline_s:
            if self._handover is not None:
                # (Some were just being taken over when it began to drain.)
                await self._hand_over_all(self._handover)
            await asyncio.sleep(min(0.05, max(0.0, deadline_s - self._now())))
        for session in self:
            session.end("shutdown", "the server is going down", drain=True)
        await asyncio.gather(*(session.stopped() for session in self))

    async def close(self) -> None:
        """Ends whatever still runs."""
        self.draining = True
        if self._forgetting:
            await asyncio.wait(self._forgetting, timeout=_FORGET_S)
        workers = (*self._workers, *self._moving, *self._forgetting)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
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
            elif now_s - session.ended_s > limits.resume_s and session.key not in self._attached:
                self._drop(session)

    def _drop(self, session: Session) -> None:
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
        if self._handover is not None and session.ended is not None and not session.has_moved:
            self._begin(self._forget(session, self._handover), self._forgetting)

    async def _forget(self, session: Session, handover: Handover) -> None:
        try:
            await handover.run(handover.forget, session.key, session.generation)
        except OSError as error:
            _log.error("a stream's file was not removed", extra={"session": session.id, "error": repr(error)})


def _key(session_id: str) -> str:
    """What names a session on whichever replica."""
    return session_id.rpartition(".")[2]


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
