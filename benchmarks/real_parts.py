"""Which part of a model fails on labelled real videos: does it look there, does it know what it sees, does it say so?

    python -m benchmarks.real_parts --root=LABELLED --checkpoint=runs/real --split=held
    python -m benchmarks.real_parts --root=LABELLED --checkpoint=runs/real --cameras='yard|road' --json=parts.json

LABELLED has clips.jsonl and its videos (docs/real.md). The model must have learned to name what flow tokens look at
(config.loss.crop_name_weight). Of each labelled event

    looked  there was a flow token near its time (a second to either side), at its side of the picture where it has one
    named   the class that the model's tokens there name most, all of them together, is the event's
    said    a phrase named it, kind and class, in time; `said kind`: its kind alone

Cars, trucks and buses are one class. `nothing` is the mean probability, over all flow tokens of a video, that a token
gives to looking at no thing at all: what is spent on leaves, light and noise.
"""

import argparse
import contextlib
import functools
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from data_pipelines.decode import VideoReader
from data_pipelines.labelled_videos import LabelledVideo, read_labelled_videos
from data_pipelines.schema import Event
from data_pipelines.world import event_words
from mmduplex_jax.commentator import commentator_of
from mmduplex_jax.evals.real_events import Heard, LabelledClip, claim_of, heard_of
from mmduplex_jax.evals.report import aligned, cell
from mmduplex_jax.frame_size import fit_of
from mmduplex_jax.models.dual_stream import DualStream, DualStreamConfig, LiveState
from mmduplex_jax.planning.cost import live_step_flops
from mmduplex_jax.real_videos import SPLITS, choose_cameras, held_cameras_of, watch_live
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.text_tokenizer import UnknownWordError
from mmduplex_jax.tokenizer.bflow import FLOW
from mmduplex_jax.typing import Array
from mmduplex_jax.weights.trained import CHECKPOINT_HELP, Trained, load_trained

_NEAR_S = 1.0
# An event at a side is looked at in the outer two fifths of the picture there.
_SIDE_SHARE = 0.4
_PARTS = ("events", "looked", "named", "said_kind", "said")


class Looked(NamedTuple):
    """What flow tokens look at in a video, `N` of them.

    Attributes:
      t_s: when.
      centre: `[N, 2]`, where, as shares of height and width.
      names: `[N, V]`, how likely each word names it.
    """

    t_s: np.ndarray
    centre: np.ndarray
    names: np.ndarray


@functools.cache
def _tick_of(config: DualStreamConfig) -> Callable[..., Any]:
    """The compiled tick: of parameters, state and frame the state, which tokens are of flow, where, and their names."""

    def run(module: DualStream, state: LiveState, frame: Array) -> tuple[LiveState, Array, Array, Array]:
        state, tokens = module.video_step(state, frame, jnp.ones(1, bool))
        named = module.crop_name_head(tokens.values).astype(jnp.dtype(config.text.dtype))
        state = state._replace(step=state.step + config.clock.video_stride)
        return state, tokens.valid & (tokens.kind == FLOW), tokens.centre_px, module.language.logits(named)

    return jax.jit(lambda params, *given: DualStream(config).apply({"params": params}, *given, method=run))


def look(trained: Trained, video: LabelledVideo) -> Looked:
    """Lets the tokenizer watch a whole video, a tick at a time; VideoError where it cannot be decoded."""
    assert isinstance(trained.task, DuplexTask)  # no other names what it looks at
    config, params = trained.task.config, jax.device_put(trained.params)
    tick = _tick_of(config)
    state = DualStream(config).apply({"params": params}, 1, method="initial_state")
    t_s: list[float] = []
    centres, names = [], []
    with VideoReader(video.path, config.clock, config.tokenizer.frame_px, fit_of(trained.config)) as reader:
        for shown in reader.ticks():
            state, flow, centre, logits = tick(params, state, shown.frame[None])
            which = np.flatnonzero(flow[0])
            t_s += [shown.t_s] * len(which)
            centres.append(np.asarray(centre[0])[which] / np.array(config.tokenizer.frame_px))
            names.append(np.asarray(jax.nn.softmax(logits[0]))[which])
    return Looked(np.array(t_s), np.concatenate(centres), np.concatenate(names))


def near(event: Event, looked: Looked) -> np.ndarray:
    """Which tokens look at an event, bool [N]."""
    there = np.abs(looked.t_s - event.t_s) <= _NEAR_S
    row, column = looked.centre.T
    sides = {"left": column, "right": 1 - column, "top": row, "bottom": 1 - row}
    return there & (sides[event.detail] <= _SIDE_SHARE) if event.detail in sides else there


def words_of_classes(trained: Trained, classes: Sequence[str]) -> dict[str, list[int]]:
    """By class (vehicles are one) the ids of the words that name it; classes without a word are left out."""
    found: dict[str, list[int]] = defaultdict(list)
    for name in classes:
        noun = event_words.noun_of(name)
        with contextlib.suppress(UnknownWordError):
            number = trained.tokenizer.encode_word(noun.split()[0])[0]
            found[claim_of(("enters", noun, "")).group].append(number)
    return found


def parts_of(
    trained: Trained, video: LabelledVideo, classes: tuple[str, ...], heard: Sequence[Heard]
) -> tuple[list[dict[str, Any]], float]:
    """A row for each event of a video, and the mean probability of "nothing" over its flow tokens."""
    looked, words = look(trained, video), words_of_classes(trained, classes)
    rows = []
    for event, said in zip(video.events, heard):
        tokens, group = near(event, looked), claim_of(event.attributes, classes).group
        total = looked.names[tokens].sum(axis=0)
        named = max(words, key=lambda name: total[words[name]].sum()) if tokens.any() else ""
        rows.append(
            {"video": video.name, "t_s": event.t_s, "kind": event.kind, "class": group, "looked": int(tokens.sum()),
             "named": named, "said_kind": said.kind, "said": said.whole}
        )  # fmt: skip
    nothing = float(looked.names[:, trained.tokenizer.pad_id].mean()) if len(looked.names) else 0.0
    return rows, nothing


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The report: shares of events by class, and a row for each event."""
    trained = load_trained(args.checkpoint)
    if not getattr(trained.task, "crop_name_weight", 0.0):
        raise ValueError(
            f"{trained.name} has not learned to name what it looks at: train with config.loss.crop_name_weight"
        )
    videos = read_labelled_videos(args.root)
    videos = choose_cameras(videos, args.split, held_cameras_of(trained.config), args.cameras)
    model, flops = commentator_of(trained, trained.name), live_step_flops(trained.task)
    rows, nothing = [], []
    for video in tqdm(videos.videos, unit="video", disable=None, file=sys.stderr):
        watched = watch_live(model, video, flops, videos.classes, pad_bias=args.pad_bias)
        clip = LabelledClip(video.name, watched.duration_s, video.events, watched.said, video.view, video.camera)
        of_video, share = parts_of(trained, video, videos.classes, heard_of(clip, videos.classes))
        rows += of_video
        nothing.append(share)
    return {"nothing": float(np.mean(nothing)), "rows": _shares(rows), "events": rows}


def _shares(events: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Shares of events, of all and by class, the most frequent first."""
    counts = Counter(event["class"] for event in events)
    groups = {"all": events} | {
        name: [event for event in events if event["class"] == name] for name, _ in counts.most_common()
    }
    return {
        name: {
            "events": len(some),
            "looked": sum(event["looked"] > 0 for event in some) / len(some),
            "named": sum(event["named"] == event["class"] for event in some) / len(some),
            "said_kind": sum(event["said_kind"] for event in some) / len(some),
            "said": sum(event["said"] for event in some) / len(some),
        }
        for name, some in groups.items()
        if some
    }


def work(args: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    report = measure(args)
    lines = [["class", *(name.replace("_", " ") for name in _PARTS)]]
    lines += [
        [name, *(cell(row[part], "d" if part == "events" else ".2f") for part in _PARTS)]
        for name, row in report["rows"].items()
    ]
    show(args, report, f"{aligned(lines)}\n{report['nothing']:.0%} of what flow tokens name is nothing")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.real_parts", __doc__)
    add = flags.add_argument
    add("--root", required=True, metavar="DIR", help="a folder with clips.jsonl and the videos that it labels")
    add("--checkpoint", metavar="NAME|DIR", help=CHECKPOINT_HELP)
    add("--split", choices=SPLITS, default="all", help="cameras that training held back, or has seen (default: all)")
    add("--cameras", default="", metavar="REGEX", help="only cameras whose whole name matches")
    add("--pad_bias", type=float, default=0.0, help="added to silence's logit: more is quieter (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, OSError: 2})


if __name__ == "__main__":
    sys.exit(main())
