"""An arena for video commentary: people compare two commentators on the same video, side by side, names hidden.

  DIR/videos/STEM.mp4             (.webm, .m4v, .mov, .ogv)
  DIR/contestants/NAME/STEM.vtt   what NAME said about it (.srt; .json of `launch.commentate --json`)
  DIR/categories.json             optional: {"STEM": "football"}
  DIR/live/NAME/                  is made: what --live=NAME=ADDRESS said about each video, recorded once at its own pace
  DIR/votes.sqlite3               is made: every ballot and vote

Words appear when they were said, never earlier, and nobody can vote before both were shown to the end. /leaderboard has
ratings with intervals. docs/arena.md says how pairs are chosen, what the numbers mean, and whose votes do not count.

As with launch.serve, on any address but loopback it wants a token (--token_file, or MMDUPLEX_TOKEN in the environment);
voters open https://HOST:PORT/#token=TOKEN.

Examples:
  python -m launch.arena --root=arena --port=8090
  python -m launch.arena --root=arena --live=mine=http://127.0.0.1:8080 --live=theirs=wss://example.org:8443
  python -m launch.arena --root=arena --export=votes.parquet
  python -m launch.arena --root=arena --backup=monday.sqlite3
      also while it serves
  python -m launch.arena --root=arena --json=-
      the leaderboard as JSON
"""

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mmduplex_jax.arena.board import leaderboard
from mmduplex_jax.arena.coordination import exclude_flagged, flag_groups
from mmduplex_jax.arena.export import export_votes
from mmduplex_jax.arena.live import Recorder, live_servers
from mmduplex_jax.arena.rules import ArenaLimits, review
from mmduplex_jax.arena.server import build_arena
from mmduplex_jax.arena.votes import VoteStore
from mmduplex_jax.client import TOKEN_VARIABLE, read_token
from mmduplex_jax.serving.access import Access
from mmduplex_jax.serving.limits import add_limit_flags, limits_of
from mmduplex_jax.serving.monitoring import logs
from mmduplex_jax.serving.sockets import add_listen_flags, exit_now, listen, shown_address, stop_at_signals, tls_context
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, listed, parse_args, write_json

_log = logging.getLogger(__name__)
# Votes are on the disk when they are answered; nothing else has to end.
_DRAIN_S = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, serves or writes; errors go to stderr as one line. 0 stopped, 2 wrong flags or files, 130 interrupted."""
    args = parse_args(flags(), argv)
    try:
        if not args.only_check_args:
            with logs(args.log):
                _run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"arena: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def flags() -> argparse.ArgumentParser:
    """The command line."""
    flags = command_parser("launch.arena", __doc__, compiles=False)
    add = flags.add_argument
    add("--root", metavar="DIR", type=Path, required=True, help="videos and commentaries, as above")
    add("--votes", metavar="FILE", type=Path, help="database of votes (default: DIR/votes.sqlite3)")
    text = "a contestant that is a launch.serve (http://, https://, ws://, wss://); may be given again"
    add("--live", metavar="NAME=ADDRESS", action="append", default=[], help=text)
    text = "the token of a --live server is the file's first line; may be given again"
    add("--live_token_file", metavar="NAME=FILE", action="append", default=[], help=text)
    add("--backup", metavar="FILE", type=Path, help="instead of serving: copy the database, also while it serves")
    add("--export", metavar="FILE.jsonl|.parquet", type=Path, help="instead of serving: write every vote")
    add("--review", action="store_true", help="instead of serving: judge every voter anew by the rules against abuse")
    text = "instead of serving: the votes of voters who push one contestant together count no more; --review undoes it"
    add("--exclude_flagged", action="store_true", help=text)
    add_json_flag(flags, "instead of serving: write the leaderboard as JSON")
    text = "commentaries that say one of them tell whose they are and are left out (default: names of contestants)"
    add("--identity_words", metavar="WORD,...", type=listed(none=True), help=text)
    add_listen_flags(flags, token_variable=TOKEN_VARIABLE, port=8090, log="text")
    add("--only_check_args", action="store_true", help="read the flags and stop")
    add_limit_flags(flags, ArenaLimits, "limits for everybody")
    return flags


def _run(args: argparse.Namespace) -> None:
    path = args.votes or args.root / "votes.sqlite3"
    reads = args.backup or args.export or args.review or args.exclude_flagged or args.json is not None
    if reads and not path.exists():
        raise FileNotFoundError(f"{path}: there are no votes yet")
    if not reads:
        asyncio.run(_serve(args, path))
        return
    with contextlib.closing(VoteStore(path)) as store:
        if args.backup:
            store.backup(args.backup)
            print(f"copied to {args.backup}")
        if args.export:
            print(f"{export_votes(store, args.export)} votes written to {args.export}")
        if args.review:
            reasons = ", ".join(f"{number} {why}" for why, number in review(store).items())
            print(f"voters whose votes do not count: {reasons or 'none'}", file=sys.stderr)
        if args.review or args.exclude_flagged or args.json is not None:
            for group in flag_groups(store):
                print(group.said, file=sys.stderr)
        if args.exclude_flagged:
            excluded = exclude_flagged(store)
            print(f"{excluded} flagged voters do not count from now on (--review undoes it)", file=sys.stderr)
        if args.json is not None:
            recorder = Recorder(args.root, (), args.identity_words)
            write_json(args.json, leaderboard(store, recorder.entries().contestants, live=recorder.reports()))


async def _serve(args: argparse.Namespace, path: Path) -> None:
    limits = limits_of(args, ArenaLimits)
    access = Access(args.host, read_token(args.token_file), args.allow_origins)
    tls = tls_context(args.tls_cert, args.tls_key)
    recorder = Recorder(args.root, live_servers(args.live, args.live_token_file), args.identity_words)
    recorder.entries()  # (what is wrong with the folder is said before any server is asked)
    await recorder.check()
    entries = recorder.entries()
    for note in entries.notes:
        _log.warning(note)

    def on_listening(port: int) -> None:
        address = shown_address(args.host, port, tls=tls is not None) + ("#token=TOKEN" if access.token else "")
        count = f"{len(entries.videos)} videos, {len(entries.contestants)} contestants"
        print(f"{count} on {address}", flush=True)

    # (Last: a folder that is no arena gets no database.)
    with contextlib.closing(VoteStore(path)) as store:
        await listen(
            build_arena(entries, store, access, limits, secure=tls is not None, live=recorder),
            args.host,
            args.port,
            stop=stop_at_signals(_DRAIN_S),
            connections_max=limits.connections,
            tls=tls,
            on_listening=on_listening,
        )


if __name__ == "__main__":
    exit_now(main())
