"""What is in a data set? Numbers, and a page to look at, before hours of a GPU are spent on it.

    python -m launch.inspect data/plain
    python -m launch.inspect data/mine --html=mine.html --json=mine.json --clips=200
    python -m launch.inspect data/mine --config=configs/duplex_300m.py --clips=1000

Counts, hours, bytes and rejected inputs are of the whole data set. The rest is measured on --clips of its clips, the
same ones each time: lengths, words a second, how exactly words are timed, languages, licences, motion, and the video
tokens that a model would spend. Those need no trained model, but its config: give the one that you will train. Frames
larger than it takes are shrunk, as in training. Without --config, tokens are counted for the quick start.

--html writes one page that needs no network: clips as a row of pictures, below them the words where they are spoken and
the tokens of every tick. Where it is known where things are (narrated clips, the world's look `real`), they stand in
boxes, and each event has a picture.

Exit codes: 0 done; 1 the data cannot be read; 2 flags that do not fit; 130 Ctrl-C.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.manifest import ShardError
from mmduplex_jax.stages.config_file import add_config_flag, add_json_flag, command_parser, run_main, write_json

_DEFAULT_CONFIG = "configs/quickstart.py"


def inspect(args: argparse.Namespace) -> None:
    """Measures, prints and writes.

    Raises:
      ShardError: the folder is unfinished or damaged, or holds no shards.
      OSError: a file cannot be read or written.
      ValueError: the config that was given does not fit the data.
    """
    if args.clips < 1 or args.shown < 0:
        raise ValueError(f"--clips must be at least 1 and --shown at least 0, got {args.clips} and {args.shown}")
    if args.only_check_args:
        return
    print(f"measuring up to {args.clips} clips of {args.directory}", file=sys.stderr, flush=True)
    # JAX takes seconds to import.
    from configs import quickstart
    from mmduplex_jax.evals import dataset_report
    from mmduplex_jax.pages.dataset import PageClip, dataset_page, page_clip

    shown: list[PageClip] = []

    def show(record, facts):
        if args.html and len(shown) < args.shown:
            shown.append(page_clip(record, facts))

    default = args.config is None
    report = dataset_report.inspect(
        args.directory,
        quickstart.get_config() if default else args.config,
        _DEFAULT_CONFIG if default else args.config_file,
        must_fit=not default,
        clips=args.clips,
        seed=args.seed,
        on_clip=show,
    )
    write_json(args.json, report)
    if args.html:
        dataset_page(report, shown).save(args.html)
    if args.json == "-":
        return
    print(f"{args.directory}\n{dataset_report.format_report(report)}")
    if default and report["measured"] and report["measured"]["tokens"]:
        print("\ntokens are those of the quick start: pass --config=FILE.py for another experiment's")
    if args.json:
        print(f"\nall numbers: {args.json}")
    if args.html:
        print(f"\npage: {args.html}")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("launch.inspect", __doc__, compiles=False)
    add = flags.add_argument
    add("directory", metavar="DIR", type=Path, help="a folder that launch.prepare wrote")
    add_config_flag(flags, required=False, help=f"whose tokens are counted (default: {_DEFAULT_CONFIG})")
    add("--clips", type=int, default=64, help="clips that are measured (default: %(default)s)")
    add("--seed", type=int, default=0, help="which clips (default: %(default)s)")
    add("--html", metavar="FILE", help="write a page of the numbers and some clips")
    add("--shown", type=int, default=12, help="clips on the page, at most (default: %(default)s)")
    add_json_flag(flags)
    add("--only_check_args", action="store_true", help="read the flags and stop")
    return run_main(flags, argv, inspect, {OSError: 1, ShardError: 1, ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
