"""Imports weights from a local Hugging Face directory: language models, vision towers, contrastive pairs.

    python -m launch.import_weights --from=SmolLM2-360M --out=weights/smollm2 [--verify] [--json=report.json]
    python -m launch.train --config=configs/duplex_300m.py --workdir=runs/mine --config.init_from.text=weights/smollm2

Read are `config.json`, safetensors (one file, or shards with their index; float32, bfloat16 or float16), and where they
are there `tokenizer.json` and `preprocessor_config.json`. Written is an Orbax checkpoint in float32 with all of that in
its metadata. Little more than the largest tensor is in memory at a time.

Language models: Llama (SmolLM2 and Llama 3 among them), Qwen3. Vision: CLIP, SigLIP, SigLIP 2, Perception Encoder.

`--verify` runs the model of transformers (or timm) beside ours, as it was written, on random inputs.

Exit codes:
  0  done (and the same within --tolerance)
  1  something is missing or does not fit: the message names all of it, and nothing was written
  2  written, but ours does not compute what theirs does
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, write_json
from mmduplex_jax.weights import verify
from mmduplex_jax.weights.huggingface.layout import iterate_params
from mmduplex_jax.weights.huggingface.source import Source, open_source

EXIT_DIFFERS = 2


def import_weights(source: Source, to: str | Path) -> dict[str, Any]:
    """Writes the weights of a directory; returns a report: kind, family, parameters, bytes read.

    Raises:
      WeightsError: a tensor could not be read; nothing is left of `to`.
      FileExistsError: `to` has something in it.
    """
    # Orbax takes seconds to import, and mistakes should be told at once.
    from mmduplex_jax.weights.checkpoint import write_weights

    write_weights(to, iterate_params(source.files, source.layout, source.shapes), source.metadata())
    return {
        "from": str(source.files.path),
        "to": str(to),
        "kind": source.kind,
        "family": source.family,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(source.shapes)),
        "bytes_read": source.files.num_bytes,
        "tokenizer": source.tokenizer is not None,
        "preprocessing": source.preprocessing is not None,
        "renamed": source.files.renamed,
        "ignored": [name for name in source.files.names if source.layout.ignores(name)],
    }


def describe(report: dict[str, Any]) -> list[str]:
    """A report as lines for people."""
    has = lambda what: f"with its {what}" if report[what] else f"no {what} found"
    extras = {"text": ["tokenizer"], "vision": ["preprocessing"], "contrastive": ["tokenizer", "preprocessing"]}
    lines = [
        f"{report['to']}: {report['kind']} ({report['family']}), {report['parameters']:,} parameters, "
        + ", ".join(map(has, extras[report["kind"]]))
    ]
    if report["renamed"]:
        lines.append(f"{report['renamed']} names had a prefix of PyTorch's wrappers (module., _orig_mod.), now gone")
    if report["ignored"]:
        lines.append(f"left: {', '.join(report['ignored'])}")
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
    report = import_weights(source, args.out)
    if args.verify:
        report["verify"] = verify.verify(args.source, args.out, args.tolerance)
    write_json(args.json, report)
    if args.json != "-":
        print("\n".join(describe(report)))
    return 0 if "verify" not in report or report["verify"]["passed"] else EXIT_DIFFERS


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("launch.import_weights", __doc__)
    flags.add_argument("--from", required=True, dest="source", metavar="HF_DIR", help="directory to read")
    flags.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be new or empty")
    flags.add_argument("--only_vision", action="store_true", help="of a contrastive pair, take the vision tower alone")
    flags.add_argument("--verify", action="store_true", help="compare with the reference (needs the extra `parity`)")
    flags.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="with --verify: the largest absolute difference that passes (default: %(default)s)",
    )
    add_json_flag(flags, "write a report as JSON")
    return run_main(flags, argv, work, {OSError: 1, ValueError: 1})


if __name__ == "__main__":
    sys.exit(main())
