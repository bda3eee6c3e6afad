"""Serve a model to browsers and programs: video in, words out, many streams at once."""

import argparse
import socket
import sys
from collections.abc import Sequence
from typing import Any

from mmduplex_jax.client import TOKEN_VARIABLE, read_token
from mmduplex_jax.commentator import load, random_commentator
from mmduplex_jax.serving.access import Access
from mmduplex_jax.serving.app import HANG_S
from mmduplex_jax.serving.decoding import DecoderProcesses
from mmduplex_jax.serving.limits import Limits, add_limit_flags, limits_of
from mmduplex_jax.serving.listen import ServerSettings, run_server
from mmduplex_jax.serving.monitoring import logs
from mmduplex_jax.serving.sockets import add_listen_flags, exit_now, tls_context
from mmduplex_jax.serving.sources import Sources
from mmduplex_jax.stages.config_file import command_parser, listed, parse_args
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.weights.codec import CODEC_HELP
from mmduplex_jax.weights.trained import CHECKPOINT_HELP, DEFAULT, add_weights_flag

_DESCRIPTION = """\
Serve a model to browsers and programs: video in, words out, many streams at once.

Open the address in a browser: the page shows a camera, a screen, a file or the built-in world with the words as they
are said. Programs use `mmduplex_jax.client` or speak the protocol, docs/protocol.md; `launch.commentate --server=URL`
does.

Whoever can reach the server can use it. So on any address but loopback it wants a token (--token_file, or
MMDUPLEX_TOKEN in the environment) and does not start without one. Programs show it as `Authorization: Bearer TOKEN`, a
browser opens https://HOST:PORT/#token=TOKEN. Without TLS the token can be read on the way, and browsers give no camera
to the page.

Where several servers of one model stand behind a load balancer, give all of them the same --handover_dir and each a
--replica of its own: a server that is stopped hands its streams over to the others, and streams of one that is lost go
on from what was kept of them (docs/live.md, "Several servers").

/healthz is 200 while the model runs and its steps come back (--hang_s), /readyz while new streams are taken, /roomz
while there is room for one, /metrics is for Prometheus (with the token).
At SIGTERM or Ctrl-C it takes no new streams, gives those that run --drain_s to end, says goodbye and exits with 0; a
second signal ends it at once.

examples:
  python -m launch.serve
      the model of real cameras on http://127.0.0.1:8080
  python -m launch.serve --checkpoint=runs/quickstart --max_sessions=32
      a model that you trained
  python -m launch.serve --checkpoint=runs/speak --codec=runs/codec
      a model that speaks, and is heard
  python -m launch.serve --host=0.0.0.0 --token_file=token \\
      --tls_cert=cert.pem --tls_key=key.pem
      for others
  python -m launch.serve --allow_sources=rtsp://camera.local/,videos
      it may watch these by itself
"""
# Of the policy under overload, what is a flag; `streaming/deadlines.py` has the rest.
_POLICY_FLAGS = {
    "deadline_s": "words later than this after their picture are counted as missed",
    "lag_max_s": "pictures that have waited this long are dropped when newer ones wait",
    "gather_s": "how long a step waits for more streams: longer serves more, shorter answers sooner",
}


def settings_of(args: argparse.Namespace) -> ServerSettings:
    """What the flags say; ValueError or OSError for what cannot be served with."""
    if args.checkpoint is not None and args.random_init is not None:
        raise ValueError("--checkpoint and --random_init are two models: give one of them")
    return ServerSettings(
        host=args.host,
        port=args.port,
        access=Access(args.host, read_token(args.token_file), args.allow_origins),
        sources=Sources(args.allow_sources),
        limits=limits_of(args, Limits),
        policy=DeadlinePolicy(**{name: getattr(args, name) for name in _POLICY_FLAGS}),
        tls=tls_context(args.tls_cert, args.tls_key),
        max_sessions=args.max_sessions,
        drain_s=args.drain_s,
        ice_servers=tuple(args.ice_servers),
        hang_s=args.hang_s,
        handover_dir=args.handover_dir,
        replica=args.replica,
        snapshot_s=args.snapshot_s,
        handover_notice_s=args.handover_notice_s,
        operator_token=None if args.operator_token_file is None else read_token(args.operator_token_file),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, serves; errors go to stderr as one line. 0 stopped, 2 wrong flags, model or address, 130 interrupted."""
    flags = command_parser("launch.serve", _DESCRIPTION)
    add = flags.add_argument
    some: dict[str, Any] = {"type": listed(none=True), "default": []}
    add("--checkpoint", metavar="NAME|DIR", help=f"{CHECKPOINT_HELP} (default: {DEFAULT})")
    add("--codec", metavar="DIR", help=CODEC_HELP)
    add_weights_flag(flags)
    add("--random_init", metavar="CONFIG.py", help="instead of a checkpoint: random parameters of this config")
    add("--seed", type=int, default=0, help="of --random_init (default: %(default)s)")
    add_listen_flags(flags, token_variable=TOKEN_VARIABLE, port=8080, log="json")
    add("--max_sessions", type=int, default=8, help="streams at once; every step computes all of them (default: 8)")
    text = "files, folders and addresses that the server may watch by itself (default: none)"
    add("--allow_sources", metavar="PREFIX,...", **some, help=text)
    add("--ice_servers", metavar="URL,...", **some, help="STUN or TURN, for WebRTC (default: none)")
    add("--drain_s", type=float, default=10.0, help="for streams that run when the server is stopped (default: 10)")
    text = "a step that takes longer makes /healthz 503 (default: %(default)s)"
    add("--hang_s", type=float, default=HANG_S, help=text)
    text = "a folder that all servers of the model see: streams move to another one when one is stopped or lost"
    add("--handover_dir", metavar="DIR", help=text)
    text = "this server's name among them (default: the host's; of two on one host give each its own)"
    add("--replica", default=socket.gethostname().partition(".")[0], help=text)
    text = "streams are kept there so often, for the case that this server is lost; 0: never (default: %(default)s)"
    add("--snapshot_s", type=float, default=5.0, help=text)
    text = "from not being ready to handing streams over: longer than a load balancer's check (default: %(default)s)"
    add("--handover_notice_s", type=float, default=2.0, help=text)
    add("--operator_token_file", metavar="FILE", help="who shows its first line may POST /v1/drain (default: nobody)")
    policy = DeadlinePolicy()
    for name, text in _POLICY_FLAGS.items():
        add(f"--{name}", type=float, default=getattr(policy, name), help=f"{text} (default: %(default)s)")
    add("--only_check_args", action="store_true", help="read the flags and stop")
    add_limit_flags(flags, Limits, "limits for every client")
    args = parse_args(flags, argv)
    try:
        settings = settings_of(args)
        if not args.only_check_args:
            # (Its processes load their libraries while the model is loaded and compiled.)
            with logs(args.log), DecoderProcesses(settings.limits.decode_s) as decoders:
                if args.random_init is not None:
                    model = random_commentator(args.random_init, args.seed, args.codec, args.weights)
                else:
                    model = load(args.checkpoint, codec=args.codec, weights=args.weights)
                run_server(model, settings, decoders)
    except (ValueError, OSError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    exit_now(main())
