r"""Makes a pack of real things for the world's look `real`: cut-outs with alpha, and backgrounds.

    python -m launch.make_pack --coco=instances_val2017.json --images=val2017 --out=packs/mine
    python -m launch.make_pack --masks=DAVIS --classes=classes.json --out=packs/mine
    python -m launch.make_pack --backgrounds=my_cameras --balls=100 --out=packs/mine
    python -m launch.prepare --config=configs/data/world_real.py --config.world.pack=packs/mine --out=data/world-real

Several sources may be named at once or one after another; each adds to the pack. A run that was stopped goes on where
it was. What is not taken is listed in rejected.jsonl with its cause: cut off by the picture's edge, too small, in
pieces, a crowd, no picture, no class.

--coco takes things of every category (polygons or run lengths) and, as backgrounds, pictures without people, animals
and vehicles. --masks takes JPEGImages/NAME/*.jpg with Annotations/NAME/*.png, as DAVIS has them; --classes says what
each is: {"dog": "dog", "car-turn": {"class": "car", "facing": "left"}, "bmx": {"1": "person", "2": "bicycle"}}.
--backgrounds takes pictures and videos; of a video of a fixed camera its median picture, in which nothing that moves
is left. --balls draws balls, mostly of one colour, which photographs seldom show.

Look at what was cut out before you train on it, and mind the licence of every picture: it is kept in the lists.

Exit codes: 0 done; 1 something cannot be read or written; 2 no such flag; 130 Ctrl-C.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from data_pipelines.world.real.drawn_balls import add_balls
from data_pipelines.world.real.from_coco import add_coco, count_coco
from data_pipelines.world.real.from_masks import add_backgrounds, add_masks, read_classes
from data_pipelines.world.real.pack_writer import REJECTED_FILE, PackWriter
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show


def parser() -> argparse.ArgumentParser:
    """The flags, with a help that teaches."""
    flags = command_parser("launch.make_pack", __doc__, compiles=False)
    add = flags.add_argument
    add("--out", metavar="DIR", required=True, help="the pack; made, or added to")
    add("--coco", metavar="FILE", help="an instances file of COCO; needs --images")
    add("--images", metavar="DIR", help="the pictures of --coco")
    add("--masks", metavar="DIR", help="a folder with JPEGImages and Annotations; needs --classes")
    add("--classes", metavar="FILE", help="JSON: what each sequence of --masks shows")
    add("--backgrounds", metavar="DIR", help="a folder of pictures, and of videos of fixed cameras")
    add("--balls", metavar="COUNT", type=int, default=0, help="how many drawn balls the pack shall have")
    add("--per_class", type=int, default=400, help="of --coco: cut-outs of a class at most (default: %(default)s)")
    add("--pictures", type=int, default=400, help="of --coco: backgrounds at most, in all runs (default: %(default)s)")
    add("--no_colours", action="store_true", help="of --coco: do not write down the colour of things of one colour")
    add("--fps", type=float, default=24.0, help="of --masks: pictures a second (default: %(default)s)")
    add("--stride", type=int, default=2, help="of --masks: every how many are taken (default: %(default)s)")
    add("--licence", default="", metavar="TEXT", help="of --masks and --backgrounds")
    add_json_flag(flags)
    return flags


def make(args: argparse.Namespace) -> None:
    """Adds all that is named.

    Raises:
      PackError: something is not of its form (a ValueError).
      OSError: something cannot be read or written.
      ValueError: flags that need each other, or a number out of its range.
    """
    if args.balls < 0:
        raise ValueError("--balls must not be negative")
    if not (args.coco or args.masks or args.backgrounds or args.balls):
        raise ValueError(
            "name what to make it from: --coco=FILE --images=DIR, --masks=DIR, --backgrounds=DIR or --balls=COUNT"
        )
    for flag, needed in (("coco", "images"), ("masks", "classes")):
        if getattr(args, flag) and not getattr(args, needed):
            raise ValueError(f"--{flag} needs --{needed}")
    if min(args.per_class, args.pictures, args.stride, args.fps) <= 0:
        raise ValueError("--per_class, --pictures, --stride and --fps must be positive")
    writer = PackWriter(Path(args.out))
    parts: list[Iterator[str]] = []
    total: int | None = None
    if args.coco:
        coco = Path(args.coco)
        parts.append(
            add_coco(writer, coco, Path(args.images), per_class=args.per_class, backgrounds=args.pictures,
                     colours=not args.no_colours)
        )  # fmt: skip
        total = count_coco(coco)
    if args.masks:
        classes = read_classes(Path(args.classes))
        parts.append(
            add_masks(writer, Path(args.masks), classes, fps=args.fps, stride=args.stride, licence=args.licence)
        )
    if args.backgrounds:
        parts.append(add_backgrounds(writer, Path(args.backgrounds), licence=args.licence))
    if args.balls:
        parts.append(add_balls(writer, args.balls))
    for _ in tqdm(itertools.chain(*parts), total=total, unit="thing", desc="make_pack", disable=None):
        pass
    report = {
        "cutouts": writer.cutouts,
        "backgrounds": writer.backgrounds,
        "kept": writer.kept,
        "classes": dict(writer.classes.most_common()),
        "rejected": dict(writer.rejected.most_common()),
    }
    listed = f", listed in {Path(args.out) / REJECTED_FILE}" if writer.rejected else ""
    lines = [
        f"{args.out}: {writer.cutouts:,} cut-outs and {writer.backgrounds:,} backgrounds more than before",
        "  " + ", ".join(f"{name} {count:,}" for name, count in writer.classes.most_common()),
        f"  rejected {writer.rejected.total():,}{listed}",
        *(f"    {cause} {count:,}" for cause, count in writer.rejected.most_common()),
    ]
    show(args, report, "\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    stopped = "stopped; what is listed is kept, the same command goes on from there"
    return run_main(parser(), argv, make, {OSError: 1, ValueError: 1}, stopped=stopped)


if __name__ == "__main__":
    sys.exit(main())
