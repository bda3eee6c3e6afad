"""Serve a model to browsers and programs: video in, words out, many streams at once.

    python -m launch.serve                                       the shipped model on http://127.0.0.1:8080
    python -m launch.serve --checkpoint=runs/quickstart --max_sessions=32        a model that you trained
    python -m launch.serve --host=0.0.0.0 --token_file=token --tls_cert=cert.pem --tls_key=key.pem       for others
    python -m launch.serve --allow_sources=rtsp://camera.local/,videos           it may watch these by itself

Open the address in a browser: the page shows a camera, a screen, a file or the built-in world with the words as they
are said. Programs use `mmduplex_jax.client` or speak the protocol, docs/protocol.md; `launch.commentate --server=URL`
does.

Whoever can reach the server can use it. So on any address but loopback it wants a token (--token_file, or
MMDUPLEX_TOKEN in the environment) and does not start without one. Programs show it as `Authorization: Bearer TOKEN`, a
browser opens https://HOST:PORT/#token=TOKEN. Without TLS the token can be read on the way, and browsers give no camera
to the page.

/healthz is 200 while the model runs, /readyz while new streams are taken, /metrics is for Prometheus (with the token).
At SIGTERM or Ctrl-C it takes no new streams, gives those that run --drain_s to end, says goodbye and exits with 0; a
second signal ends it at once.
"""

import argparse
import asyncio
import dataclasses
import gc
import logging
import re
import signal
import ssl
import sys
from collections.abc import Sequence

from launch.server_token import TOKEN_VARIABLE, read_token
from mmduplex_jax.commentator import Speaker, random_speaker, trained_speaker
from mmduplex_jax.serving.access import Access, is_loopback
from mmduplex_jax.serving.app import build_app
from mmduplex_jax.serving.json_logs import configure_logs
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.listen import serve
from mmduplex_jax.serving.seats import ModelFacts
from mmduplex_jax.serving.sources import Sources
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import StreamPool

_log = logging.getLogger(__name__)
_SWITCH_S = 0.0005


def parser() -> argparse.ArgumentParser:
    """The flags, with a help that teaches."""
    flags = argparse.ArgumentParser(
        prog="python -m launch.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--checkpoint", metavar="DIR", help="a training's workdir or a portable checkpoint (default: the shipped one)")
    add("--random_init", metavar="CONFIG.py", help="instead of a checkpoint: random parameters of this config")
    add("--seed", type=int, default=0, help="of --random_init (default: %(default)s)")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8080, help="0 takes any that is free (default: %(default)s)")
    add("--max_sessions", type=int, default=8, help="streams at once; every step computes all of them (default: 8)")
    add("--token_file", metavar="FILE", help=f"its first line is the token; else {TOKEN_VARIABLE} is read")
    add("--tls_cert", metavar="PEM", help="certificate, for https")
    add("--tls_key", metavar="PEM", help="its key")
    add("--allow_origins", metavar="ORIGIN,...", type=_listed, default=[], help="other pages that may use the server")
    add(
        "--allow_sources",
        metavar="PREFIX,...",
        type=_listed,
        default=[],
        help="files, folders and addresses that the server may watch by itself (default: none)",
    )
    add("--ice_servers", metavar="URL,...", type=_listed, default=[], help="STUN or TURN, for WebRTC (default: none)")
    add("--decode_threads", type=int, default=2, help="threads that decode clients' pictures (default: %(default)s)")
    add("--drain_s", type=float, default=10.0, help="for streams that run when it is told to stop (default: 10)")
    policy = DeadlinePolicy()
    for name, what in _POLICY_FLAGS.items():
        add(f"--{name}", type=float, default=getattr(policy, name), help=f"{what} (default: %(default)s)")
    add("--log", choices=("json", "text"), default="json", help="how the log is written, to stderr (default: json)")
    add("--only_check_args", action="store_true", help="read the flags and stop")
    limits = flags.add_argument_group("limits for every client")
    told = dict(re.findall(r"^      (\w+): ((?:.|\n        )+)$", Limits.__doc__ or "", re.MULTILINE))
    for field in dataclasses.fields(Limits):
        kind = int if isinstance(field.default, int) else float
        what = " ".join(told[field.name].split()).rstrip(".")
        limits.add_argument(f"--limit_{field.name}", type=kind, default=field.default, help=f"{what} (%(default)s)")
    return flags


# What of the policy under overload is asked for on the command line; `streaming/deadlines.py` has the rest.
_POLICY_FLAGS = {
    "deadline_s": "words later than this after their picture are counted as missed",
    "lag_max_s": "pictures that have waited this long are dropped when newer ones wait",
    "gather_s": "how long a step waits for more streams: longer serves more, shorter answers sooner",
}


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def limits_of(args: argparse.Namespace) -> Limits:
    """The limits that the flags say."""
    return Limits(**{field.name: getattr(args, f"limit_{field.name}") for field in dataclasses.fields(Limits)})


def access_of(args: argparse.Namespace) -> Access:
    """Who may use the server; ValueError where that would be everybody."""
    return Access(args.host, read_token(args.token_file), args.allow_origins)


def tls_of(args: argparse.Namespace) -> ssl.SSLContext | None:
    """The certificate; None for plain http."""
    if (args.tls_cert is None) != (args.tls_key is None):
        raise ValueError("--tls_cert and --tls_key go together")
    if args.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(args.tls_cert, args.tls_key)
    except ssl.SSLError as error:
        raise ValueError(f"--tls_cert={args.tls_cert} and --tls_key={args.tls_key} are no pair: {error}") from error
    return context


def policy_of(args: argparse.Namespace) -> DeadlinePolicy:
    """What gives way under overload, as the flags say."""
    return DeadlinePolicy(**{name: getattr(args, name) for name in _POLICY_FLAGS})


def check(args: argparse.Namespace) -> None:
    """Raises ValueError or OSError for flags that cannot be served with."""
    if args.checkpoint is not None and args.random_init is not None:
        raise ValueError("--checkpoint and --random_init are two models: give one of them")
    for name in ("max_sessions", "decode_threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if not 0 <= args.port < 2**16:
        raise ValueError(f"--port must be 0 to 65535, got {args.port}")
    if not args.drain_s >= 0:
        raise ValueError(f"--drain_s must not be negative, got {args.drain_s}")
    access_of(args), tls_of(args), limits_of(args), policy_of(args), Sources(args.allow_sources)


def facts_of(speaker: Speaker) -> ModelFacts:
    """What clients are told of a model."""
    return ModelFacts(
        name=speaker.name,
        clock=speaker.clock,
        frame_px=speaker.frame_px,
        tokens_per_s_max=speaker.tokens_per_s_max,
        delay_min=speaker.delays.least,
        delay_max=speaker.delays.most,
        delay_steps=speaker.delays.usual,
    )


def run(args: argparse.Namespace) -> int:
    """Serves until a signal; returns the exit code."""
    check(args)
    speaker = random_speaker(args.random_init, args.seed) if args.random_init else trained_speaker(args.checkpoint)
    waiting_max = 1 + speaker.clock.ticks_in(args.lag_max_s)
    if args.limit_file_ticks > waiting_max:
        raise ValueError(
            f"--limit_file_ticks={args.limit_file_ticks} is over the {waiting_max} that --lag_max_s={args.lag_max_s:g} "
            "lets wait"
        )
    pool = StreamPool(
        speaker.live,
        speaker.params,
        speaker.tokenizer,
        speaker.clock,
        speaker.frame_px,
        slots=args.max_sessions,
        policy=policy_of(args),
        tokens_per_s_max=speaker.tokens_per_s_max,
        tokens_per_s_min=speaker.tokens_per_s_min,
    )
    _log.info("compiled", extra={"model": speaker.name, "compile_s": round(pool.statistics().compile_s, 2)})
    pool.start()
    # What is loaded by now stays: looking through it for garbage would stop every stream for a tenth of a second.
    gc.collect()
    gc.freeze()
    # A step's thread takes Python's lock many times, and may wait so long for each while strangers keep the loop busy.
    sys.setswitchinterval(_SWITCH_S)
    try:
        asyncio.run(_serve(args, speaker, pool))
    finally:
        pool.stop(0.0)
    return 0


async def _serve(args: argparse.Namespace, speaker: Speaker, pool: StreamPool) -> None:
    access, tls, limits = access_of(args), tls_of(args), limits_of(args)
    app = build_app(
        pool,
        facts_of(speaker),
        access,
        limits=limits,
        sources=Sources(args.allow_sources),
        decode_threads=args.decode_threads,
        ice_servers=tuple(args.ice_servers),
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told_to_stop(number: int) -> None:
        # The second signal is the system's own again: it ends the process.
        for other in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(other)
        _log.info("stopping", extra={"signal": signal.Signals(number).name})
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop, number)

    def on_listening(port: int) -> None:
        shown = f"[{args.host}]" if ":" in args.host else args.host
        address = f"{'http' if tls is None else 'https'}://{shown}:{port}/"
        print(f"{speaker.name} on {address}" + ("#token=TOKEN" if access.token else ""), flush=True)
        _log.info("listening", extra={"address": address, "max_sessions": args.max_sessions})
        if tls is None and not is_loopback(args.host):
            _log.warning("no TLS: the token can be read on the way, and browsers give the page no camera")

    await serve(
        app,
        args.host,
        args.port,
        stop=stop,
        drain_s=args.drain_s,
        connections_max=limits.connections,
        tls=tls,
        on_listening=on_listening,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, serves; errors go to stderr as one line. 0 stopped, 2 wrong flags, model or address."""
    args = parser().parse_args(argv)
    configure_logs(args.log)
    try:
        if args.only_check_args:
            check(args)
            return 0
        return run(args)
    except (ValueError, OSError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
