"""Listens, serves until a signal or an event stops it, and goes down gracefully, or at least in time."""

import asyncio
import dataclasses
import gc
import logging
import ssl
import sys
from collections.abc import Callable

from aiohttp import web

from mmduplex_jax.commentator import Commentator, pool_of
from mmduplex_jax.serving.access import TOKEN_MIN, Access, is_loopback
from mmduplex_jax.serving.app import HANG_S, SESSIONS, build_app
from mmduplex_jax.serving.decoding import DecoderProcesses
from mmduplex_jax.serving.handover import REPLICA, Handover
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.sockets import FIRST_REQUEST_S, UNREAD_S, listen, shown_address, stop_at_signals
from mmduplex_jax.serving.sources import Sources
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import StreamPool

_log = logging.getLogger(__name__)
# Each copy of a stream takes its row off the device and writes a file.
SNAPSHOT_MIN_S = 0.1
# How long a thread keeps Python's lock while others want it.
_SWITCH_S = 0.0005


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
      hang_s: a step that takes longer makes `/healthz` say so.
      handover_dir: where streams are left for other replicas of the model; None: it is the only one.
      replica: its name among them.
      snapshot_s, handover_notice_s: as of `Handover`.
      operator_token: whoever shows it may drain the server by a request.
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
    hang_s: float = HANG_S
    handover_dir: str | None = None
    replica: str = ""
    snapshot_s: float = 5.0
    handover_notice_s: float = 2.0
    operator_token: str | None = None

    def __post_init__(self) -> None:
        if self.handover_dir is not None and not REPLICA.fullmatch(self.replica):
            raise ValueError(f"--replica={self.replica}: a name has 1 to 63 letters, digits, - and _")
        if self.snapshot_s != 0 and not self.snapshot_s >= SNAPSHOT_MIN_S:
            raise ValueError(f"--snapshot_s must be 0 or at least {SNAPSHOT_MIN_S}, got {self.snapshot_s}")
        if not self.handover_notice_s >= 0:
            raise ValueError(f"--handover_notice_s must not be negative, got {self.handover_notice_s}")
        if self.operator_token is not None and len(self.operator_token) < TOKEN_MIN:
            raise ValueError(f"the operator's token must have at least {TOKEN_MIN} characters")
        if self.operator_token is not None and self.operator_token == self.access.token:
            raise ValueError("the operator's token is that of the clients, who may not drain the server: make another")
        if self.max_sessions < 1:
            raise ValueError(f"--max_sessions must be at least 1, got {self.max_sessions}")
        if not 0 <= self.port < 2**16:
            raise ValueError(f"--port must be 0 to 65535, got {self.port}")
        if not self.drain_s >= 0:
            raise ValueError(f"--drain_s must not be negative, got {self.drain_s}")
        if not self.hang_s > 0:
            raise ValueError(f"--hang_s must be more than 0, got {self.hang_s}")


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
    pool = pool_of(model, settings.max_sessions, settings.policy, movable=settings.handover_dir is not None)
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
    handover = None
    if settings.handover_dir is not None:
        handover = Handover(
            settings.handover_dir,
            settings.replica,
            model,
            pool.row_layout,
            token=settings.access.token,
            snapshot_s=settings.snapshot_s,
            notice_s=settings.handover_notice_s,
        )
    app = build_app(
        pool,
        model,
        settings.access,
        limits=settings.limits,
        sources=settings.sources,
        decoders=decoders,
        ice_servers=settings.ice_servers,
        hang_s=settings.hang_s,
        handover=handover,
        operator_token=settings.operator_token,
        drain_s=settings.drain_s,
    )

    def on_listening(port: int) -> None:
        address = shown_address(settings.host, port, tls=settings.tls is not None)
        print(f"{model.name} on {address}" + ("#token=TOKEN" if settings.access.token else ""), flush=True)
        _log.info("listening", extra={"address": address, "max_sessions": settings.max_sessions})
        if settings.tls is None and not is_loopback(settings.host):
            _log.warning("no TLS: the token can be read on the way, and browsers give the page no camera")

    try:
        await serve(
            app,
            settings.host,
            settings.port,
            stop=stop_at_signals(settings.drain_s + (settings.handover_notice_s if handover is not None else 0.0)),
            drain_s=settings.drain_s,
            connections_max=settings.limits.connections,
            tls=settings.tls,
            on_listening=on_listening,
        )
    finally:
        if handover is not None:
            handover.close()


async def serve(
    app: web.Application,
    host: str,
    port: int,
    *,
    stop: asyncio.Event,
    drain_s: float,
    connections_max: int,
    tls: ssl.SSLContext | None = None,
    first_request_s: float = FIRST_REQUEST_S,
    unread_s: float = UNREAD_S,
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
      unread_s: how long a client may take nothing of what is sent to it.
      on_listening: called with the port once it can be reached.

    Raises:
      OSError: it cannot listen there.
    """
    await listen(
        app,
        host,
        port,
        stop=stop,
        connections_max=connections_max,
        drain=lambda: app[SESSIONS].drain(drain_s),
        tls=tls,
        first_request_s=first_request_s,
        unread_s=unread_s,
        on_listening=on_listening,
    )
