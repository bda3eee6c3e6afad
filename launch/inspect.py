"""What is in a dataset? Numbers, and a page to look at, before hours of a GPU are spent on it.

    python -m launch.inspect data/plain
    python -m launch.inspect data/mine --html=mine.html --json=mine.json --clips=200
    python -m launch.inspect data/mine --config=configs/duplex_300m.py --clips=1000

Counts, hours, bytes and rejected inputs are of the whole dataset, from its manifest, summary.json and rejected.jsonl.
Everything else is measured on `--clips` records, chosen by --seed, hence the same each time: lengths, words a second,
how well words are timed, languages, licences, motion (as stored, else computed), and the tokens that B-Flow would
spend, which it decides without parameters.

`--html` writes one page without any network: contact sheets with the words under them where they are said, and the
tokens of every tick. Frames are shrunk to what the config takes, as in training. Without --config, tokens are those of
configs/bflow_75m.py for frames of 224 px and more, and those of configs/quickstart.py for smaller ones.
"""

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags
from tqdm import tqdm

from data_pipelines.dataset import ShardDataset, open_dataset
from data_pipelines.geometry import shrink_frames
from data_pipelines.manifest import ShardError
from data_pipelines.parts import REJECTED_NAME
from data_pipelines.schema import Record
from data_pipelines.summary import summary_of
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.clips import shard_records
from mmduplex_jax.evals.dataset_report import ClipFacts, clip_facts, measured, token_counter
from mmduplex_jax.pages.inspect_page import PageClip, page, page_clip
from mmduplex_jax.tokenizer import config as tokenizer_config
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.motion_field import MotionField

# Frames of at least this side are taken for the large model's.
_LARGE_PX = 224
_EXAMPLES_PER_CAUSE = 3


@dataclasses.dataclass(frozen=True)
class Spending:
    """The tokenizer whose tokens are counted.

    Attributes:
      name: of its config.
      config: the tokenizer; None where there is none for these frames.
      why_not: then, what to do about it.
    """

    name: str
    config: TokenizerConfig | None
    why_not: str = ""


def spending_of(config: Any, name: str, frame_px: int, clock: Clock) -> Spending:
    """The tokenizer of a config that was given, or the one that is usual for frames of this size.

    Raises:
      ValueError: the config that was given does not fit the data.
    """
    if config is None:
        usual = "bflow_75m" if frame_px >= _LARGE_PX else "quickstart"
        name, config = f"configs/{usual}.py", importlib.import_module(f"configs.{usual}").get_config()
        if config.frame_px > frame_px or Clock(**config.clock) != clock:
            return Spending(name, None, f"it takes frames of {config.frame_px} px at its own clock: give a --config")
    own = Clock(**config.clock)
    if own != clock or config.frame_px > frame_px:
        raise ValueError(
            f"--config is of {config.frame_px} px and {own}, the data of {frame_px} px and {clock}: give another, "
            f"or set --config.frame_px={frame_px} and the like, or leave --config out"
        )
    return Spending(name, tokenizer_config.from_mapping(config.tokenizer, config.frame_px, own))


def rejected_examples(directory: Path) -> dict[str, list[dict[str, str]]]:
    """The first few lines of rejected.jsonl of each cause.

    Raises:
      ShardError: the file is damaged.
    """
    path = directory / REJECTED_NAME
    examples: dict[str, list[dict[str, str]]] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                item = json.loads(line)
                some = examples.setdefault(item["cause"], [])
                if len(some) < _EXAMPLES_PER_CAUSE:
                    some.append({"key": item["key"], "detail": item["detail"]})
            except (ValueError, KeyError, TypeError) as error:
                raise ShardError(
                    f"{path}, line {number} is damaged ({error!r}): delete manifest.json and run the same "
                    "`python -m launch.prepare` again, which puts both together anew"
                ) from error
    return examples


def inspect(
    directory: Path, *, config: Any = None, config_name: str = "", clips: int = 64, seed: int = 0, shown: int = 12
) -> tuple[dict[str, Any], list[PageClip]]:
    """Looks at a dataset, with progress on stderr.

    Args:
      directory: of shards.
      config: an experiment's config whose tokenizer's tokens are counted; None: the usual one.
      config_name: of that config, for the report.
      clips: how many are measured.
      seed: which.
      shown: how many of them are made ready for the page.

    Returns:
      The report as JSON values, and the clips of the page.

    Raises:
      ShardError: the directory is unfinished or damaged, or holds no shards.
      ValueError: the config does not fit the data.
    """
    dataset = open_dataset(directory)
    report: dict[str, Any] = {"directory": str(directory)} | summary_of(dataset.manifest)
    report["clock"] = dataclasses.asdict(dataset.clock) | {"tick_hz": dataset.clock.tick_hz}
    report["rejected_examples"] = rejected_examples(directory)
    if not len(dataset):
        return report | {"measured": None, "tokenizer": None}, []
    spending = spending_of(config, config_name, dataset.frame_px, dataset.clock)
    facts: list[ClipFacts] = []
    shown_clips: list[PageClip] = []
    plane_px = 0
    for record, motion, tokens in _looked_at(dataset, directory, spending, clips, seed):
        facts.append(clip_facts(record, motion, tokens))
        plane_px = 2 * motion.shape[1]
        if len(shown_clips) < shown:
            shown_clips.append(page_clip(record, facts[-1]))
    cap = None if spending.config is None else spending.config.cap
    report["measured"] = measured(facts, dataset.clock, plane_px, cap)
    report["tokenizer"] = {"config": spending.name, "why_not": spending.why_not}
    return report, shown_clips


def _looked_at(
    dataset: ShardDataset, directory: Path, spending: Spending, clips: int, seed: int
) -> Iterator[tuple[Record, np.ndarray, np.ndarray | None]]:
    """Records, their motion fields int8 [T, Y, X, 4], and the tokens int [T, 2] that they would take."""
    count = None if spending.config is None else token_counter(spending.config)
    motion_of = _motion_field(dataset.frame_px, spending.config)
    number, records = shard_records(directory, seed, clips)
    for record in tqdm(records, "clips", total=number, unit="clip", disable=None):
        # Larger frames than a tokenizer takes are shrunk, as in training.
        frames = record.frames if spending.config is None else shrink_frames(record.frames, spending.config.frame_px)
        motion = motion_of(frames) if record.motion is None else record.motion
        yield record, motion, None if count is None else count(frames)


def _motion_field(frame_px: int, tokenizer: TokenizerConfig | None) -> MotionField:
    """How motion is matched where none is stored: as the tokenizer does it."""
    if tokenizer is not None:
        return MotionField(**dataclasses.asdict(tokenizer.motion))
    divisors = [side for side in range(2, min(frame_px, 64) + 1, 2) if frame_px % side == 0]
    if not divisors:
        raise ValueError(f"motion cannot be matched in frames of {frame_px} px: their side has no even divisor")
    return MotionField(divisors[-1])


def table_of(report: Mapping[str, Any]) -> str:
    """The report for people, as text."""
    rows = [
        ("samples", f"{report['samples']:,} from {report['units']:,} units, in shards: {report['shards']:,}"),
        (
            "video",
            f"{report['hours']:,.2f} h of {report['frame_px']} px at {report['clock']['tick_hz']:g} frames a second; "
            f"the longest clip lasts {report['longest_s']:.1f} s",
        ),
        ("size", f"{report['bytes'] / 1e6:,.1f} MB, {report['bytes_an_hour'] / 1e6:,.1f} MB an hour"),
        ("words", f"{report['words']:,}, {report['words_a_second']:.2f} a second"),
    ]
    rows += [(f"rejected, {cause}", f"{count:,}") for cause, count in report["rejected"].items()]
    found = report["measured"]
    if found is None:
        return _aligned(rows)
    motion, tokens = found["motion"], found["tokens"]
    shifts = "  ".join(f"{share:.0%}" for share in motion["cells_by_shift"])
    rows += [
        ("", ""),
        ("looked at", f"{found['clips']:,} clips, {found['hours']:.2f} h, the same ones each time"),
        ("length", _spread(found["length_s"], "s")),
        ("words a second", f"{_spread(found['words_per_s'], '')}; {found['without_words']} clips without words"),
        ("timed by", _shares(found["timing"])),
        ("language", _shares(found["language"])),
        (
            "with",
            f"captions {found['with_caption']}, audio {found['with_audio']}, stored motion {found['with_motion']}",
        ),
        ("motion", f"cells that move by 0, 1, 2 … plane pixels a tick (of {motion['plane_px']}): {shifts}"),
        ("camera", f"moves in {motion['camera_moves']:.0%} of ticks"),
    ]
    name = report["tokenizer"]["config"]
    if tokens is None:
        rows.append(("tokens", f"not counted: {report['tokenizer']['why_not']}"))
    else:
        rows.append(
            (
                "tokens",
                f"{tokens['per_s']:.1f} a second by {name}: {tokens['anchor_per_s']:.1f} of anchors, "
                f"{tokens['flow_per_s']:.1f} of flow; at most {tokens['most_in_a_second']} in a second (cap "
                f"{tokens['cap']})",
            )
        )
    rows += [("from", f"{one['source']}, licence {one['license']}: {one['clips']}") for one in found["origin"]]
    return _aligned(rows)


def _aligned(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}".rstrip() for name, value in rows)


def _spread(of: Mapping[str, float], unit: str) -> str:
    unit = unit and " " + unit
    return f"{of['mean']:.2f}{unit} on average; half within {of['p25']:.2f} to {of['p75']:.2f}{unit}"


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.0%}" for name, count in counts.items())


def main(argv: list[str]) -> int:
    """The exit code: 0, or 1 with a message where the data cannot be looked at."""
    if len(argv) != 2:
        raise app.UsageError("give one directory: python -m launch.inspect DIR [--html=FILE] [--json=FILE]")
    given = flags.FLAGS
    if not given["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # JAX tells of every kind of device that is not there
    try:
        for name, file in (("html", given.html), ("json", given.json)):
            if file and not Path(file).absolute().parent.is_dir():
                raise ValueError(f"--{name}={file}: there is no folder {Path(file).absolute().parent}")
        report, shown = inspect(
            Path(argv[1]),
            config=given.config,
            config_name=config_flags.get_config_filename(given["config"]) if given.config is not None else "",
            clips=given.clips,
            seed=given.seed,
            shown=given.shown if given.html else 0,
        )
    except (OSError, ShardError, ValueError) as error:
        print(f"launch.inspect: {error}", file=sys.stderr)
        return 1
    print(f"{argv[1]}\n{table_of(report)}")
    if given.json:
        Path(given.json).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"\nall numbers: {given.json}")
    if given.html:
        Path(given.html).write_text(page(report, shown), encoding="utf-8")
        print(f"\nto look at: {given.html}")
    return 0


def define_flags() -> None:
    """Declares the flags; not at import, so that programs beside this one may have a `--config` of their own."""
    config_flags.DEFINE_config_file("config", None, "whose tokenizer's tokens are counted; see above for the default")
    flags.DEFINE_integer("clips", 64, "clips that are measured", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "which clips")
    flags.DEFINE_integer("shown", 12, "clips on the page, at most", lower_bound=0)
    flags.DEFINE_string("html", None, "write the page here")
    flags.DEFINE_string("json", None, "write every number here")


if __name__ == "__main__":
    define_flags()
    app.run(main)
