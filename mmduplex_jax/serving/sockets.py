"""Sockets of all our servers: how many, how long they may be silent, TLS, and the signals that stop a server."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import NoReturn

from aiohttp import web
from aiohttp.web import RequestHandler

from mmduplex_jax.serving.guard import SILENT
from mmduplex_jax.serving.monitoring import flush_logs

_log = logging.getLogger(__name__)
# A connection without a request is let go after this long.
_KEEPALIVE_S = 30.0
# Nor is one held whose first request does not come in this time; whoever sends it byte by byte is no browser.
FIRST_REQUEST_S = 10.0
# What is sent and not taken at all for so long is given up, with its connection. (A stream's words wait less long.)
UNREAD_S = 60.0
# Handlers that still run after the drain have this long.
_SHUTDOWN_S = 3.0
_BACKLOG = 512
# After the drain, all that is left to do has this long before the process ends regardless.
EXIT_S = 8.0


def add_listen_flags(flags: argparse.ArgumentParser, *, token_variable: str, port: int, log: str) -> None:
    """The flags of every server: where it listens, who may come in, how the log is written.

    Args:
      flags: the command's.
      token_variable: of the environment, read where there is no file of the token.
      port, log: their defaults.
    """
    add = flags.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=port, help="0 takes any that is free (default: %(default)s)")
    add("--token_file", metavar="FILE", help=f"its first line is the token; else {token_variable} is read")
    add("--tls_cert", metavar="PEM", help="certificate, for https")
    add("--tls_key", metavar="PEM", help="its key")
    text = "other pages that may use the server (default: none)"
    add("--allow_origins", metavar="ORIGIN,...", type=_origins, default=[], help=text)
    text = "how the log is written, to stderr (default: %(default)s)"
    add("--log", choices=("json", "text"), default=log, help=text)


def _origins(text: str) -> list[str]:
    return [origin.strip() for origin in text.split(",") if origin.strip()]


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


async def _nothing_to_drain() -> None:
    pass


async def listen(
    app: web.Application,
    host: str,
    port: int,
    *,
    stop: asyncio.Event,
    connections_max: int,
    drain: Callable[[], Awaitable[None]] = _nothing_to_drain,
    tls: ssl.SSLContext | None = None,
    first_request_s: float = FIRST_REQUEST_S,
    unread_s: float = UNREAD_S,
    on_listening: Callable[[int], None] = lambda port: None,
) -> None:
    """Serves until `stop` is set, then until `drain` is done; meanwhile it listens on.

    Args:
      app: from `guarded_app`.
      host, port: where; port 0 takes any that is free.
      stop: ends it.
      connections_max: open sockets; more are hung up on.
      drain: gives what runs time to end.
      tls: for https.
      first_request_s: from a connection to the end of its first request's head.
      unread_s: how long a client may take nothing of what is sent to it (where the system can tell: Linux).
      on_listening: called with the port once it can be reached.

    Raises:
      OSError: it cannot listen there.
      ValueError: there is no such port.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"--port={port}: ports are numbers from 0 to {2**16 - 1}")
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
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            for one in listening.sockets:  # (what is accepted there inherits it)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * unread_s))
        try:
            on_listening(listening.sockets[0].getsockname()[1])
            await stop.wait()
            await drain()
        finally:
            listening.close()
    finally:
        await runner.cleanup()


def shown_address(host: str, port: int, *, tls: bool) -> str:
    """Where a browser finds a server."""
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}/"


def stop_at_signals(drain_s: float) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; after the drain the process ends, whatever hangs. On a running loop."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        # The second signal is the system's own again: it ends the process.
        for other in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(other)
        _log.info("stopping", extra={"signal": signal.Signals(number).name})
        overdue = threading.Timer(drain_s + EXIT_S, exit_now, (1,))
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
