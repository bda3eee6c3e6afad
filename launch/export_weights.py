"""Writes weights as a Hugging Face directory that transformers loads: `config.json` and `model.safetensors`.

    python -m launch.export_weights --weights=weights/smollm2 --out=exported
    python -m launch.export_weights --weights=runs/duplex --part=text --leave_rest --out=exported
    python -m launch.export_weights --weights=runs/clip --part=vision --leave_rest --out=exported

Weights are what `launch.import_weights` wrote (back as they came, bit for bit, in the dtype that they had with
`--dtype`), or a training. Of a `duplex` or `vlm` model the language model can go out (`--part=text`), without what it
has for video, which no architecture of transformers holds; of a `clip` or `vlm` model the vision tower
(`--part=vision`), where transformers or timm has one that computes the same.

Beside a tower for pictures lies `preprocessor_config.json`, which says how they are prepared.
"""

import argparse
import sys
from collections.abc import Sequence

from mmduplex_jax.stages.config_file import command_parser, run_main
from mmduplex_jax.weights.huggingface.export import PARTS, export_weights


def work(args: argparse.Namespace) -> None:
    """Writes the directory, and prints what went into it."""
    print("\n".join(export_weights(args.weights, args.out, args.dtype, args.part, args.leave_rest)))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 with a message where something is missing or does not fit."""
    flags = command_parser("launch.export_weights", __doc__)
    flags.add_argument("--weights", required=True, metavar="DIR", help="imported weights, or a training's folder")
    flags.add_argument("--out", required=True, metavar="HF_DIR", help="directory to write; must not hold weights")
    flags.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="how numbers are stored (default: %(default)s)",
    )
    flags.add_argument("--part", choices=tuple(PARTS), help="of a training: what to write")
    flags.add_argument("--leave_rest", action="store_true", help="leave out what has no place in that architecture")
    return run_main(flags, argv, work, {OSError: 1, ValueError: 1})


if __name__ == "__main__":
    sys.exit(main())
