"""Listens, serves until it is told to stop, and goes down gracefully."""

import asyncio
import ssl
from collections.abc import Callable

from aiohttp import web
from aiohttp.web import RequestHandler

from mmduplex_jax.serving.app import SESSIONS, SILENT

# A connection without a request is let go after this long.
_KEEPALIVE_S = 30.0
# Nor is one held whose first request does not come in this time; whoever sends it byte by byte is no browser.
_FIRST_REQUEST_S = 10.0
# Handlers that still run after the drain have this long.
_SHUTDOWN_S = 3.0
_BACKLOG = 512


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

    While it drains it listens on: health and readiness are told, and who was cut off may come back for the last words.

    Args:
      app: from `build_app`.
      host, port: where; port 0 takes any that is free.
      stop: ends it.
      drain_s: for the streams that run.
      connections_max: open sockets; more are hung up on.
      tls: certificate and key, for https.
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
