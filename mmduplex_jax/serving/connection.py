"""One client's connection: hello, then pictures and orders in, words out, until either side ends it.

And a stream's words for players and pages that only read: server-sent events, and WebVTT that grows.
"""

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol

from aiohttp import web

from mmduplex_jax.serving.limits import Bucket
from mmduplex_jax.serving.protocol import (
    CLOSE_CODES,
    PAD_BIAS_MAX,
    VERSION,
    Change,
    Hello,
    Message,
    Order,
    ProtocolError,
    Reply,
    Word,
    bye_reply,
    encode_reply,
    error_reply,
    event_reply,
    parse_frame,
    parse_text,
    sound_bytes,
)
from mmduplex_jax.serving.session import Session, public_facts
from mmduplex_jax.serving.sessions import Attachment, Opened, Refused, Sessions
from mmduplex_jax.serving.sound import SoundEncoder, SoundQueue
from mmduplex_jax.serving.words import WordsGone, timed
from mmduplex_jax.streaming.captions import CueGrouper, vtt_cue
from mmduplex_jax.streaming.sentences import PAUSE_S

_log = logging.getLogger(__name__)
_MESSAGES_BURST_S = 2.0
# So many times as many pictures are read as may be decoded.
_FLOOD = 4
# What a client must know of the limits to keep within them.
_PUBLISHED_LIMITS = ("message_bytes", "pixels", "frame_rate_hz", "idle_s", "resume_s", "replay_words")


class WireGone(Exception):
    """The other side cannot be reached any more."""


class Wire(Protocol):
    """What carries messages: a WebSocket or a data channel.

    Attributes:
      track: where sound goes that is not sent as messages; None where it has no track for it.
    """

    track: SoundQueue | None

    async def receive(self) -> str | bytes:
        """The next message; WireGone when there will be none, ProtocolError for one that is too large."""

    async def send(self, message: str | bytes) -> None:
        """Returns when the message is on its way and the next may be given; WireGone."""

    async def close(self, code: int, reason: str) -> None:
        """Ends it."""


async def converse(wire: Wire, sessions: Sessions, *, on_session: Any = None) -> None:
    """Serves a client until one side ends it; closes the wire.

    Args:
      on_session: called with the session when there is one (to bring a track's pictures to it).
    """
    reason, message = "protocol", ""
    try:
        opened = await _accept_hello(wire, sessions)
        if on_session is not None:
            on_session(opened.session)
        reason, message = await _Connection(wire, sessions, opened).run()
    except ProtocolError as error:
        message = str(error)
        sessions.counters.refused.labels(error.code).inc()
        await _send_last(wire, sessions, error_reply(error.code, message, fatal=True))
    except Refused as refusal:
        reason, message = refusal.reason, str(refusal)
        await _send_last(wire, sessions, error_reply(reason, message, fatal=True))
    except (WireGone, TimeoutError):
        return
    finally:
        await wire.close(CLOSE_CODES.get(reason, 1000), message[:100])


async def _accept_hello(wire: Wire, sessions: Sessions) -> Opened:
    try:
        async with asyncio.timeout(sessions.limits.hello_s):
            hello = _read(await wire.receive(), sessions)
    except TimeoutError:
        raise ProtocolError("hello_missing", f"no hello came within {sessions.limits.hello_s:g} s") from None
    if not isinstance(hello, Hello):
        raise ProtocolError("hello_missing", "the first message must be a hello")
    return await sessions.open(hello, has_track=wire.track is not None)


def _read(data: str | bytes, sessions: Sessions) -> Message:
    if isinstance(data, bytes):
        raise ProtocolError("hello_missing", "the first message must be a hello, got a picture")
    if len(data) > sessions.limits.text_bytes:
        raise ProtocolError("bad_message", f"a text message has at most {sessions.limits.text_bytes} characters")
    return parse_text(data)


async def _send_last(wire: Wire, sessions: Sessions, reply: Reply) -> None:
    try:
        async with asyncio.timeout(sessions.limits.send_s):
            await wire.send(encode_reply(reply))
    except (WireGone, TimeoutError):
        _log.debug("the client was gone before its last message", extra={"reply": reply["type"]})


class _Connection:
    """A connection that has a session."""

    def __init__(self, wire: Wire, sessions: Sessions, opened: Opened):
        self._wire, self._sessions, self._limits = wire, sessions, sessions.limits
        self._session: Session = opened.session
        self._opened, self._seq = opened, opened.seq
        self._sound: SoundQueue | None = None
        self._encoder: SoundEncoder | None = None
        sound = opened.config.sound
        if sound == "track":
            self._sound = wire.track
        elif sound is not None:
            facts = sessions.facts
            assert facts.sample_rate_hz is not None
            self._sound = SoundQueue(facts.sample_rate_hz, facts.clock, self._limits.sound_s)
            self._encoder = SoundEncoder(sound, facts.sample_rate_hz, facts.clock)
        self._messages = Bucket(self._limits.messages_hz, self._limits.messages_hz * _MESSAGES_BURST_S)

    async def run(self) -> tuple[str, str]:
        """Serves until the end; returns its reason and message. The session is detached or ended by then."""
        session = self._session
        attachment = self._sessions.attach(session)
        session.hear(self._sound if self._opened.config.hear else None)
        reading = asyncio.create_task(self._receive(), name=f"receive {session.id}")
        sending = asyncio.create_task(self._send_replies(attachment), name=f"send {session.id}")
        try:
            await asyncio.wait([reading, sending], return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and not sending.done() and (error := reading.exception()) is not None:
                if isinstance(error, ProtocolError):
                    # The session ends with it, and its last words and the cause are still sent.
                    session.notify(error_reply(error.code, str(error), fatal=True))
                    self._sessions.counters.refused.labels(error.code).inc()
                    session.end("protocol", str(error))
                else:
                    raise error
            return await sending
        finally:
            for task in (reading, sending):
                task.cancel()
            await asyncio.gather(reading, sending, return_exceptions=True)
            session.stop_hearing(self._sound)
            self._sessions.detach(attachment)

    async def _receive(self) -> None:
        session = self._session
        while True:
            data = await self._wire.receive()
            if isinstance(data, bytes):
                if not await session.put(parse_frame(data)):
                    # Whoever sends too fast waits: a flood costs little more than a camera.
                    await asyncio.sleep(1.0 / (_FLOOD * self._limits.frame_rate_hz))
                continue
            if not self._messages.take():
                raise ProtocolError("too_many_messages", f"more than {self._limits.messages_hz:g} messages a second")
            match _read(data, self._sessions):
                case Change() as change:
                    if change.hear and self._sound is None:
                        raise ProtocolError("bad_config", "`hear`: this connection's hello asked for no `sound`")
                    if change.hear is not None:
                        session.hear(self._sound if change.hear else None)
                    session.change(change)
                case Order(order):
                    await session.order(order)
                case Hello():
                    raise ProtocolError("bad_message", "a stream begins with one hello; this is the second")

    async def _send_replies(self, attachment: Attachment) -> tuple[str, str]:
        session = self._session
        superseded = asyncio.create_task(attachment.superseded.wait())
        try:
            await self._send(self._hello())
            while True:
                changes = session.changes
                # Statuses first out of the session and last onto the wire: their words and sound are sent before them.
                replies, ended = session.take_replies(), session.ended
                try:
                    await self._send_words()
                    for _ in range(self._sound.waiting if self._sound is not None else 0):
                        await self._send_sound()
                        # Words that came meanwhile go before the next piece.
                        await self._send_words()
                except WordsGone as gone:
                    message = f"{gone.missed} words went by that this client did not read in time"
                    await self._bye("too_slow", message)
                    session.end("too_slow", message)
                    return "too_slow", message
                for reply in replies:
                    await self._send(reply)
                if ended is not None:
                    await self._bye(*ended)
                    self._sessions.forget(session)
                    return ended
                news = asyncio.create_task(session.news(changes))
                try:
                    await asyncio.wait([news, superseded], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    news.cancel()
                if superseded.done():
                    message = "another connection has taken this stream over"
                    await self._bye("superseded", message)
                    return "superseded", message
        finally:
            superseded.cancel()

    async def _bye(self, reason: str, message: str) -> None:
        resumable = reason == "moved"
        await self._send(bye_reply(reason, message, seq=self._session.words.seq, resumable=resumable))

    async def _send_words(self) -> None:
        """Sends the words that were said since; WordsGone where some are no longer kept."""
        for word in self._session.words.after(self._seq):
            await self._send(event_reply(word))
            self._seq = word.seq

    async def _send_sound(self) -> None:
        """Sends the oldest piece of sound that waits, where it goes by messages."""
        if self._encoder is None or self._sound is None:
            return
        queued = self._session.take_sound(self._sound)
        if queued is None:
            return
        # (Opus takes a millisecond, in which others' words need not wait.)
        if self._opened.config.sound == "opus":
            sound = await asyncio.to_thread(self._encoder.encode, queued)
        else:
            sound = self._encoder.encode(queued)
        await self._send_message(sound_bytes(sound))

    async def _send(self, reply: Reply) -> None:
        await self._send_message(encode_reply(reply))

    async def _send_message(self, message: str | bytes) -> None:
        try:
            async with asyncio.timeout(self._limits.send_s):
                await self._wire.send(message)
        except TimeoutError:
            self._sessions.counters.refused.labels("slow_reader").inc()
            raise WireGone(f"the client did not read for {self._limits.send_s:g} s") from None

    def _hello(self) -> Reply:
        session, facts, opened = self._session, self._sessions.facts, self._opened
        limits = dataclasses.asdict(self._limits)
        return {
            "type": "hello",
            "version": VERSION,
            "session": session.id,
            "token": session.token,
            "feed": session.feed,
            "resumed": opened.resumed,
            "missed_words": opened.missed_words,
            "seq": session.words.seq,
            "t_s": session.received_s,
            "resets": session.resets,
            "wants_keyframe": session.wants_keyframe,
            "keeps_streams": self._sessions.keeps_streams,
            **public_facts(facts),
            "mode": session.config.mode,
            "fit": session.fit,
            "delay_steps": {"now": session.delay_steps, "min": facts.delays.least, "max": facts.delays.most},
            "sound": opened.config.sound,
            "pad_bias": {"now": session.pad_bias, "min": -PAD_BIAS_MAX, "max": PAD_BIAS_MAX},
            "limits": {name: limits[name] for name in _PUBLISHED_LIMITS},
        }


EVENTS_TYPE, CAPTIONS_TYPE = "text/event-stream; charset=utf-8", "text/vtt; charset=utf-8"
# A reader hears something at least so often, so that what lies between keeps the connection.
_KEEP_ALIVE_S = 15.0


class Gap(int):
    """So many words were missed by a reader that was too slow."""


class Scene(NamedTuple):
    """The stream is in the scene that began at `scene_s` (`Word.scene_s`), of which nothing has been said yet."""

    scene_s: float | None


async def read_words(session: Session, seq: int, while_s: float) -> AsyncIterator[Word | Gap | Scene | None]:
    """The words after number `seq` as they are said, to the end of the stream; None where `while_s` brought nothing."""
    told: Scene | None = None

    def unsaid() -> Scene | None:
        scene = Scene(session.scene_s)
        # (Of a stream that goes on from what was kept, words that the reader has are said again.)
        return scene if session.words.seq == seq and scene not in (told, Scene(session.words.scene_s)) else None

    while True:
        changes, ended = session.changes, session.ended is not None
        try:
            words = session.words.after(seq)
        except WordsGone as gone:
            seq += gone.missed
            yield Gap(gone.missed)
            continue
        for word in words:
            seq, told = word.seq, None
            yield word
        if ended:
            return
        if scene := unsaid():
            told = scene
            yield scene
            continue
        try:
            async with asyncio.timeout(while_s):
                while session.words.seq <= seq and unsaid() is None and session.ended is None:
                    changes = await session.news(changes)
        except TimeoutError:
            yield None


async def server_sent_events(request: web.Request, session: Session, send_s: float) -> web.StreamResponse:
    """Answers with `word` events, whose ids are the words' numbers, and a `bye`; `Last-Event-ID` goes on after one."""
    last = request.headers.get("Last-Event-ID", "0")
    seq = int(last) if last.isascii() and last.isdecimal() and len(last) < 16 else 0
    response = web.StreamResponse(headers={"Content-Type": EVENTS_TYPE})
    await response.prepare(request)
    await _write(response, ": words of a stream\n\n", send_s)
    async for word in read_words(session, min(seq, max(session.words.seq, session.replay_seq)), _KEEP_ALIVE_S):
        if word is None:
            text = ": still here\n\n"
        elif isinstance(word, Gap):
            text = f"event: gap\ndata: {json.dumps({'missed_words': int(word)})}\n\n"
        elif isinstance(word, Scene):
            text = f"event: scene\ndata: {json.dumps(word._asdict())}\n\n"
        else:
            text = f"id: {word.seq}\nevent: word\ndata: {encode_reply(event_reply(word))}\n\n"
        await _write(response, text, send_s)
    assert session.ended is not None
    if session.has_moved:
        # A reader that comes back is sent to where it is.
        await response.write_eof()
        return response
    data = encode_reply(bye_reply(*session.ended, seq=session.words.seq))
    await _write(response, f"event: bye\ndata: {data}\n\n", send_s)
    await response.write_eof()
    return response


async def live_captions(request: web.Request, session: Session, send_s: float) -> web.StreamResponse:
    """Answers with WebVTT: the captions so far, then each as it is complete. With `?follow=0` only those so far."""
    response = web.StreamResponse(headers={"Content-Type": CAPTIONS_TYPE})
    await response.prepare(request)
    await _write(response, "WEBVTT\n", send_s)
    grouper = CueGrouper()
    rest = lambda: grouper.advance(session.now_s, session.scene_s) + grouper.finish()
    if request.query.get("follow") == "0":
        words = session.words.after(session.words.missed(0))
        cues = [cue for word in words for cue in grouper.add(timed(word))]
        await _write(response, "".join(vtt_cue(cue) for cue in [*cues, *rest()]), send_s)
    else:
        quiet = 0
        async for word in read_words(session, 0, PAUSE_S):
            quiet = quiet + 1 if word is None else 0
            if word is None or isinstance(word, Scene):
                text = "".join(vtt_cue(cue) for cue in grouper.advance(session.now_s, session.scene_s))
                # A comment; a player passes over it.
                text += "\nNOTE still here\n" if quiet and quiet % round(_KEEP_ALIVE_S / PAUSE_S) == 0 else ""
            elif isinstance(word, Gap):
                text = f"\nNOTE {int(word)} earlier words are no longer kept\n"
            else:
                text = "".join(vtt_cue(cue) for cue in grouper.add(timed(word)))
            await _write(response, text, send_s)
        await _write(response, "".join(vtt_cue(cue) for cue in rest()), send_s)
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, text: str, send_s: float) -> None:
    if text:
        async with asyncio.timeout(send_s):
            await response.write(text.encode())
