"""A stream's words for players and pages that only read: server-sent events, and WebVTT that grows."""

import asyncio
import json
from collections.abc import AsyncIterator

from aiohttp import web

from mmduplex_jax.serving.protocol import Word, bye_reply, encode_reply, event_reply
from mmduplex_jax.serving.session import Session, WordsGone
from mmduplex_jax.streaming.captions import CueGrouper, vtt_cue
from mmduplex_jax.streaming.sentences import PAUSE_S
from mmduplex_jax.word_decoder import TimedWord

EVENTS_TYPE, CAPTIONS_TYPE = "text/event-stream; charset=utf-8", "text/vtt; charset=utf-8"
# A reader hears something at least so often, so that what lies between keeps the connection.
_KEEP_ALIVE_S = 15.0


class Gap(int):
    """So many words were missed by a reader that was too slow."""


async def read_words(session: Session, seq: int, while_s: float) -> AsyncIterator[Word | Gap | None]:
    """The words after number `seq` as they are said, to the end of the stream; None where `while_s` brought nothing."""
    while True:
        changes, ended = session.changes, session.ended is not None
        try:
            words = session.words.after(seq)
        except WordsGone as gone:
            seq += gone.missed
            yield Gap(gone.missed)
            continue
        for word in words:
            seq = word.seq
            yield word
        if ended:
            return
        try:
            async with asyncio.timeout(while_s):
                while session.words.seq == seq and session.ended is None:
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
    async for word in read_words(session, min(seq, session.words.seq), _KEEP_ALIVE_S):
        if word is None:
            text = ": still here\n\n"
        elif isinstance(word, Gap):
            text = f"event: gap\ndata: {json.dumps({'missed_words': int(word)})}\n\n"
        else:
            text = f"id: {word.seq}\nevent: word\ndata: {encode_reply(event_reply(word))}\n\n"
        await _write(response, text, send_s)
    assert session.ended is not None
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
    if request.query.get("follow") == "0":
        words = session.words.after(session.words.missed(0))
        cues = [cue for word in words for cue in grouper.add(TimedWord(*word[1:]))]
        await _write(response, "".join(vtt_cue(cue) for cue in [*cues, *grouper.finish()]), send_s)
    else:
        quiet = 0
        async for word in read_words(session, 0, PAUSE_S):
            quiet = quiet + 1 if word is None else 0
            if word is None:
                text = "".join(vtt_cue(cue) for cue in grouper.advance(session.now_s))
                # A comment; a player passes over it.
                text += "\nNOTE still here\n" if quiet % round(_KEEP_ALIVE_S / PAUSE_S) == 0 else ""
            elif isinstance(word, Gap):
                text = f"\nNOTE {int(word)} earlier words are no longer kept\n"
            else:
                text = "".join(vtt_cue(cue) for cue in grouper.add(TimedWord(*word[1:])))
            await _write(response, text, send_s)
        await _write(response, "".join(vtt_cue(cue) for cue in grouper.finish()), send_s)
    await response.write_eof()
    return response


async def _write(response: web.StreamResponse, text: str, send_s: float) -> None:
    if text:
        async with asyncio.timeout(send_s):
            await response.write(text.encode())
