"""Writes weights as a Hugging Face directory that transformers loads: `config.json` and `model.safetensors`.

    python -m launch.export_weights --weights=weights/smollm2 --to=exported
    python -m launch.export_weights --weights=runs/duplex --part=text --leave_rest --to=exported

Weights are what `launch.import_weights` wrote (back as they came, bit for bit, in the dtype that they had with
`--dtype`), or a training: of a `duplex` model the language model can go out (`--part=text`), without what it has for
video, which no architecture of transformers holds.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launch.trained import load_trained
from mmduplex_jax.interop.huggingface import text, vision
from mmduplex_jax.interop.huggingface.layout import Layout, write_params
from mmduplex_jax.interop.huggingface.reader import WeightsError
from mmduplex_jax.interop.huggingface.source import TOKENIZER_FILE, config_from_metadata
from mmduplex_jax.interop.portable import flatten
from mmduplex_jax.interop.text_tokenizer import TextTokenizer
from mmduplex_jax.models.duplex import DuplexTask
from mmduplex_jax.models.language import LanguageConfig

_KEPT = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")


def parser() -> argparse.ArgumentParser:
    """The flags, with their help."""
    flags = argparse.ArgumentParser(
        prog="python -m launch.export_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--weights", required=True, metavar="DIR", help="imported weights, or a training's folder")
    flags.add_argument("--to", required=True, metavar="HF_DIR", help="directory to write; must not hold weights")
    flags.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="how numbers are stored (default: %(default)s)",
    )
    flags.add_argument("--part", choices=("text",), help="of a training: what to write")
    flags.add_argument("--leave_rest", action="store_true", help="leave out what has no place in that architecture")
    flags.add_argument("--only_check_args", action="store_true", help="read the flags and stop")
    return flags


def export_weights(weights: str | Path, to: str | Path, dtype: str, part: str | None, leave_rest: bool) -> list[str]:
    """Does it; returns lines that say what was written and what was left.

    Raises:
      FileNotFoundError: there are no weights.
      WeightsError: the architecture does not exist on the other side, or something has no place there.
    """
    # Orbax takes seconds to import, and mistakes in flags should be told at once.
    from mmduplex_jax.train.checkpoint import is_weights, read_weights

    left: list[str] = []
    if is_weights(weights):
        if part is not None:
            raise WeightsError(f"{weights} are imported weights, which go out whole: leave out --part")
        params, metadata = read_weights(weights)
        layout, config_json = _imported(metadata)
        tokenizer_json = metadata["tokenizer_json"]
    else:
        if part is None:
            raise WeightsError(
                f"{weights} is no folder of imported weights; of a training, say what to write: --part=text"
            )
        params, layout, config_json, tokenizer_json, left = _text_of_training(weights)
        if left and not leave_rest:
            raise WeightsError(
                f"{weights}: {len(left)} parameters have no place in a model of type {config_json['model_type']}: "
                f"{', '.join(left)}. Without them it computes something else than here; --leave_rest leaves them out"
            )
    size = write_params(params, layout, to, config_json, dtype=dtype)
    lines = [f"{to}: {config_json.get('model_type', config_json.get('architecture'))}, {size:,} bytes ({dtype})"]
    if tokenizer_json is not None:
        TextTokenizer.from_json(tokenizer_json).save(Path(to) / TOKENIZER_FILE)
        lines[0] += f", with {TOKENIZER_FILE}"
    return lines + ([f"left: {', '.join(left)}"] if left else [])


def _imported(metadata: Mapping[str, Any]) -> tuple[Layout, dict[str, Any]]:
    """The way back of imported weights, and their `config.json`."""
    config = config_from_metadata(metadata)
    theirs, prefixes = metadata["their_config"], metadata["their_prefixes"]
    if isinstance(config, LanguageConfig):
        config_json = text.config_json(config) | {name: theirs[name] for name in _KEPT if name in theirs}
        return text.layout(config, prefixes["text_prefix"]), config_json
    of = dataclasses.replace(vision.exported(config, metadata["family"]), **prefixes)
    return vision.layout(of), vision.config_json(of)


def _text_of_training(folder: str | Path) -> tuple[dict[str, Any], Layout, dict[str, Any], str, list[str]]:
    """Parameters, layout, config and tokenizer of a duplex model's language model, and the names of what is left."""
    trained = load_trained(folder)
    if not isinstance(trained.task, DuplexTask):
        raise WeightsError(f"{folder} is of stage {trained.config.stage!r}, which has no language model to write")
    model = trained.task.config
    layout = text.stream_layout(model.text, model.tied)
    config = text.alone(model.text, model.vocab_rows, "tied" if model.tied else "own")
    named = {name for entry in layout.entries for name in entry.our_names}
    params = flatten(trained.params)
    left = sorted(name for name in params if name not in named)
    kept = {name: value for name, value in params.items() if name in named}
    return kept, layout, text.config_json(config), trained.tokenizer.to_json(), left


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 with a message where something is missing or does not fit."""
    args = parser().parse_args(argv)
    if args.only_check_args:
        return 0
    try:
        lines = export_weights(args.weights, args.to, args.dtype, args.part, args.leave_rest)
    except (OSError, ValueError) as error:
        print(f"launch.export_weights: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
