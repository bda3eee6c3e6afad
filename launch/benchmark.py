"""How good is a model where the field measures? It answers a benchmark's questions, or anybody's answers are scored.

    python -m launch.benchmark --list                                         what there is
    python -m launch.benchmark worldqa --make=data/worldqa                    a small one of our own, made here
    python -m launch.benchmark worldqa --root=data/worldqa --checkpoint=world --json=worldqa.json --html=worldqa.html
    python -m launch.benchmark longvideobench --root=DIR --control=always_longest       blind: what guessing earns
    python -m launch.benchmark longvideobench --root=DIR --predictions=answers.json     anybody's
    python -m launch.benchmark timing --said=a.vtt --reference=b.vtt          one commentary against another, no model

--root is the benchmark's folder as it is published (docs/benchmarks.md). One of three answers: --checkpoint a model of
ours, --predictions a file in the benchmark's own format, --control somebody who sees no video.

A `duplex` model watches every video live, in bounded memory, with subtitles as given words (--subtitles=no: without).
Questions are given words, too; of options it takes the likeliest a slot, open answers are decoded. A question with a
word that its vocabulary lacks counts wrong, and is counted.

Every answer is kept at once, in FILE.answers.jsonl beside the first output that is named (--json, --html or
--save_predictions): a run that was killed goes on when it is started again, unless checkpoint, flags or questions
differ, and asks again about videos that were damaged or exchanged. To share the work start it several times with
--process_count=N and --process_index=0 … N-1; whoever ends last reports.

Scores have 95 % bootstrap intervals over questions. A model not above the best blind control has not used the video.

Exit codes: 0 done, or this process's part of it; 1 something cannot be read; 2 flags that do not fit; 130 Ctrl-C.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmduplex_jax.evals.benchmarks.protocol import Prediction
from mmduplex_jax.evals.benchmarks.registry import BENCHMARKS, MADE_HERE, describe_benchmarks, find_benchmark
from mmduplex_jax.stages.config_file import add_json_flag, at_least, command_parser, run_main, shown_on, write_json


class FlagError(ValueError):
    """Flags that do not fit each other."""


def benchmark(args: argparse.Namespace) -> None:
    """Answers or takes answers, scores and writes; see the module's docstring."""
    if args.list:
        print(describe_benchmarks())
    elif args.name not in BENCHMARKS:
        raise FlagError(f"name a benchmark, one of {', '.join(BENCHMARKS)}; got {args.name!r}")
    elif args.said or args.reference:
        _score_captions(args)
    elif args.make:
        if args.name not in MADE_HERE:
            raise FlagError(f"--make is of {' and '.join(MADE_HERE)}, others are downloaded: docs/benchmarks.md")
        find_benchmark(args.name).make(Path(args.make), seed=args.seed)  # type: ignore[attr-defined]
    elif not args.root:
        raise FlagError(f"{args.name} needs --root=DIR, its folder as it is published")
    elif sum(bool(given) for given in (args.checkpoint, args.predictions, args.control)) != 1:
        raise FlagError("pass one of --checkpoint=DIR, --predictions=FILE and --control=NAME")
    elif args.process_index not in (range(args.process_count) if args.process_count else [None]):
        raise FlagError("--process_index=I and --process_count=N go together, I from 0 to N-1")
    else:
        _answer_and_score(args)


def _score_captions(args: argparse.Namespace) -> None:
    """One file of captions against another, or a folder of them against a folder."""
    if args.name != "timing" or not (args.said and args.reference):
        raise FlagError("--said needs --reference, the captions that it is compared with, and both are of timing")
    others = ("root", "checkpoint", "predictions", "control", "limit", "save_predictions", "html", "make")
    if unused := [name for name in others if getattr(args, name)]:
        raise FlagError(f"--{unused[0]} does not go with --said and --reference, but with --root and --predictions")
    from mmduplex_jax.evals.benchmarks.timing import RULES, format_scores, score_files

    if args.rule and args.rule not in RULES:
        raise FlagError(f"--rule={args.rule}: timing has {', '.join(RULES)}")
    report = score_files(Path(args.said), Path(args.reference), args.rule or RULES[0])
    write_json(args.json, report)
    print(format_scores(report), file=shown_on(args.json))


def _answer_and_score(args: argparse.Namespace) -> None:
    from mmduplex_jax.evals.benchmarks.runner import format_report, load_items, make_report
    from mmduplex_jax.pages.benchmark import benchmark_page
    from mmduplex_jax.stages.benchmarking import ask_model

    found = find_benchmark(args.name)
    rule = args.rule or found.RULES[0]
    if rule not in found.RULES:
        raise FlagError(f"--rule={rule}: {args.name} has {', '.join(found.RULES)}")
    if args.control and args.control not in found.CONTROLS:
        raise FlagError(f"--control={args.control}: {args.name} has {', '.join(found.CONTROLS) or 'none'}")
    items = load_items(found, Path(args.root))
    asked = items[: args.limit]
    answered_by = args.checkpoint or args.predictions or f"control {args.control}"
    if args.control:
        predictions: Mapping[str, Prediction] | None = found.CONTROLS[args.control](asked)
    elif args.predictions:
        predictions = found.read_predictions(Path(args.predictions), items)
    else:
        answered_by, predictions = ask_model(
            args.name,
            args.checkpoint,
            asked,
            subtitles=args.subtitles == "yes",
            outputs=(args.json, args.html, args.save_predictions),
            process=args.process_index,
            processes=args.process_count,
        )
    if predictions is None:
        print("this part is answered, others are not: whoever is last makes the report", file=shown_on(args.json))
        return
    if args.save_predictions:
        found.write_predictions(Path(args.save_predictions), asked, predictions)
    report, scores = make_report(found, asked, predictions, rule)
    report = {"benchmark": args.name, "answered_by": answered_by, "limit": args.limit} | report
    write_json(args.json, report)
    if args.html:
        benchmark_page(report, asked, predictions, scores, shown=args.shown).save(args.html)
    print(format_report(report), file=shown_on(args.json))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("launch.benchmark", __doc__)
    add = flags.add_argument
    add("name", nargs="?", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}")
    add("--list", action="store_true", help="what each benchmark asks, its rules and controls")
    add("--root", metavar="DIR", help="the benchmark's folder, as it is published")
    add("--checkpoint", metavar="NAME|DIR", help="a model of ours answers")
    add("--predictions", metavar="FILE", help="answers in the benchmark's own format are scored")
    add("--control", metavar="NAME", help="somebody answers who sees no video (--list names them)")
    add("--rule", help="how answers are scored (default: the first of --list)")
    add("--limit", type=at_least(1), metavar="N", help="only the first N questions")
    add("--subtitles", choices=("yes", "no"), default="yes", help="whether a model gets them (default: %(default)s)")
    add("--save_predictions", metavar="FILE", help="write the answers in the benchmark's own format")
    add("--html", metavar="FILE", help="write a page of questions, frames and answers")
    add("--shown", type=at_least(0), default=60, help="questions on the page, at most (default: %(default)s)")
    add("--process_index", type=at_least(0), metavar="I", help="which part of the work is this process's")
    add(
        "--process_count", type=at_least(1), metavar="N", help="how many processes share it (default: as JAX is set up)"
    )
    add("--make", metavar="DIR", help=f"make {' or '.join(MADE_HERE)}: videos and questions")
    add("--seed", type=at_least(0), default=0, help="of --make (default: %(default)s)")
    add("--said", metavar="FILE|DIR", help="of timing: a .vtt, .srt or .json that was said, or a folder of them")
    add("--reference", metavar="FILE|DIR", help="of timing: what it is compared with")
    add_json_flag(flags)
    return run_main(flags, argv, benchmark, {FlagError: 2, ValueError: 1, OSError: 1})


if __name__ == "__main__":
    sys.exit(main())
