"""The HTTP application: the stream's WebSocket, WebRTC, feeds of words, the page, health and metrics."""

import asyncio
import contextlib
import hmac
import json
import logging
import socket
from collections.abc import AsyncIterator

from aiohttp import WSMsgType, hdrs, web

from mmduplex_jax.commentator import ModelFacts
from mmduplex_jax.serving.access import Access, bearer
from mmduplex_jax.serving.connection import (
    CAPTIONS_TYPE,
    EVENTS_TYPE,
    WireGone,
    converse,
    live_captions,
    server_sent_events,
)
from mmduplex_jax.serving.decoding import DecoderProcesses
from mmduplex_jax.serving.guard import guarded_app, page, page_file, read_body
from mmduplex_jax.serving.handover import Handover
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.monitoring import CONTENT_TYPE, Counters, PoolCollector
from mmduplex_jax.serving.protocol import SUBPROTOCOL, VERSION, ProtocolError
from mmduplex_jax.serving.session import public_facts
from mmduplex_jax.serving.sessions import Sessions
from mmduplex_jax.serving.sound import SoundQueue
from mmduplex_jax.serving.sources import Sources, WorldClips
from mmduplex_jax.serving.webrtc import Peers, WebRtcRefused
from mmduplex_jax.streaming.pool import StreamPool

_log = logging.getLogger(__name__)
SESSIONS = web.AppKey("sessions", Sessions)
_PEERS = web.AppKey("peers", Peers)
_WORLD = web.AppKey("world", WorldClips)
_POOL = web.AppKey("pool", StreamPool)
_HANG_S = web.AppKey("hang_s", float)
_OPERATOR = web.AppKey("operator", str)
_DRAIN_S = web.AppKey("drain_s", float)
# No step of a model that can be served takes so long; a device that hangs may never answer.
HANG_S = 30.0

# So much that is sent may wait on this machine for a slow client: about a second of sound. What waits in buffers cannot
# give way any more, and words that come after it wait behind it.
_UNSENT_BYTES = 16 << 10
# A client that does not answer a ping within half of this is gone.
_HEARTBEAT_S = 20.0
# The page needs no token: it is public, holds no secret, and asks for the token itself.
_PUBLIC = frozenset({"page", "asset", "healthz", "readyz", "roomz", "feed", "drain"})
# Whoever asks for health may use any name for this machine: the answer is not private, and probes use addresses.
_HEALTH = frozenset({"healthz", "readyz", "roomz"})


def build_app(
    pool: StreamPool,
    facts: ModelFacts,
    access: Access,
    *,
    limits: Limits | None = None,
    sources: Sources | None = None,
    counters: Counters | None = None,
    decoders: DecoderProcesses | None = None,
    ice_servers: tuple[str, ...] = (),
    hang_s: float = HANG_S,
    handover: Handover | None = None,
    operator_token: str | None = None,
    drain_s: float = 0.0,
) -> web.Application:
    """The application, ready to be run.

    Args:
      pool: the model's streams.
      facts: what clients know of it.
      access: who may use it.
      limits: bounds for clients.
      sources: what it may watch by itself; by default nothing.
      counters: where it counts; by default a registry of its own.
      decoders: processes that decode clients' pictures; by default it starts some, and ends them. Others must have been
        started with `limits.decode_s`.
      ice_servers: STUN or TURN addresses for WebRTC; by default none is asked.
      hang_s: a model whose step takes longer is said not to be alive.
      handover: where streams are left for other replicas; the pool must be movable.
      operator_token: whoever shows it may drain the server; None: nobody may by a request.
      drain_s: how long that may take.
    """
    limits, counters = limits or Limits(), counters or Counters()

    def on_refused(status: int) -> None:
        counters.refused.labels("unauthorized" if status == 401 else "forbidden").inc()

    app = guarded_app(access, body_bytes=limits.text_bytes, public=_PUBLIC, always=_HEALTH, on_refused=on_refused)
    app[_POOL], app[_HANG_S], app[_DRAIN_S] = pool, hang_s, drain_s
    if operator_token is not None:
        app[_OPERATOR] = operator_token

    async def run(app: web.Application) -> AsyncIterator[None]:
        counters.registry.register(PoolCollector(pool.statistics))
        decoding = decoders or DecoderProcesses(limits.decode_s)
        counters.decoders_caged.set(decoding.uncaged is None)
        app[SESSIONS] = sessions = Sessions(
            pool, facts, limits, counters, sources or Sources(), decoding, handover=handover
        )
        app[_PEERS] = peers = Peers(sessions, ice_servers)
        app[_WORLD] = world = WorldClips()
        yield
        await sessions.close()
        await peers.close()
        await world.close()
        if decoders is None:
            decoding.close()

    app.cleanup_ctx.append(run)
    add = app.router.add_get
    add("/", _page, name="page")
    add("/static/{name}", _static, name="asset")
    add("/healthz", _healthz, name="healthz")
    add("/readyz", _readyz, name="readyz")
    add("/roomz", _roomz, name="roomz")
    app.router.add_post("/v1/drain", _drain, name="drain")
    add("/metrics", _metrics, name="metrics")
    add("/v1/info", _info, name="info")
    # (Others answer HEAD without a body; this one has nothing to say without a WebSocket.)
    app.router.add_get("/v1/stream", _stream, name="stream", allow_head=False)
    add("/v1/world/{index:[0-9]{1,6}}.mp4", _world, name="world")
    add("/v1/sessions/{session}/{kind:words|captions\\.vtt}", _feed, name="feed")
    app.router.add_post("/v1/webrtc", _webrtc, name="webrtc")
    return app


class _Socket:
    """A WebSocket as a wire."""

    track: SoundQueue | None = None

    def __init__(self, socket: web.WebSocketResponse):
        self._socket = socket

    async def receive(self) -> str | bytes:
        try:
            message = await self._socket.receive()
        except ConnectionError as error:
            raise WireGone(str(error)) from error
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            return message.data
        if message.type is WSMsgType.ERROR:
            raise ProtocolError("bad_message", f"the WebSocket broke: {message.data}")
        raise WireGone("the WebSocket was closed")

    async def send(self, message: str | bytes) -> None:
        if self._socket.closed:
            raise WireGone("the WebSocket is closed")
        try:
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_str(message)
        except (ConnectionError, RuntimeError) as error:
            raise WireGone(str(error)) from error

    async def close(self, code: int, reason: str) -> None:
        with contextlib.suppress(ConnectionError):
            await self._socket.close(code=code, message=reason.encode()[:120], drain=False)


async def _stream(request: web.Request) -> web.StreamResponse:
    sessions = request.app[SESSIONS]
    response = web.WebSocketResponse(
        protocols=(SUBPROTOCOL,),
        heartbeat=_HEARTBEAT_S,
        # Pictures are compressed already, and a small message must not unpack to a large one.
        compress=False,
        max_msg_size=sessions.limits.message_bytes,
        timeout=2.0,
        # Each message waits until the buffers have room for it.
        writer_limit=0,
    )
    await response.prepare(request)
    _bound_unsent(request.transport)
    await converse(_Socket(response), sessions)
    return response


def _bound_unsent(transport: asyncio.Transport | None) -> None:
    """Lets little wait in the buffers of this process and of the system (where that can be bounded: Linux, macOS)."""
    if transport is None:
        return
    transport.set_write_buffer_limits(high=_UNSENT_BYTES)
    connected = transport.get_extra_info("socket")
    if connected is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


async def _webrtc(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, request.app[SESSIONS].limits.hello_s)
    try:
        # JSON is UTF-8, whatever charset the client names: some of Python's take seconds for what one message holds.
        offer = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body must be JSON (UTF-8) with an SDP offer") from None
    try:
        answer = await request.app[_PEERS].answer(offer)
    except WebRtcRefused as refused:
        return web.json_response({"error": str(refused)}, status=refused.status)
    return web.json_response(answer)


async def _feed(request: web.Request) -> web.StreamResponse:
    sessions = request.app[SESSIONS]
    session = sessions.with_feed(request.match_info["session"], request.query.get("key", ""))
    if session is None or session.has_moved:
        return await _feed_elsewhere(request)
    if session.readers >= sessions.limits.feeds:
        raise web.HTTPTooManyRequests(text=f"{session.readers} readers follow this stream already")
    if request.method == hdrs.METH_HEAD:
        kind = EVENTS_TYPE if request.match_info["kind"] == "words" else CAPTIONS_TYPE
        return web.Response(headers={"Content-Type": kind})
    answer = server_sent_events if request.match_info["kind"] == "words" else live_captions
    session.readers += 1
    try:
        return await answer(request, session, sessions.limits.send_s)
    except TimeoutError:
        # A reader that does not read is let go; what was sent of the answer cannot be taken back.
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=408)
    finally:
        session.readers -= 1


async def _feed_elsewhere(request: web.Request) -> web.StreamResponse:
    """Sends a reader to the replica that has its stream now, or has it come back while nobody has."""
    kind, name = request.match_info["kind"], await request.app[SESSIONS].whereabouts(request.match_info["session"])
    if name is None:
        raise web.HTTPNotFound(text="there is no such stream (any more), or the key is another's")
    if name:
        raise web.HTTPTemporaryRedirect(f"../{name}/{kind}?{request.rel_url.raw_query_string}")
    if kind == "words":
        # (At any other status browsers' event sources give up.)
        return web.Response(body=b"retry: 500\n\n", headers={"Content-Type": EVENTS_TYPE})
    raise web.HTTPServiceUnavailable(text="this stream is just being moved: come back")


async def _info(request: web.Request) -> web.StreamResponse:
    sessions = request.app[SESSIONS]
    facts = sessions.facts
    return web.json_response(
        {
            "version": VERSION,
            **public_facts(facts),
            # (Its first reader may wait for a hash of all parameters; nobody's stream does.)
            "fingerprint": await asyncio.to_thread(lambda: facts.fingerprint),
            "delay_steps": {"default": facts.delays.usual, "min": facts.delays.least, "max": facts.delays.most},
            "webrtc": request.app[_PEERS].available,
        }
    )


async def _world(request: web.Request) -> web.StreamResponse:
    path = await request.app[_WORLD].clip(int(request.match_info["index"]))
    # A FileResponse answers ranges, without which browsers do not seek.
    return web.FileResponse(path, headers={"Cache-Control": "private, max-age=3600"})


async def _page(_: web.Request) -> web.StreamResponse:
    return page("mmduplex_jax.serving", "index.html")


async def _static(request: web.Request) -> web.StreamResponse:
    answer = await page_file("mmduplex_jax.serving", request.match_info["name"])
    if answer is None:
        raise web.HTTPNotFound(text="there is no such file")
    return answer


def _trouble(app: web.Application) -> str | None:
    """Why the model gives no words; None where it does."""
    statistics, hang_s = app[_POOL].statistics(), app[_HANG_S]
    if not statistics.running:
        return "the model has stopped"
    if statistics.turn_s > hang_s:
        return (
            f"a step has not come back for {statistics.turn_s:.1f} s (--hang_s={hang_s:g}): the device does not answer"
        )
    return None


async def _healthz(request: web.Request) -> web.StreamResponse:
    trouble = _trouble(request.app)
    if trouble is None:
        return web.json_response({"alive": True})
    return web.json_response({"alive": False, "error": trouble}, status=503)


async def _readyz(request: web.Request) -> web.StreamResponse:
    sessions = request.app[SESSIONS]
    ready = _trouble(request.app) is None and not sessions.draining
    return web.json_response({"ready": ready, "draining": sessions.draining}, status=200 if ready else 503)


async def _roomz(request: web.Request) -> web.StreamResponse:
    """For load balancers: 200 takes streams, 404 lives and takes no new ones (it drains, is full), 503 it is ill."""
    sessions, statistics = request.app[SESSIONS], request.app[_POOL].statistics()
    trouble = _trouble(request.app)
    free = 0 if sessions.draining else statistics.slots - statistics.sessions
    status = 503 if trouble is not None else 200 if free > 0 and statistics.admits else 404
    return web.json_response(
        {"free": free, "slots": statistics.slots, "load": round(statistics.load, 3)}, status=status
    )


async def _drain(request: web.Request) -> web.StreamResponse:
    """Drains as SIGTERM does, for whoever shows the operator's token; answers when it is done. The process goes on."""
    expected, shown = request.app.get(_OPERATOR), bearer(request)
    if expected is None:
        raise web.HTTPNotFound(text="this server is drained by SIGTERM only (--operator_token_file)")
    if shown is None or not hmac.compare_digest(shown.encode(errors="surrogateescape"), expected.encode()):
        raise web.HTTPUnauthorized(text="the operator's token is needed: `Authorization: Bearer TOKEN`")
    await request.app[SESSIONS].drain(request.app[_DRAIN_S])
    return web.json_response({"drained": True})


async def _metrics(request: web.Request) -> web.StreamResponse:
    body = request.app[SESSIONS].counters.text()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})
