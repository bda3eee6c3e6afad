r"""Encodes prepared video, or its sound, once, so that trainings read what a model takes instead of pixels or samples.

    python -m launch.encode --config=configs/quickstart.py --data=data/plain --out=encoded/plain
    python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart --config.data.encoded=encoded/plain

Which tokens there are and where they look depends on no parameter, and a tower that `config.train.groups` never trains
makes the same of a picture at every step: of these the features are kept, in the precision of --dtype. Of towers that
are trained (and of crops without a tower) the pictures are kept, cut out. Losses are those of training from pixels: to
1e-5 with float32, with float16 to the third digit or so.

The config is that of the training; `config.init_from` says where its towers come from. --out receives a file for every
shard of --data, encoded.json (what it was encoded by: sight, towers, hashes) and parts. Interrupted? The same command
goes on where it was. A training whose sight, clip length or tower weights differ is refused, and told what differs.

With --codec instead of --config it is sound that is encoded: the shards are written again, their records with the
codec's codes in the place of their sound, and a model that speaks learns from them (docs/speech.md):

    python -m launch.encode --codec=runs/codec --data=data/voiced --out=data/spoken

A record longer than config.data.clip_s gives several clips, --every_s after one another: other pieces of it are not
seen. Flips left to right need pixels: --mirrored keeps every clip flipped as well.

Exit codes: 0 done; 1 something does not fit; 2 no such flag or field; 130 Ctrl-C.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from data_pipelines.dataset import open_dataset
from data_pipelines.manifest import ShardError
from mmduplex_jax.stages.config_file import (
    add_config_flag,
    add_json_flag,
    at_least,
    command_parser,
    run_main,
    shown_on,
    write_json,
)
from mmduplex_jax.stages.encoding import DTYPES, encode
from mmduplex_jax.stages.evaluation import check_fit
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.stages.sound_codes import encode_sound
from mmduplex_jax.weights.trained import load_tokenizer

_STOPPED = "stopped. Finished files are kept; the same command goes on from here."


def parser() -> argparse.ArgumentParser:
    """The flags, with their help."""
    flags = command_parser("launch.encode", __doc__)
    add_config_flag(flags, required=False)
    add = flags.add_argument
    add("--codec", metavar="DIR", help="encode sound, by this codec: a training, an export, or imported weights")
    add("--codebooks", type=at_least(1), metavar="N", help="with --codec: codes of each step to keep (default: all)")
    add("--data", metavar="DIR", required=True, help="shards that `python -m launch.prepare` wrote")
    add("--out", metavar="DIR", required=True, help="receives the encoded clips; made if need be")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="of features (default: %(default)s)")
    add("--mirrored", action="store_true", help="keep every clip flipped left to right, too")
    add("--every_s", type=float, default=0.0, help="between the clips of a longer record (default: a clip's length)")
    add("--batch", type=int, default=4, help="clips at a time (default: %(default)s)")
    add_json_flag(flags, "write what was done")
    return flags


def work(args: argparse.Namespace) -> None:
    """Encodes and says what was done."""
    if (args.config is None) == (args.codec is None):
        raise ValueError("give --config to encode what is seen, or --codec to encode what is heard")
    if args.codec is None and args.codebooks is not None:
        raise ValueError("--codebooks goes with --codec")
    if args.codec is None:
        encode_video(args)
    else:
        encode_tracks(args)


def encode_tracks(args: argparse.Namespace) -> None:
    """Encodes sound tracks, and says what was done."""
    begin_s, screen, source = time.monotonic(), shown_on(args.json), open_dataset(args.data)
    with tqdm(total=len(source), unit="record", desc="encode", disable=None) as progress:
        report, codec = encode_sound(
            args.codec,
            args.data,
            args.out,
            codebooks=args.codebooks or 0,
            batch=args.batch,
            on_records=progress.update,
        )
    done = {
        "out": args.out,
        "codec": codec,
        "records": report.manifest.num_records,
        "files_written": len(report.written),
        "files_kept": len(report.kept),
        "bytes": sum(shard.size_bytes for shard in report.manifest.shards),
        "took_s": time.monotonic() - begin_s,
    }
    files = f"{done['files_written']} files written, {done['files_kept']} were there"
    print(
        f"{args.out}: {done['records']:,} records with codes of codec {codec}, {done['bytes']:,} bytes; {files}; "
        f"{done['took_s']:.1f} s",
        file=screen,
    )
    write_json(args.json, done)


def encode_video(args: argparse.Namespace) -> None:
    """Encodes what a model sees, and says what was done."""
    begin_s, screen = time.monotonic(), shown_on(args.json)
    tokenizer = load_tokenizer(args.config)
    task = build_task(args.config, tokenizer)
    source = open_dataset(args.data)
    check_fit(args.data, source.manifest, args.config)
    with tqdm(total=len(source), unit="record", desc="encode", disable=None) as progress:
        report = encode(
            args.config,
            task,
            tokenizer,
            args.data,
            args.out,
            dtype=args.dtype,
            mirrored=args.mirrored,
            every_s=args.every_s,
            batch=args.batch,
            log=lambda line: print(line, file=screen, flush=True),
            on_records=progress.update,
        )
    done = {"out": args.out, **report.as_json(), "took_s": time.monotonic() - begin_s}
    kept = ", ".join(f"{sees} as {'features' if there else 'pictures'}" for sees, there in report.features.items())
    files = f"{done['files_written']} files written, {done['files_kept']} were there"
    print(
        f"{args.out}: {done['clips']:,} clips ({kept}), {done['bytes']:,} bytes; {files}; {done['took_s']:.1f} s",
        file=screen,
    )
    write_json(args.json, done)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return run_main(parser(), argv, work, {ShardError: 1, ValueError: 1, OSError: 1}, stopped=_STOPPED)


if __name__ == "__main__":
    sys.exit(main())
