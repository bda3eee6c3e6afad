"""How good is a model? It watches clips by itself and is scored on what it says, beside controls of known worth.

(A model of stage `clip` says nothing: it is scored on what it finds, beside chance.)

    python -m launch.evaluate                                    the shipped model on 160 new clips of the plain world
    python -m launch.evaluate --look=rich --json=rich.json       the hard look; all numbers as JSON too
    python -m launch.evaluate --checkpoint=runs/quickstart       a model you trained
    python -m launch.evaluate --data=shards/heldout              on clips you prepared with launch.prepare
    python -m launch.evaluate --tokenizer_control=zeroed         is it the video that it talks about?
    python -m launch.evaluate --pad_bias=1                       quieter: more precision, less recall

How it is scored. A phrase is right if all of it is (what happened, to what, where) and it starts within 2 seconds
after the event, timed by the step at which its first word is known; each event counts once. Precision is the share of
phrases that are right, recall the share of events that are named, F1 their harmonic mean, each over what happens before
the last 2 seconds of a clip. False alarms are phrases that start when nothing happens. Word NLL is teacher-forced,
everything else is not.

How to read the table. `oracle` is the best that can be reached at this delay. A model that sees must be far above
`other_clip` (its own words about another clip) and `always_talking`; both should be near zero, as `oracle_late_3s` is.

Models of stage `clip`: R@k is the share of clips whose text is among the k nearest of all, and the other way round;
texts that say the same are each as right. On the world, zero-shot classification of the piece around every event: each
answer ("red") is described by all phrases of the commentator that say it. `most frequent` is what one answer reaches.

Models of stage `bflow`: in-video event R@1 is the share of phrases whose best window of their video is one that they
are about. Forward or backward: of an event whose words tell (enters, leaves, starts, stops, appears, vanishes), are
they nearer to the clip or to the clip played backwards? Whoever pays no heed to the order of frames has 0.5.

Models of stage `vlm` caption the middle piece of every clip, by --decode: CIDEr (0 to 10; the others 0 to 1), BLEU-4,
ROUGE-L and METEOR against what is said in it. `real` must be far above `shuffled` (another clip's caption), `blank`
(a grey picture's) and `most_frequent` (always the text that most clips have).
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.manifest import ShardError
from data_pipelines.schema import Record
from data_pipelines.world import WorldConfig
from mmduplex_jax.evals.clips import shard_records, world_records
from mmduplex_jax.evals.report import format_table
from mmduplex_jax.models.dual_stream import TOKEN_CONTROLS
from mmduplex_jax.stages.bflow.evaluator import evaluate_bflow, format_bflow_table
from mmduplex_jax.stages.clip.evaluator import evaluate_clip, format_clip_table
from mmduplex_jax.stages.duplex.evaluator import evaluate_duplex
from mmduplex_jax.stages.vlm.captioner import DECODING_FLAGS, add_decoding_flags
from mmduplex_jax.stages.vlm.evaluator import evaluate_vlm, format_vlm_table
from mmduplex_jax.weights.trained import Trained, load_trained

# No config trains on this seed, so its clips are new to every model.
UNSEEN_SEED = 1_000_003


@dataclasses.dataclass(frozen=True)
class Stage:
    """How models of a stage are evaluated.

    Attributes:
      evaluate: `(trained, records, their number, flags) -> report`, JSON values; ValueError for flags that do not fit.
      table: the report as a person reads it.
      flags: those that not every stage knows.
    """

    evaluate: Callable[[Trained, Iterator[Record], int, argparse.Namespace], dict[str, Any]]
    table: Callable[[dict[str, Any]], str]
    flags: tuple[str, ...] = ()


STAGES = {
    "bflow": Stage(evaluate_bflow, format_bflow_table),
    "clip": Stage(evaluate_clip, format_clip_table),
    "duplex": Stage(evaluate_duplex, format_table, ("tokenizer_control", "delay", "pad_bias")),
    "vlm": Stage(evaluate_vlm, format_vlm_table, DECODING_FLAGS),
}


def parser() -> argparse.ArgumentParser:
    """The flags, with a help that teaches."""
    flags = argparse.ArgumentParser(
        prog="python -m launch.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--checkpoint", metavar="DIR", help="a training's workdir or a portable checkpoint (default: the shipped one)")
    add(
        "--data",
        default="world",
        metavar="world|DIR",
        help="new clips of the built-in world, or prepared shards (default: world)",
    )
    add("--clips", type=int, default=160, help="how many clips (default: %(default)s)")
    add("--seed", type=int, default=UNSEEN_SEED, help="of the clips; the default is trained on by no config")
    add("--look", choices=("plain", "rich"), default="plain", help="of the world's clips (default: %(default)s)")
    add("--tokenizer_control", choices=TOKEN_CONTROLS, default="real",
        help="ruin what the video tokens hold: another clip's contents, or none (default: %(default)s)")  # fmt: skip
    add("--batch", type=int, default=32, help="clips decoded at a time (default: %(default)s)")
    add(
        "--delay",
        type=int,
        metavar="STEPS",
        help="steps the words run behind the picture (default: the config's delay.eval)",
    )
    add("--pad_bias", type=float, default=0.0, help="added to silence's logit: more is quieter (default: %(default)s)")
    add_decoding_flags(flags)
    add("--json", metavar="FILE", help="write every number here")
    add("--only_check_args", action="store_true", help="read the flags and stop")
    return flags


def check(args: argparse.Namespace) -> None:
    """Raises ValueError for flags that do not go together."""
    if args.clips < 1 or args.batch < 1:
        raise ValueError(f"--clips and --batch must be at least 1, got {args.clips} and {args.batch}")
    if args.tokenizer_control == "shuffled" and min(args.clips, args.batch) < 2:
        raise ValueError(
            "--tokenizer_control=shuffled takes another clip's tokens: --clips and --batch must be at least 2"
        )
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise ValueError(f"--json={args.json}: there is no folder {Path(args.json).absolute().parent}")


def check_stage(args: argparse.Namespace, stage: str) -> None:
    """Raises ValueError for flags that mean nothing to models of a stage."""
    foreign = sorted({flag for kind in STAGES.values() for flag in kind.flags} - set(STAGES[stage].flags))
    given = [f"--{flag}" for flag in foreign if getattr(args, flag) != parser().get_default(flag)]
    if given:
        raise ValueError(f"{', '.join(given)}: not of models of stage {stage!r}, which this one is")


def clips_of(args: argparse.Namespace, trained: Trained) -> tuple[int, Iterator[Record]]:
    """How many clips there are, and they themselves."""
    if args.data != "world":
        return shard_records(args.data, args.seed, args.clips)
    clock = trained.clock
    config = WorldConfig(
        look=args.look, frame_px=trained.config.frame_px, step_hz=clock.step_hz, video_stride=clock.video_stride
    )
    return args.clips, world_records(config, args.seed, args.clips)


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the model over the clips, with progress on stderr; returns the report."""
    started_s = time.monotonic()
    trained = load_trained(args.checkpoint)
    stage = trained.config.stage
    if stage not in STAGES:
        raise ValueError(f"{trained.folder} is of stage {stage!r}; {', '.join(sorted(STAGES))} can be evaluated here")
    check_stage(args, stage)
    number, records = clips_of(args, trained)
    return STAGES[stage].evaluate(trained, records, number, args) | _origin(args, trained, started_s)


def _origin(args: argparse.Namespace, trained: Trained, started_s: float) -> dict[str, Any]:
    """What was evaluated on what, and how long it took so far."""
    return {
        "stage": trained.config.stage,
        "checkpoint": "shipped" if args.checkpoint is None else str(args.checkpoint),
        "steps": trained.steps,
        "data": args.data,
        "seed": args.seed,
        "look": args.look if args.data == "world" else None,
        "wall_s": time.monotonic() - started_s,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 with a message where something is missing or does not fit (2: unknown flags)."""
    args = parser().parse_args(argv)
    try:
        check(args)
        if args.only_check_args:
            return 0
        report = evaluate(args)

    except (OSError, ValueError, ShardError) as error:
        print(f"launch.evaluate: {error}", file=sys.stderr)
        return 1
    print(STAGES[report["stage"]].table(report))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"\nall numbers: {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
