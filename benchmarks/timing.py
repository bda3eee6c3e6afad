"""What each timing metric gives speakers of known worth, and who fools it: the tables of docs/benchmarks.md.

    python -m benchmarks.timing                                     the commentator of the built-in world, 40 clips
    python -m benchmarks.timing --reference=half1.json              any commentary: a file, or a folder of them
    python -m benchmarks.timing --clips=400 --json=speakers.json

The last two columns name who fools a metric. `as good as the oracle`: speakers that see nothing, or come 3 s late, and
score as well as the reference itself. `ahead of 3 s late`: speakers that see nothing (silent, always talking, shuffled)
and score as well as one who says everything right, 3 s late.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import plan_clip
from mmduplex_jax.evals.benchmarks.timing import load_items
from mmduplex_jax.evals.report import markdown_table
from mmduplex_jax.evals.timing.files import utterances_of
from mmduplex_jax.evals.timing.scores import timing_rows, timing_scores, won_by
from mmduplex_jax.evals.timing.speakers import speakers
from mmduplex_jax.evals.timing.utterances import Commentary, cut_words
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show

_SEED = 0
LATE, BLIND = "oracle_late_3s", ("silent", "always_talking", "shuffled")


def world_commentary(clips: int) -> tuple[list[Commentary], list[float]]:
    """What the built-in world's commentator says of its first clips, and how long these are, in seconds."""
    config = WorldConfig()
    return [cut_words(plan_clip(config, _SEED, index)[1]) for index in range(clips)], [config.clip_s] * clips


def read_reference(path: Path) -> tuple[list[Commentary], list[float]]:
    """What is said in files, and until when."""
    items = load_items(path)
    return [utterances_of(item.facts["reference"], item.key) for item in items], [
        item.duration_s or 0.0 for item in items
    ]


def markdown(scores: dict[str, dict[str, dict[str, float | None]]]) -> str:
    """A table: a row a figure, a column a speaker, and at the end who fools it."""
    winners, ahead = won_by(scores), won_by(scores, LATE, BLIND)
    head, *rows = timing_rows(scores)
    lines = []
    for row in rows:
        marks = [", ".join(f"**{name}**" for name in found.get(row[0], ())) or "-" for found in (winners, ahead)]
        lines.append([*row, *(marks if row[0] in winners else ["(no score)"] * 2)])
    return markdown_table([*head, "as good as the oracle", "blind, and ahead of 3 s late"], lines)


def tabulate(args: argparse.Namespace) -> None:
    """Scores the speakers and shows the table."""
    if args.clips < 1:
        raise ValueError(f"--clips must be positive, got {args.clips}")
    reference, durations_s = read_reference(Path(args.reference)) if args.reference else world_commentary(args.clips)
    known = speakers(reference, durations_s, _SEED)
    scores = {name: timing_scores(said, reference, durations_s) for name, said in known.items()}
    show(args, scores, markdown(scores))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.timing", __doc__)
    flags.add_argument(
        "--reference", metavar="FILE|DIR", help="a commentary, or a folder of them; without it the world's"
    )
    flags.add_argument("--clips", type=int, default=40, help="of the world (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, tabulate, {ValueError: 1, OSError: 1})


if __name__ == "__main__":
    sys.exit(main())
