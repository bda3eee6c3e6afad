"""Writes the newest checkpoint of a training as a portable one: small, without optimiser state, readable without Orbax.

    python -m launch.export --checkpoint=runs/quickstart --out=checkpoints/mine
    python -m launch.evaluate --checkpoint=checkpoints/mine --data=world

The folder gets params.safetensors and metadata.json (layout version, config, tokenizer, steps, data, scores). Scores
come from the JSON files that `launch.evaluate --json` wrote, each under its file's name. Where the training began with
weights of others (`config.init_from`), their licences go into a NOTICE beside it.

A model that is too talkative, or too quiet, on clips that it is tuned on (never on those it is judged on) is exported
with --pad_bias: what a session, or a --pad_bias of other commands, asks for is then counted from there.

A model that was trained on single scenes takes a cut for a change of what it sees, and says so. With --anew_at_cuts its
streams begin anew at cuts; one that learned from films goes on through them (docs/long.md, "Cuts").

With --weights=int8 (or bfloat16) large tables of weights are stored in so many bits, and whoever loads the checkpoint
holds them so (docs/library.md, "Fewer bits").

Of a model that speaks, --codec names the codec that made the codes of its training; it goes along, in the folder
`codec`, where all commands find it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmduplex_jax.models.dual_stream import DualStreamConfig
from mmduplex_jax.stages.config_file import command_parser, run_main
from mmduplex_jax.streaming.sound import voice_of
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.codec import (
    CODEC_HELP,
    CodecWeights,
    find_codec,
    load_codec,
    remove_codec,
    save_codec,
)
from mmduplex_jax.weights.notice import NOTICE_FILE, notice_behind
from mmduplex_jax.weights.trained import Trained, add_weights_flag, load_trained


def export(args: argparse.Namespace) -> None:
    """Does it, and prints a line that says what was written."""
    trained = load_trained(args.checkpoint, args.weights)
    config = json.loads(trained.config.to_json_best_effort())
    for name in ("pad_bias", "anew_at_cuts"):
        value = getattr(args, name)
        if value is not None:
            if trained.config.stage != "duplex":
                raise ValueError(
                    f"--{name} is of stage 'duplex', {args.checkpoint} is of stage {trained.config.stage!r}"
                )
            config[name] = value
    codec = codec_of(trained, args.codec)
    reports = {Path(path).stem: json.loads(Path(path).read_text(encoding="utf-8")) for path in args.scores}
    size = portable.save(
        args.out,
        trained.params,
        {
            "config": config,
            "tokenizer": json.loads(trained.tokenizer.to_json()),
            "steps": trained.steps,
            "data": {
                "config": json.loads(trained.config.data.to_json_best_effort()),
                "fingerprint": trained.metadata.get("data_fingerprint"),
            },
            "scores": reports,
            "note": args.note,
        },
        dtype=args.dtype,
        max_bytes=args.max_bytes,
        weights=trained.weights,
    )
    notice = notice_behind(config)
    if notice:
        (Path(args.out) / NOTICE_FILE).write_text(notice, encoding="utf-8")
    codec_size = 0 if codec is None else save_codec(args.out, codec, dtype=args.dtype, max_bytes=args.max_bytes)
    if codec is None:
        remove_codec(args.out)
    again, _ = portable.load(args.out)
    portable.check(again, trained.params, f"{args.out} against {args.checkpoint}")
    tensors = len(portable.flatten(again))
    stored = args.dtype if trained.weights == "float32" else f"{trained.weights}, the rest {args.dtype}"
    beside = "" if codec is None else f", and its codec, {codec_size:,} bytes"
    print(f"{args.out}: {tensors} tensors after {trained.steps} steps, {size:,} bytes ({stored}){beside}")


def codec_of(trained: Trained, named: str | None) -> CodecWeights | None:
    """The codec that goes along: the one that is named, else the one that lies beside the training.

    Raises:
      ValueError: it is another model's, or this one does not speak.
    """
    model = getattr(trained.task, "config", None)
    speaks = getattr(model, "audio", None) is not None
    folder = named if named is not None or not speaks else find_codec(trained.folder)
    if folder is None:
        return None
    if not isinstance(model, DualStreamConfig):
        raise ValueError(f"--codec is of stage 'duplex', {trained.folder} is of stage {trained.config.stage!r}")
    codec = load_codec(folder)
    voice_of(model, codec.config, codec.params, str(folder))
    return codec


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 with a message where something is missing or does not fit."""
    flags = command_parser("launch.export", __doc__)
    flags.add_argument(
        "--checkpoint", required=True, metavar="WORKDIR", help="workdir of a training, or WORKDIR/checkpoints/STEP"
    )
    flags.add_argument("--out", required=True, metavar="DIR", help="folder to write; an older export in it is replaced")
    flags.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="how numbers are stored (default: %(default)s)",
    )
    add_weights_flag(flags)
    flags.add_argument(
        "--scores",
        nargs="*",
        default=[],
        metavar="JSON",
        help="reports of `launch.evaluate --json` to keep beside the weights",
    )
    flags.add_argument(
        "--pad_bias", type=float, metavar="X", help="added to silence's logit from now on (default: as it is)"
    )
    flags.add_argument(
        "--anew_at_cuts",
        action=argparse.BooleanOptionalAction,
        help="whether streams begin anew at cuts from now on (default: as it is)",
    )
    flags.add_argument("--codec", metavar="DIR", help=CODEC_HELP)
    flags.add_argument("--note", default="", help="a sentence on the training, kept as metadata `note`")
    flags.add_argument(
        "--max_bytes", type=int, default=portable.MAX_BYTES, help="refuse to write more (default: %(default)s)"
    )
    return run_main(flags, argv, export, {OSError: 1, ValueError: 1})


if __name__ == "__main__":
    sys.exit(main())
