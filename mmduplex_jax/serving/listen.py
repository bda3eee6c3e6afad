"""Listens, serves until a signal or an event stops it, and goes down gracefully, or at least in time."""

import asyncio
import dataclasses
import gc
import logging
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from aiohttp import web
from aiohttp.web import RequestHandler

from mmduplex_jax.commentator import Commentator, pool_of
from mmduplex_jax.serving.access import Access, is_loopback
from mmduplex_jax.serving.app import SESSIONS, SILENT, build_app
from mmduplex_jax.serving.decoding import DecoderProcesses
from mmduplex_jax.serving.monitoring import flush_logs
from mmduplex_jax.serving.protocol import Limits
from mmduplex_jax.serving.sources import Sources
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import StreamPool

_log = logging.getLogger(__name__)
# A connection without a request is let go after this long.
_KEEPALIVE_S = 30.0
# Nor is one held whose first request does not come in this time; whoever sends it byte by byte is no browser.
_FIRST_REQUEST_S = 10.0
# Handlers that still run after the drain have this long.
_SHUTDOWN_S = 3.0
_BACKLOG = 512
# After the drain, all that is left to do has this long before the process ends regardless.
_EXIT_S = 8.0
# How long a thread keeps Python's lock while others want it.
_SWITCH_S = 0.0005


class _Refusing(asyncio.Protocol):
    """Hangs up: there are too many connections."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def _hang_up(protocol: RequestHandler, silent: set[RequestHandler]) -> None:
    """Ends a connection that is still silent."""
    if protocol in silent:
        silent.discard(protocol)
        if protocol.transport is not None:
            protocol.transport.abort()


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """How a model is served.

    Attributes:
      host, port: where it listens; port 0 takes any that is free.
      access: who may use it.
      sources: what it may watch by itself.
      limits: bounds for every client.
      policy: what gives way under overload.
      max_sessions: streams at once; every step computes all of them.
      drain_s: for streams that run when it is stopped.
      ice_servers: STUN or TURN addresses for WebRTC.
    """

    host: str
    port: int
    access: Access
    sources: Sources
    limits: Limits
    policy: DeadlinePolicy
    tls: ssl.SSLContext | None = None
    max_sessions: int = 8
    drain_s: float = 10.0
    ice_servers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_sessions < 1:
            raise ValueError(f"--max_sessions must be at least 1, got {self.max_sessions}")
        if not 0 <= self.port < 2**16:
            raise ValueError(f"--port must be 0 to 65535, got {self.port}")
        if not self.drain_s >= 0:
            raise ValueError(f"--drain_s must not be negative, got {self.drain_s}")


def run_server(model: Commentator, settings: ServerSettings, decoders: DecoderProcesses) -> None:
    """Compiles the model's step and serves until a signal.

    Raises:
      ValueError: limits that the policy does not allow.
      OSError: it cannot listen there.
    """
    waiting_max = 1 + model.clock.ticks_in(settings.policy.lag_max_s)
    if settings.limits.file_ticks > waiting_max:
        raise ValueError(
            f"--limit_file_ticks={settings.limits.file_ticks} is over the {waiting_max} that "
            f"--lag_max_s={settings.policy.lag_max_s:g} lets wait"
        )
    pool = pool_of(model, settings.max_sessions, settings.policy)
    _log.info("compiled", extra={"model": model.name, "compile_s": round(pool.statistics().compile_s, 2)})
    pool.start()
    # What is loaded by now stays: looking through it for garbage would stop every stream for a tenth of a second.
    gc.collect()
    gc.freeze()
    # A step's thread takes Python's lock many times, and may wait so long for each while the loop is kept busy.
    sys.setswitchinterval(_SWITCH_S)
    try:
        asyncio.run(_serve_pool(pool, model, settings, decoders))
    finally:
        pool.stop(0.0)


async def _serve_pool(
    pool: StreamPool, model: Commentator, settings: ServerSettings, decoders: DecoderProcesses
) -> None:
    app = build_app(
        pool,
        model,
        settings.access,
        limits=settings.limits,
        sources=settings.sources,
        decoders=decoders,
        ice_servers=settings.ice_servers,
    )

    def on_listening(port: int) -> None:
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{'http' if settings.tls is None else 'https'}://{shown}:{port}/"
        print(f"{model.name} on {address}" + ("#token=TOKEN" if settings.access.token else ""), flush=True)
        _log.info("listening", extra={"address": address, "max_sessions": settings.max_sessions})
        if settings.tls is None and not is_loopback(settings.host):
            _log.warning("no TLS: the token can be read on the way, and browsers give the page no camera")

    await serve(
        app,
        settings.host,
        settings.port,
        stop=_stop_at_signals(settings.drain_s),
        drain_s=settings.drain_s,
        connections_max=settings.limits.connections,
        tls=settings.tls,
        on_listening=on_listening,
    )


async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    stop: asyncio.Event,
    drain_s: float,
    connections_max: int,
    tls: ssl.SSLContext | None = None,
    first_request_s: float = _FIRST_REQUEST_S,
    on_listening: Callable[[int], None] = lambda port: None,
) -> None:
    """Serves until `stop` is set. Then it takes no new streams, gives those that run `drain_s` to end, and ends them.

    While it drains it listens on: health is answered, and who was cut off may come back for the last words.

    Args:
      app: from `build_app`.
      host, port: where; port 0 takes any that is free.
      stop: ends it.
      drain_s: for the streams that run.
      connections_max: open sockets; more are hung up on.
      first_request_s: from a connection to the end of its first request's head.
      on_listening: called with the port once it can be reached.

    Raises:
      OSError: it cannot listen there.
    """
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=_KEEPALIVE_S, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        http = runner.server
        assert http is not None
        loop, silent = asyncio.get_running_loop(), app[SILENT]

        def accept() -> asyncio.Protocol:
            if len(http.connections) >= connections_max:
                return _Refusing()
            protocol = http()
            silent.add(protocol)
            loop.call_later(first_request_s, _hang_up, protocol, silent)
            return protocol

        handshake_s = None if tls is None else first_request_s
        listening = await loop.create_server(
            accept, host, port, ssl=tls, backlog=_BACKLOG, ssl_handshake_timeout=handshake_s
        )
        try:
            on_listening(listening.sockets[0].getsockname()[1])
            await stop.wait()
            await app[SESSIONS].drain(drain_s)
        finally:
            listening.close()
    finally:
        await runner.cleanup()


def _stop_at_signals(drain_s: float) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; after the drain the process ends, whatever hangs. On a running loop."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        # The second signal is the system's own again: it ends the process.
        for other in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(other)
        _log.info("stopping", extra={"signal": signal.Signals(number).name})
        overdue = threading.Timer(drain_s + _EXIT_S, exit_now, (1,))
        overdue.daemon = True
        overdue.start()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def exit_now(code: int) -> NoReturn:
    """Ends the process without waiting for threads: one may hang in a read, or in a device."""
    flush_logs()
    sys.stdout.flush()
    os._exit(code)


def tls_context(cert: str | None, key: str | None) -> ssl.SSLContext | None:
    """The certificate and its key, from PEM files; None for plain http.

    Raises:
      ValueError: one of them is missing, or they do not belong together.
      OSError: a file cannot be read.
    """
    if (cert is None) != (key is None):
        raise ValueError("--tls_cert and --tls_key go together")
    if cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert, key)
    except ssl.SSLError as error:
        raise ValueError(f"--tls_cert={cert} and --tls_key={key} are no pair: {error}") from error
    return context
