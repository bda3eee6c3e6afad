"""Whether crops fit what moves, by its size and by the scales that crops may have.

    python -m benchmarks.crop_scales
    python -m benchmarks.crop_scales --sizes_px=12,40,150 --scales=1+1,2,4 --json=crop_scales.json

Synthetic clips of one thing (a flat or a patterned ellipse) that crosses a patterned, noisy background at 224 px, so
that its mask is known. Of the best crop of every tick with motion: the share of the thing that lies in it (`inside`),
the share of it that is the thing (`filled`), its scale, and how many tokens the thing takes.
"""

import argparse
import functools
import sys
from collections.abc import Sequence

import jax
import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, listed, run_main, show
from mmduplex_jax.tokenizer import token_plan
from mmduplex_jax.tokenizer.budget import BudgetConfig
from mmduplex_jax.tokenizer.config import AnchorConfig, FlowConfig, TokenizerConfig
from mmduplex_jax.tokenizer.motion import MotionConfig
from mmduplex_jax.towers.vision import VisionConfig

FRAME_PX, CROP_PX = 224, 64


def tokenizer(scales: tuple[int, ...]) -> TokenizerConfig:
    """The sight of `configs/duplex_300m.py` with crops of these scales; what it does not take is as small as can be."""
    return TokenizerConfig(
        kind="bflow",
        frame_px=FRAME_PX,
        width=8,
        clock=Clock(),
        event=StackConfig(width=8, layers=1, heads=1, kv_heads=1, head_width=8, hidden=8, window_steps=4),
        motion=MotionConfig(plane_px=56, search_radius=5),
        budget=BudgetConfig(flow_threshold=600, nms_radius_px=28),
        anchor=AnchorConfig(VisionConfig(image_px=FRAME_PX, patch_px=112, width=8, layers=1, heads=1, hidden=8)),
        flow=FlowConfig(crop_px=CROP_PX, patch_px=CROP_PX, crop_scales=scales),
    )


def clip(size_px: int, seed: int, ticks: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """A thing that crosses: frames uint8 `[T, H, W, 3]` and where it is, bool `[T, H, W]`."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 180, (FRAME_PX // 16, FRAME_PX // 16, 3))
    background = coarse.repeat(16, axis=0).repeat(16, axis=1) * 0.5 + rng.integers(40, 70, 3)
    pattern = (
        rng.integers(0, 2, (12, 12, 1)).repeat(-(-size_px // 12) + 1, axis=0).repeat(-(-size_px // 12) + 1, axis=1)
    )
    colours = rng.integers(0, 256, (2, 3))
    if seed % 2:
        colours[1] = colours[0]  # flat
    texture = np.where(pattern[:size_px, :size_px] > 0, colours[0], colours[1])
    line = (np.arange(size_px) + 0.5) / size_px * 2 - 1
    shape = line[:, None] ** 2 + line[None] ** 2 <= 1
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(4, 14)
    step = speed * np.array([np.sin(angle), np.cos(angle)])
    middle = FRAME_PX / 2 + rng.uniform(-10, 10, 2)
    frames, masks = np.zeros((ticks, FRAME_PX, FRAME_PX, 3), np.uint8), np.zeros((ticks, FRAME_PX, FRAME_PX), bool)
    for t in range(ticks):
        top, left = np.round(middle + step * (t - ticks / 2) - size_px / 2).astype(int)
        frame = background + rng.normal(0, 3, background.shape)
        rows, columns = np.nonzero(shape)
        seen = (rows + top >= 0) & (rows + top < FRAME_PX) & (columns + left >= 0) & (columns + left < FRAME_PX)
        rows, columns = rows[seen], columns[seen]
        frame[rows + top, columns + left] = texture[rows, columns] + rng.normal(0, 3, (len(rows), 3))
        masks[t, rows + top, columns + left] = True
        frames[t] = np.clip(frame, 0, 255)
    return frames, masks


def fit(size_px: int, scales: tuple[int, ...], clips: int) -> dict[str, float]:
    """The figures of the module's docstring, means over ticks."""
    config = tokenizer(scales)
    plan_clip = jax.jit(functools.partial(token_plan.plan_clip, config=config))
    inside, filled, chosen, tokens = [], [], [], []
    for seed in range(clips):
        frames, masks = clip(size_px, seed)
        plan = jax.device_get(plan_clip(frames))
        for t in range(2, len(frames)):
            if not plan.flow[t, 0] or not masks[t].any():
                continue
            scale = int(plan.scale[t, 0])
            half = CROP_PX * scale // 2
            low = plan.centre_px[t, 0] // scale * scale - half
            box = tuple(slice(max(0, at), max(0, at + 2 * half)) for at in low)
            shared = masks[t][box].sum()
            inside.append(shared / masks[t].sum())
            filled.append(shared / (2 * half) ** 2)
            chosen.append(scale)
            tokens.append(plan.flow[t].sum())
    return {
        "size_px": size_px,
        "ticks": len(inside),
        "inside": float(np.mean(inside)),
        "filled": float(np.mean(filled)),
        "scale": float(np.mean(chosen)),
        "tokens": float(np.mean(tokens)),
    }


def work(args: argparse.Namespace) -> None:
    """Prints a row for every size and choice of scales."""
    rows, lines = [], []
    for choice in args.scales.split("+"):
        for size_px in args.sizes_px:
            row = fit(size_px, tuple(map(int, choice.split(","))), args.clips)
            rows.append({"scales": choice} | row)
            lines.append(
                f"scales {choice:8} {size_px:>4} px: inside {row['inside']:.2f}, filled {row['filled']:.2f}, "
                f"scale {row['scale']:.2f}, tokens a tick {row['tokens']:.2f} ({row['ticks']} ticks)"
            )
    show(args, rows, "\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.crop_scales", __doc__)
    flags.add_argument("--sizes_px", type=listed(int), default="12,40,150", help="of the things (default: %(default)s)")
    flags.add_argument("--scales", default="1+1,2,4", help="choices, joined by + (default: %(default)s)")
    flags.add_argument("--clips", type=int, default=16, help="of each size (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
