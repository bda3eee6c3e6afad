"""The first ten minutes with this repository: `make demo`.

Part one (two minutes): films a clip that no training has seen, and lets the shipped model commentate it while it plays.
Part two: makes a small world of clips, trains a model on it before your eyes, and lets that one commentate the same
clip. Every step is one of the command lines of the README, printed as you would type it. `TRAIN=0` ends after part one.

Everything lands in `demo_out/`. Run again, finished steps are not redone; delete the folder to start afresh.
"""

import os
import sys
import time
from pathlib import Path

from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.stages.chain import StepFailed, run_command

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("demo_out")  # relative to ROOT, so that the printed commands can be typed again
# No config trains on this seed, so its clips are new to every model.
UNSEEN_SEED = 20_240_229
CLIP_S = 24.0
EVALUATED_CLIPS = 24
TRAINED_CLIPS = 6000


def run(title: str, *arguments: str) -> float:
    """Runs `python -m <arguments>` in the repository and lets it write to this terminal. Returns its seconds."""
    print(f"\n--- {title}", flush=True)
    # The steps compile much the same programs; what one has compiled the next one reads.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / OUT / "jax_cache")}
    took_s = run_command(arguments, cwd=ROOT, environment=cache)
    print(f"\n--- done in {took_s:.0f} s", flush=True)
    return took_s


def commentate(title: str, clip: Path, name: str, *more: str) -> float:
    """Commentates `clip` at its own speed; writes `<name>.vtt`, `<name>.json` and the rendered `<name>.mp4`."""
    return run(
        title,
        "launch.commentate",
        f"--source={clip}",
        "--realtime",
        f"--out={OUT / name}.vtt",
        f"--render={OUT / name}.mp4",
        f"--json={OUT / name}.json",
        *more,
    )


def watch_shipped_model() -> tuple[Path, dict[str, float]]:
    """Part one. Returns the clip, and the seconds of each step."""
    started_s = time.monotonic()
    (ROOT / OUT).mkdir(exist_ok=True)
    files = write_clip_files(ROOT / OUT, WorldConfig(look="plain", clip_s=CLIP_S), seed=UNSEEN_SEED, index=0)
    clip = Path(files.video).relative_to(ROOT)
    times_s = {"film a clip": time.monotonic() - started_s}
    times_s["commentate (shipped)"] = commentate("The shipped model watches a clip it has never seen", clip, "shipped")
    return clip, times_s


def train_and_watch(clip: Path) -> dict[str, float]:
    """Part two. Returns the seconds of each step."""
    world, workdir = OUT / "world", OUT / "quickstart"
    return {
        "make the world": run(
            "A small world of clips, written as shards",
            "launch.prepare",
            "--config=configs/data/world.py",
            f"--out={world}",
            f"--config.clips={TRAINED_CLIPS}",
        ),
        "train": run(
            "Training on that world",
            "launch.train",
            "--config=configs/quickstart.py",
            f"--workdir={workdir}",
            f"--config.data.dirs={world}",
        ),
        "commentate (yours)": commentate(
            "The model you have just trained watches the same clip", clip, "yours", f"--checkpoint={workdir}"
        ),
        "evaluate": run(
            f"Its score on {EVALUATED_CLIPS} clips it has never seen",
            "launch.evaluate",
            f"--checkpoint={workdir}",
            "--data=world",
            f"--clips={EVALUATED_CLIPS}",
            f"--seed={UNSEEN_SEED}",
            f"--json={OUT / 'scores.json'}",
        ),
    }


def closing(clip: Path, times_s: dict[str, float], trained: bool) -> str:
    """What took how long, where to look, and what to do next."""
    lines = ["", "Times"]
    lines += [f"  {step:<22}{seconds:6.0f} s" for step, seconds in times_s.items()]
    lines += [f"  {'together':<22}{sum(times_s.values()):6.0f} s", "", "Where to look"]
    lines += [
        f"  {clip}  the clip; beside it, what the world's own commentator said (.vtt) and what happened (.json)",
        f"  {OUT / 'shipped.mp4'}  the clip with the model's words as subtitles and its tokens on the picture",
        f"  {OUT / 'shipped.json'}  every word with its video time and emit time, speed, tokens a second",
    ]
    if trained:
        lines += [
            f"  {OUT / 'yours.mp4'}  the same clip, commentated by the model you trained",
            f"  {OUT / 'scores.json'}  its precision, recall and latency, beside controls",
            f"  {OUT / 'quickstart'}  its checkpoints, its resolved config and metrics.jsonl",
        ]
    lines += ["", "What to do next", "  python -m launch.commentate --source=YOUR_VIDEO.mp4"]
    if trained:
        lines += [
            "  python -m launch.train --config=configs/quickstart.py --workdir=runs/longer \\",
            f"      --config.data.dirs={OUT / 'world'} --config.train.steps=9600    four times as long",
            "  docs/train_it_yourself.md: the larger configs; docs/design.md: how it works",
        ]
    else:
        lines += ["  make demo    the same, and then a training of ten minutes"]
    return "\n".join(lines)


def main() -> None:
    """Runs both parts, or with `TRAIN=0` in the environment the first."""
    train = os.environ.get("TRAIN", "1")
    if train not in ("0", "1"):
        sys.exit(f"TRAIN must be 0 (only watch the shipped model) or 1 (train one too), got {train!r}")
    try:
        clip, times_s = watch_shipped_model()
        if train == "1":
            times_s |= train_and_watch(clip)
    except StepFailed as failure:
        sys.exit(f"make demo: {failure}")
    print(closing(clip, times_s, trained=train == "1"), flush=True)


if __name__ == "__main__":
    main()
