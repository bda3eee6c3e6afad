"""How good is a model? It watches clips by itself and is scored on what it says, beside controls of known worth.

(A model of stage `clip` says nothing: it is scored on what it finds, beside chance.)

    python -m launch.evaluate                                    the model `world` on 160 new clips of the plain world
    python -m launch.evaluate --look=rich --json=rich.json       the hard look; every number as JSON too
    python -m launch.evaluate --checkpoint=runs/quickstart       a model you trained
    python -m launch.evaluate --data=shards/heldout              on clips you prepared with launch.prepare
    python -m launch.evaluate --tokenizer_control=zeroed         is it the video that it talks about?
    python -m launch.evaluate --pad_bias=1                       quieter: more precision, less recall
    python -m launch.evaluate --data=real --root=DIR             the model `real` on labelled real videos (docs/real.md)

How it is scored. A phrase is right if all of it is (what happened, to what, where) and it starts within 2 seconds
after the event, timed by the step at which its first word is known; each event counts once. Precision is the share of
phrases that are right, recall the share of events that are named, F1 their harmonic mean, each over what happens before
the last 2 seconds of a clip. False alarms are phrases that start when nothing happens. Word NLL is teacher-forced,
everything else is not.

How to read the table. `oracle` is the best that can be reached at this delay. A model that sees must be far above
`other_clip` (its own words about another clip) and `always_talking`; both should be near zero, as `oracle_late_3s` is.

Clips that list no events, as captioned videos, are scored against their own words in the same way: each word, and each
phrase (words without a pause of half a second between them), must be said from a second before to 2 seconds after its
time. `oracle` says them as late as the model may.

Where clips have words, the line "in time" scores what is said against them by the metrics of commentary in time, the
oracle's in brackets; JSON has all of them, and each control's, under `timing` (docs/benchmarks.md, "timing").

--data=real: videos as DIR/clips.jsonl labels them, watched live from begin to end. A phrase is right if kind and class
are and it starts from 0.75 s before to 2 s after the label. --save_captions=DIR keeps what everybody said for
launch.arena.

--metrics=module:function (or file.py:function, several with commas) adds a score of your own: a function of what the
model did on every clip that returns numbers by name (CONTRIBUTING.md, "Add an evaluation metric").

Models of stage `clip`: R@k is the share of clips whose text is among the k nearest of all, and the other way round;
texts that say the same are each as right. On the world, zero-shot classification of the piece around every event: each
answer ("red") is described by all phrases of the commentator that say it. `most frequent` is what one answer reaches.

Models of stage `bflow`: in-video event R@1 is the share of phrases whose best window of their video is one that they
are about. Forward or backward: of an event whose words tell (enters, leaves, starts, stops, appears, vanishes), are
they nearer to the clip or to the clip played backwards? Whoever pays no heed to the order of frames has 0.5.

Models of stage `vlm` caption the middle piece of every clip, by --decode: CIDEr (0 to 10; the others 0 to 1), BLEU-4,
ROUGE-L and METEOR against what is said in it. `real` must be far above `shuffled` (another clip's caption), `blank`
(a grey picture's) and `most_frequent` (always the text that most clips have).

Models of stage `codec` turn sound into codes and back: --data is a folder of sound files, or of shards that keep their
sound. *unquantised* is the same codec without rounding to codes (docs/codec.md).
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from configs.data import narrated
from data_pipelines.manifest import ShardError
from data_pipelines.video_source import VideoError
from mmduplex_jax.evals.evaluator import BATCH, UNSEEN_SEED, metric_lines
from mmduplex_jax.evals.real_events import format_real_events
from mmduplex_jax.pages.scores import real_events_page
from mmduplex_jax.real_videos import REAL, add_real_flags, evaluate_folder, teacher_of, watching_lines
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show
from mmduplex_jax.stages.evaluation import WORLD, add_stage_flags, make_evaluator, open_clips, stage_options
from mmduplex_jax.stages.registry import find_stage
from mmduplex_jax.weights.trained import CHECKPOINT_HELP, DEFAULT, add_weights_flag, load_trained

# The model that is scored on clips of the world and on shards where none is given.
OF_SHAPES = "world"


def evaluate(args: argparse.Namespace) -> None:
    """Runs the model over the clips, with progress on stderr, and shows its scores."""
    if args.clips < 1 or (args.batch is not None and args.batch < 1):
        raise ValueError(f"--clips and --batch must be at least 1, got {args.clips} and {args.batch}")
    if args.data == REAL:
        evaluate_real(args)
        return
    if given := [
        flag for flag in ("root", "cameras", "fit", "teacher", "page", "save_captions") if getattr(args, flag)
    ]:
        raise ValueError(f"--{given[0]} is of --data={REAL}, and this is --data={args.data}")
    started_s = time.monotonic()
    trained = load_trained(args.checkpoint or OF_SHAPES, args.weights)
    config, stage = trained.config, trained.config.stage
    options = stage_options(stage, vars(args)) | {"batch": args.batch, "seed": args.seed, "metrics": args.metrics}
    evaluator = make_evaluator(trained.task, config, trained.tokenizer, **options)
    number, records = open_clips(args.data, config, clips=args.clips, seed=args.seed, look=args.look)
    report = evaluator.run(trained.params, records, number) | {
        "stage": stage,
        "checkpoint": trained.name,
        "steps": trained.steps,
        "weights": trained.weights,
        "data": args.data,
        "seed": args.seed,
        "look": args.look if args.data == WORLD else None,
        "wall_s": time.monotonic() - started_s,
    }
    tell(args, report, [find_stage(stage).format_table(report), *metric_lines(report)])


def evaluate_real(args: argparse.Namespace) -> None:
    """The same over labelled real videos, all of them and one by one: --clips, --batch and --look are not of these."""
    if args.metrics:
        raise ValueError(f"--metrics={args.metrics} is of clips of the world and of shards, and this is --data={REAL}")
    if not args.root:
        raise ValueError("--data=real needs --root=DIR, a folder with clips.jsonl and the videos that it labels")
    trained = load_trained(args.checkpoint, args.weights)
    own = stage_options(trained.config.stage, vars(args))
    own |= {name: getattr(args, name) for name in ("split", "cameras", "fit", "seed")}
    controls = {}
    if args.teacher is not None:
        controls["teacher, live"] = teacher_of(args.teacher, narrated.get_config())
    report = evaluate_folder(trained, args.root, controls=controls, save_captions=args.save_captions, **own)
    if args.page is not None:
        real_events_page(report).save(args.page)
    captions = [f"captions: a folder each in {args.save_captions}"] if args.save_captions else []
    tell(args, report, [format_real_events(report), "", *watching_lines(report), *captions])


def tell(args: argparse.Namespace, report: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Shows a report, and where all of it is."""
    where = [f"\nall numbers: {args.json}"] if args.json else []
    show(args, report, "\n".join([*lines, *where]))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 with a message where something is missing or does not fit (2: unknown flags)."""
    flags = command_parser("launch.evaluate", __doc__)
    add = flags.add_argument
    checkpoint = f"{CHECKPOINT_HELP} (default: {DEFAULT} with --data={REAL}, else {OF_SHAPES})"
    add("--checkpoint", metavar="NAME|DIR", help=checkpoint)
    data = "new clips of the built-in world, labelled real videos, or prepared shards (default: world)"
    add("--data", default=WORLD, metavar="world|real|DIR", help=data)
    add("--clips", type=int, default=160, help="how many clips (default: %(default)s)")
    add("--seed", type=int, default=UNSEEN_SEED, help="of the clips; the default is trained on by no config")
    add("--look", choices=("plain", "rich"), default="plain", help="of the world's clips (default: %(default)s)")
    add("--batch", type=int, help=f"clips decoded at a time (default: {BATCH}, of large frames fewer)")
    add("--metrics", default="", metavar="NAME", help="further scores: module:function, several with commas")
    add_weights_flag(flags)
    add_real_flags(flags)
    add_stage_flags(flags)
    add_json_flag(flags)
    return run_main(flags, argv, evaluate, {OSError: 1, ValueError: 1, ShardError: 1, VideoError: 1})


if __name__ == "__main__":
    sys.exit(main())
