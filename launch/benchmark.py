"""How good is a model where the field measures? It answers a benchmark's questions, or anybody's answers are scored.

    python -m launch.benchmark --list                                         what there is
    python -m launch.benchmark worldqa --make=data/worldqa                    a small one of our own, made here
    python -m launch.benchmark worldqa --root=data/worldqa --checkpoint=world --json=worldqa.json --html=worldqa.html
    python -m launch.benchmark longvideobench --root=DIR --control=always_longest       blind: what guessing earns
    python -m launch.benchmark longvideobench --root=DIR --predictions=answers.json     whoever made them
    python -m launch.benchmark timing --said=a.vtt --reference=b.vtt          one commentary against another, no model

--root is the benchmark's folder as it is published; what must be downloaded is in docs/benchmarks.md. One of three
answers: --checkpoint a model of ours, --predictions a file in the benchmark's own format, --control somebody who sees
no video. Where a benchmark is scored by several rules, --rule names one; the report says which it was.

A `duplex` model watches every video live, at the clock's pace and in bounded memory. Questions enter its text stream as
given words; among options it chooses the one that is likeliest a slot, and open answers are decoded. Subtitles enter as
given words at their times, unless --subtitles=no. A question with a word that its vocabulary lacks cannot be asked: it
counts wrong, and the report says how many there are.

Every answer is kept at once, in FILE.answers.jsonl beside the first output that is named (--json, --html or
--save_predictions): a run that was killed goes on when it is started again, and refuses to where checkpoint or flags
differ. To share the work start the same command several times with --process_count=N and --process_index=0 … N-1;
whoever ends last writes the report.

How to read it: `score` with its 95 % bootstrap interval over questions, of all and by group. A model that learned
nothing is at `--control=chance`; one that is not above the best blind control has not used the video.

Exit codes: 0 done, or this process's part of it; 1 a file, a video or an answer cannot be read; 2 flags that do not
fit; 130 Ctrl-C.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.video_source import VideoError
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Item, Prediction
from mmduplex_jax.evals.benchmarks.registry import BENCHMARKS, find_benchmark
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, shown_on, write_json

_TIMING = "timing"
_MADE_HERE = "worldqa"


class FlagError(ValueError):
    """Flags that do not fit each other."""


def benchmark(args: argparse.Namespace) -> None:
    """Answers or takes answers, scores and writes; see the module's docstring."""
    if args.list:
        print("\n".join(_described(name) for name in BENCHMARKS))
        return
    if args.name not in BENCHMARKS:
        raise FlagError(f"name a benchmark, one of {', '.join(BENCHMARKS)}; got {args.name!r}")
    if args.name == _TIMING and args.said:
        _score_captions(args)
        return
    if args.make:
        if args.name != _MADE_HERE:
            raise FlagError(f"--make is of {_MADE_HERE}; {args.name} is downloaded, see docs/benchmarks.md")
        from mmduplex_jax.evals.benchmarks.worldqa import make

        make(Path(args.make), seed=args.seed)
        return
    if not args.root:
        raise FlagError(f"{args.name} needs --root=DIR, its folder as it is published")
    if sum(bool(given) for given in (args.checkpoint, args.predictions, args.control)) != 1:
        raise FlagError("pass one of --checkpoint=DIR, --predictions=FILE and --control=NAME")
    _answer_and_score(args)


def _score_captions(args: argparse.Namespace) -> None:
    """One file of captions against another."""
    if not args.reference:
        raise FlagError("--said needs --reference, the captions that it is compared with")
    from mmduplex_jax.evals.benchmarks.timing import score_files

    report = score_files(Path(args.said), Path(args.reference))
    write_json(args.json, report)
    if args.json != "-":
        print("\n".join(f"{name}: {value}" for name, value in report.items()))


def _answer_and_score(args: argparse.Namespace) -> None:
    from mmduplex_jax.evals.benchmarks.runner import format_report, make_report

    found = find_benchmark(args.name)
    rule = args.rule or found.RULES[0]
    if rule not in found.RULES:
        raise FlagError(f"--rule={rule}: {args.name} has {', '.join(found.RULES)}")
    if args.control and args.control not in found.CONTROLS:
        raise FlagError(f"--control={args.control}: {args.name} has {', '.join(found.CONTROLS) or 'none'}")
    items = found.load_items(Path(args.root))
    asked = items[: args.limit]
    answered_by = args.checkpoint or args.predictions or f"control {args.control}"
    if args.control:
        predictions: Mapping[str, Prediction] | None = found.CONTROLS[args.control](asked)
    elif args.predictions:
        predictions = found.read_predictions(Path(args.predictions), items)
    else:
        answered_by, predictions = _ask_model(args, asked)
    if predictions is None:
        print("this process has answered its part; the others have not yet: the last one makes the report")
        return
    if args.save_predictions:
        found.write_predictions(Path(args.save_predictions), asked, predictions)
    report, scores = make_report(found, asked, predictions, rule)
    report = {"benchmark": args.name, "answered_by": answered_by, "limit": args.limit} | report
    write_json(args.json, report)
    if args.html:
        from mmduplex_jax.pages.benchmark import benchmark_page

        benchmark_page(report, asked, predictions, scores, shown=args.shown).save(args.html)
    print(format_report(report), file=shown_on(args.json))


def _ask_model(args: argparse.Namespace, items: Sequence[Item]) -> tuple[str, Mapping[str, Prediction] | None]:
    """What to call the model, and its answers; None where other processes have not given theirs yet."""
    import jax

    from mmduplex_jax.evals.benchmarks.runner import AnswersFile, answer_items, fingerprint
    from mmduplex_jax.stages.registry import find_stage
    from mmduplex_jax.weights.trained import load_trained

    trained = load_trained(args.checkpoint)
    options: dict[str, Any] = {"subtitles": args.subtitles == "yes", "max_frames": args.max_frames}
    stage = find_stage(trained.config.stage)
    answerer = stage.make_answerer(trained.task, trained.params, trained.config, trained.tokenizer, **options)
    process = jax.process_index() if args.process_index is None else args.process_index
    processes = jax.process_count() if args.process_count is None else args.process_count
    outputs = [name for name in (args.json, args.html, args.save_predictions) if name and name != "-"]
    if processes > 1 and not outputs:
        raise FlagError("several processes meet in files: name an output, --json=FILE")
    made_by = {"benchmark": args.name, "checkpoint": trained.name, "parameters": fingerprint(trained.params)}
    made_by |= {**options, "items": len(items), "root": str(args.root)}
    kept = AnswersFile(Path(outputs[0]), made_by, process, processes) if outputs else None
    return trained.name, answer_items(items, answerer, kept)


def _described(name: str) -> str:
    found = find_benchmark(name)
    controls = f"; controls: {', '.join(found.CONTROLS)}" if found.CONTROLS else ""
    return f"{name:<18} {found.TITLE}\n{'':<18} rules: {', '.join(found.RULES)}{controls}"


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
    add("--limit", type=int, metavar="N", help="only the first N questions")
    add("--subtitles", choices=("yes", "no"), default="yes", help="whether a model gets them (default: %(default)s)")
    add("--max_frames", type=int, default=16, help="frames that a `vlm` model gets of a video (default: %(default)s)")
    add("--save_predictions", metavar="FILE", help="write the answers in the benchmark's own format")
    add("--html", metavar="FILE", help="write a page of questions, frames and answers")
    add("--shown", type=int, default=60, help="questions on the page, at most (default: %(default)s)")
    add("--process_index", type=int, metavar="I", help="which part of the work is this process's")
    add("--process_count", type=int, metavar="N", help="how many processes share it (default: as JAX is set up)")
    add("--make", metavar="DIR", help=f"make {_MADE_HERE}: videos and questions, in LongVideoBench's layout")
    add("--seed", type=int, default=0, help="of --make (default: %(default)s)")
    add("--said", metavar="FILE", help=f"of {_TIMING}: a .vtt or .srt that was said")
    add("--reference", metavar="FILE", help=f"of {_TIMING}: a .vtt or .srt to compare it with")
    add_json_flag(flags)
    codes = {FlagError: 2, BenchmarkError: 1, VideoError: 1, ValueError: 1, OSError: 1}
    return run_main(flags, argv, benchmark, codes)


if __name__ == "__main__":
    sys.exit(main())
