r"""Which threshold of motion suits a data set? Counts how many flow tokens a second each would spend.

    python -m launch.calibrate --config=configs/quickstart.py --data=data/plain
    python -m launch.calibrate \
        --config=configs/bflow_75m.py --data=data/mine --tokens_per_s=24 --json=thresholds.json

B-Flow spends a flow token on a peak of motion whose saliency is over `tokenizer.budget.flow_threshold`. The right value
depends on the camera, the codec and the frame size, so it is a quantile of your data: the command prints the
quantiles, the mean rate that each buys, and the lowest one that stays under `--tokens_per_s`. Train with it as
`--config.tokenizer.budget.flow_threshold=N`. The cap of every second holds whatever you take.

Exit codes: 0 done, 1 no threshold stays under --tokens_per_s, 2 config, data or flags do not fit each other.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from data_pipelines.manifest import ShardError
from data_pipelines.shards import open_dataset
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import fit_of, size_text
from mmduplex_jax.stages.config_file import add_config_flag, add_json_flag, command_parser, run_main, show
from mmduplex_jax.tokenizer import config as tokenizer_config
from mmduplex_jax.tokenizer.token_plan import peak_levels, plan_clip

QUANTILES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A threshold, the quantile of the peaks' saliency that it is, and what it spends."""

    quantile: float
    threshold: int
    flow_tokens_per_s: float


def choices(frames: list[np.ndarray], config: tokenizer_config.TokenizerConfig) -> list[Choice]:
    """What each quantile of `QUANTILES` would spend on clips `uint8 [T, H, W, 3]` of one length, rising."""
    levels = jax.jit(lambda clip: peak_levels(clip, config))

    @jax.jit
    def flow_tokens(clip: Any, threshold: Any) -> Any:
        # The threshold is an argument, so that all of them share one compiled program.
        budget = dataclasses.replace(config.budget, flow_threshold=threshold)
        return plan_clip(clip, dataclasses.replace(config, budget=budget)).flow.sum()

    measured = np.concatenate([np.asarray(levels(clip)).ravel() for clip in tqdm(frames, "motion", unit="clip")])
    duration_s = sum(config.clock.tick_time_s(len(clip)) for clip in frames)
    found = []
    for quantile in tqdm(QUANTILES, "budgets", unit="threshold"):
        threshold = int(np.quantile(measured, quantile))
        spent = sum(int(flow_tokens(clip, threshold)) for clip in frames)
        found.append(Choice(quantile, threshold, spent / duration_s))
    return found


def calibrate(config: Any, data: str, clips: int) -> list[Choice]:
    """The choices for `clips` clips of a data set, evenly over it.

    Raises:
      ShardError: `data` is no folder of shards, or a broken one.
      ValueError: data and config do not fit each other.
    """
    source = open_dataset(data)
    clock = Clock(**config.clock)
    if source.clock != clock:
        raise ValueError(f"{data} has {source.clock}, the config {clock}: prepare the data with the config's clock")
    tokenizer = tokenizer_config.from_mapping(config.tokenizer, config.frame_px, clock, fit_of(config))
    if tokenizer.kind != "bflow":
        raise ValueError(f"tokenizer.kind is {tokenizer.kind!r}: only bflow has thresholds")
    which = np.unique(np.linspace(0, len(source) - 1, min(clips, len(source))).astype(int))
    records = [source[int(i)] for i in which]
    wrong = [r.key for r in records if r.frames.shape[1:3] != tokenizer.frame_px]
    if wrong:
        size = size_text(tokenizer.frame_px)
        raise ValueError(f"{data}: frames of {wrong[0]} are not {size}, as config.frame_px says")
    return choices([r.frames for r in records if r.num_ticks == source.longest_ticks], tokenizer)


def work(args: argparse.Namespace) -> int:
    """Reads, and prints the table; returns the exit code."""
    if args.clips < 1 or args.tokens_per_s < 0:
        raise ValueError("--clips is at least 1, --tokens_per_s at least 0")
    found = calibrate(args.config, args.data, args.clips)
    under = [choice for choice in found if choice.flow_tokens_per_s <= args.tokens_per_s]
    lines = [f"{'quantile':>8} {'threshold':>10} {'flow tokens/s':>14}"]
    for choice in found:
        mark = "  <- take this one" if under and choice == under[0] else ""
        lines.append(f"{choice.quantile:8.2f} {choice.threshold:10d} {choice.flow_tokens_per_s:14.1f}{mark}")
    show(args, {"choices": [dataclasses.asdict(choice) for choice in found]}, "\n".join(lines))
    if not under:
        print(f"error: no quantile spends under {args.tokens_per_s} flow tokens a second; raise it", file=sys.stderr)
    return 0 if under else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("launch.calibrate", __doc__)
    add_config_flag(flags)
    add = flags.add_argument
    add("--data", required=True, metavar="DIR", help="a folder of shards, made by launch.prepare")
    add("--clips", type=int, default=64, metavar="N", help="clips to read, evenly over the data (default: %(default)s)")
    add(
        "--tokens_per_s",
        type=float,
        default=16.0,
        metavar="N",
        help="flow tokens that may be spent in a second on average (default: %(default)s)",
    )
    add_json_flag(flags, "write the table here as JSON")
    return run_main(flags, argv, work, {ShardError: 2, ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
