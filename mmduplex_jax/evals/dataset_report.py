"""What is in a data set, in numbers: lengths, words, motion, tokens that would be spent, and its origin."""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from data_pipelines.dataset import open_dataset
from data_pipelines.geometry import check_shrinks, shrink_frames
from data_pipelines.manifest import REJECTED_NAME, ShardError, summary_of
from data_pipelines.schema import Record
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.clips import shard_records
from mmduplex_jax.frame_size import (
    FrameSize,
    fit_of,
    frame_size,
    size_flag,
    size_text,
    stored_size,
    whole_factor,
)
from mmduplex_jax.tokenizer import config as tokenizer_config
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.motion_field import MotionField
from mmduplex_jax.tokenizer.token_plan import plan_clip

# Clips are filled up to whole multiples of this, so that few lengths are compiled.
_ROUND_TICKS = 25
_PERCENTILES = (5, 25, 50, 75, 95)
# Shifts of this many plane pixels a tick, and more, are counted together.
_FASTEST = 5
_EXAMPLES_PER_CAUSE = 3
# Between updates of the progress bar where it goes to a file.
_LOG_INTERVAL_S = 10.0


@dataclasses.dataclass(frozen=True)
class ClipFacts:
    """What is measured of one clip.

    Attributes:
      key: names it.
      duration_s: of its video.
      words: how many.
      words_per_s: over the time in which it would have words (see `Record.words_from_s`); 0 where there is none.
      timing, language, license: as the record has them.
      source: of its provenance, "" where it does not say.
      has_caption, has_audio, has_motion: whether the record has one.
      tokens: int `[T, 2]`, an anchor's tokens and flow tokens that each tick would spend; None where it is not asked.
      shifts: int `[_FASTEST + 1]`, cells by how far they move apart from the camera, in plane pixels a tick.
      camera_moves: share of ticks in which the picture shifts as a whole.
      residual: mean of what is left after the best match, in grey levels a pixel.
    """

    key: str
    duration_s: float
    words: int
    words_per_s: float
    timing: str
    language: str
    license: str
    source: str
    has_caption: bool
    has_audio: bool
    has_motion: bool
    tokens: np.ndarray | None
    shifts: np.ndarray
    camera_moves: float
    residual: float


def clip_facts(record: Record, motion: np.ndarray, tokens: np.ndarray | None) -> ClipFacts:
    """Measures a clip.

    Args:
      record: the clip.
      motion: its field, int8 `[T, Y, X, 4]` as `mmduplex_jax.tokenizer.motion_field.MotionField` gives it.
      tokens: see `ClipFacts.tokens`.
    """
    duration_s = record.clock.tick_time_s(record.num_ticks)
    speech_s = max(duration_s - record.words_from_s, 0.0)
    shifts, camera_moves = _shifts(motion)
    return ClipFacts(
        key=record.key,
        duration_s=duration_s,
        words=len(record.words),
        words_per_s=len(record.words) / speech_s if speech_s else 0.0,
        timing=record.timing,
        language=record.language,
        license=record.license,
        source=str(record.provenance.get("source", "")),
        has_caption=bool(record.caption),
        has_audio=record.audio is not None,
        has_motion=record.motion is not None,
        tokens=tokens,
        shifts=shifts,
        camera_moves=camera_moves,
        residual=float(motion[1:, ..., 2].mean()) if len(motion) > 1 else 0.0,
    )


def _shifts(motion: np.ndarray) -> tuple[np.ndarray, float]:
    """Cells by their shift apart from the camera's, and the share of ticks in which the camera moves."""
    if len(motion) < 2:
        return np.zeros(_FASTEST + 1, np.int64), 0.0  # the first tick has nothing to be compared with
    vectors = motion[1:, ..., :2].astype(np.int64).reshape(len(motion) - 1, -1, 2)
    camera = np.partition(vectors, vectors.shape[1] // 2, axis=1)[:, vectors.shape[1] // 2]  # the upper median
    own = np.abs(vectors - camera[:, None]).max(axis=-1)
    return np.bincount(np.minimum(own, _FASTEST).ravel(), minlength=_FASTEST + 1), float(camera.any(axis=1).mean())


def token_counter(config: TokenizerConfig) -> Callable[[np.ndarray], np.ndarray]:
    """A function from frames uint8 `[T, H, W, 3]` to tokens int `[T, 2]` (an anchor's, flow) that would be spent.

    Where tokens are spent is decided without parameters, so an untrained tokenizer spends as a trained one does.
    """

    @jax.jit
    def count(frames):
        plan = plan_clip(frames, config)
        return plan.anchor_tokens, plan.flow.sum(axis=-1)

    def tokens(frames: np.ndarray) -> np.ndarray:
        ticks = -(-len(frames) // _ROUND_TICKS) * _ROUND_TICKS
        # What comes after a tick does not change it.
        filled = np.concatenate([frames, np.repeat(frames[-1:], ticks - len(frames), axis=0)])
        return np.stack(count(filled), axis=-1)[: len(frames)]

    return tokens


def most_in_a_second(tokens: np.ndarray, clock: Clock) -> int:
    """The most tokens in any half-open second, of int `[T]` a tick."""
    window = min(clock.ticks_in_a_second, len(tokens))
    return int(np.convolve(tokens, np.ones(window, np.int64)).max())


def distribution(values: Sequence[float], bins: int = 12) -> dict[str, Any]:
    """Mean, range, percentiles and a histogram of numbers, as JSON values; at least one number."""
    array = np.asarray(values, np.float64)
    counts, edges = np.histogram(array, bins=bins)
    return {
        "mean": float(array.mean()),
        "min": float(array.min()),
        "max": float(array.max()),
        **{f"p{p}": float(value) for p, value in zip(_PERCENTILES, np.percentile(array, _PERCENTILES))},
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def measured(facts: Sequence[ClipFacts], clock: Clock, plane_px: FrameSize, cap: int | None) -> dict[str, Any]:
    """The numbers of the clips that were measured, as JSON values.

    Args:
      facts: of each; at least one.
      clock: of the data set.
      plane_px: height and width of the plane in which motion was matched.
      cap: tokens that the tokenizer may spend in a second; None where they were not counted.

    Raises:
      ValueError: there are no clips.
    """
    if not facts:
        raise ValueError("there are no clips to measure")
    duration_s = sum(clip.duration_s for clip in facts)
    shifts = np.sum([clip.shifts for clip in facts], axis=0)
    return {
        "clips": len(facts),
        "hours": duration_s / 3600,
        "length_s": distribution([clip.duration_s for clip in facts]),
        "words_per_s": distribution([clip.words_per_s for clip in facts]),
        "without_words": sum(clip.words == 0 for clip in facts),
        "timing": _counted(clip.timing for clip in facts),
        "language": _counted(clip.language or "unknown" for clip in facts),
        "with_caption": sum(clip.has_caption for clip in facts),
        "with_audio": sum(clip.has_audio for clip in facts),
        "with_motion": sum(clip.has_motion for clip in facts),
        "origin": [
            {"source": source or "unknown", "license": license_ or "unknown", "clips": count}
            for (source, license_), count in Counter((clip.source, clip.license) for clip in facts).most_common()
        ],
        "motion": {
            "plane_px": stored_size(plane_px),
            "cells_by_shift": (shifts / max(int(shifts.sum()), 1)).tolist(),
            "camera_moves": float(np.average([c.camera_moves for c in facts], weights=[c.duration_s for c in facts])),
            "residual": distribution([clip.residual for clip in facts]),
        },
        "tokens": _spending(facts, clock, cap),
    }


def _spending(facts: Sequence[ClipFacts], clock: Clock, cap: int | None) -> dict[str, Any] | None:
    spent = [clip.tokens for clip in facts if clip.tokens is not None]
    if not spent:
        return None
    duration_s = sum(len(tokens) for tokens in spent) * clock.tick_s
    anchors, flow = sum(tokens.sum(axis=0) for tokens in spent).tolist()
    return {
        "per_s": (anchors + flow) / duration_s,
        "anchor_per_s": anchors / duration_s,
        "flow_per_s": flow / duration_s,
        "most_in_a_second": max(most_in_a_second(tokens.sum(axis=1), clock) for tokens in spent),
        "cap": cap,
        "clips_per_s": distribution([float(tokens.sum()) / (len(tokens) * clock.tick_s) for tokens in spent]),
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def tokenizer_of(config: Any, name: str, frame_px: FrameSize, clock: Clock) -> TokenizerConfig:
    """The tokenizer of an experiment's config, for data of `frame_px` and `clock`; larger frames are shrunk to it.

    Raises:
      ValueError: it does not take the data's frames, or spends no video tokens; named by `name`.
    """
    if "tokenizer" not in config:
        raise ValueError(f"{name} is of stage {config.stage!r}, which spends no video tokens: give another --config")
    own = Clock(**config.clock)
    wanted = frame_size(config.frame_px)
    try:
        check_shrinks(frame_px, wanted)
        fits = own == clock
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} takes frames of {size_text(wanted)} by {own}, the data has {size_text(frame_px)} and {clock}: "
            f"give another --config, or change this one with --config.frame_px={size_flag(frame_px)} and the like"
        )
    return tokenizer_config.from_mapping(config.tokenizer, config.frame_px, own, fit_of(config))


def inspect(
    directory: Path,
    config: Any,
    config_name: str,
    *,
    must_fit: bool = True,
    clips: int = 64,
    seed: int = 0,
    on_clip: Callable[[Record, ClipFacts], None] = lambda record, facts: None,
) -> dict[str, Any]:
    """The report of a data set as JSON values; its progress goes to stderr.

    Args:
      directory: of shards.
      config: an experiment's config whose tokenizer's tokens are counted.
      config_name: of that config, for the report.
      must_fit: whether a config that does not fit the data is an error; else tokens are not counted, and the report
        says why.
      clips: how many are measured.
      seed: which.
      on_clip: called with each of them.

    Raises:
      ShardError: the directory is unfinished or damaged, or holds no shards.
      ValueError: the config does not fit, or motion cannot be matched in frames of this size.
    """
    dataset = open_dataset(directory)
    clock = dataset.clock
    report: dict[str, Any] = {"directory": str(directory)} | summary_of(dataset.manifest)
    report["clock"] = dataclasses.asdict(clock) | {"tick_hz": clock.tick_hz}
    report["rejected_examples"] = _rejected_examples(directory)
    if not len(dataset):
        return report | {"measured": None, "tokenizer": None}
    tokenizer, why_not = None, ""
    try:
        tokenizer = tokenizer_of(config, config_name, dataset.frame_px, clock)
    except ValueError as error:
        if must_fit:
            raise
        why_not = str(error)
    report["tokenizer"] = {"config": config_name, "why_not": why_not}
    motion_of = _motion_field(dataset.frame_px, tokenizer)
    count = None if tokenizer is None else token_counter(tokenizer)
    compiled: set[int] = set()
    facts, plane_px = [], (0, 0)
    number, records = shard_records(directory, seed, clips)
    interval_s = 0.1 if sys.stderr.isatty() else _LOG_INTERVAL_S
    with tqdm(total=number, desc="measuring", unit="clip", leave=False, mininterval=interval_s) as progress:
        for record in records:
            frames, tokens = record.frames, None
            if tokenizer is not None:
                frames = shrink_frames(frames, tokenizer.frame_px)  # as in training
            motion = motion_of(frames) if record.motion is None else record.motion
            if count is not None:
                rounded = -(-len(frames) // _ROUND_TICKS)
                if rounded not in compiled:
                    progress.set_description(f"compiling for clips of {clock.tick_time_s(rounded * _ROUND_TICKS):g} s")
                tokens = count(frames)
                compiled.add(rounded)
                progress.set_description("measuring", refresh=False)
            facts.append(clip_facts(record, motion, tokens))
            plane_px = 2 * motion.shape[1], 2 * motion.shape[2]
            on_clip(record, facts[-1])
            progress.update()
    cap = None if tokenizer is None else tokenizer.cap
    return report | {"measured": measured(facts, clock, plane_px, cap)}


def _motion_field(frame_px: FrameSize, tokenizer: TokenizerConfig | None) -> MotionField:
    """How motion is matched where none is stored: as the tokenizer does it."""
    if tokenizer is not None:
        return MotionField(**dataclasses.asdict(tokenizer.motion))
    for factor in range(1, min(frame_px) // 2 + 1):
        plane_px = frame_px[0] // factor, frame_px[1] // factor
        even = not any(side % 2 for side in plane_px)
        if even and max(plane_px) <= 64 and whole_factor(frame_px, plane_px) == factor:
            return MotionField(plane_px)
    raise ValueError(
        f"motion cannot be matched in frames of {size_text(frame_px)}: no integer divides both sides into even ones"
    )


def _rejected_examples(directory: Path) -> dict[str, list[dict[str, str]]]:
    """The first few lines of rejected.jsonl of each cause; ShardError where the file is damaged."""
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
                    "`python -m launch.prepare` again, which writes both anew"
                ) from error
    return examples


def shown_size(report: Mapping[str, Any]) -> str:
    """The size of a report's frames for people."""
    return size_text(frame_size(report["frame_px"])) if report["frame_px"] else "no frames"


def format_report(report: Mapping[str, Any]) -> str:
    """A report of `inspect` as a person reads it."""
    rows = [
        ("samples", f"{report['samples']:,} from {report['units']:,} units, in shards: {report['shards']:,}"),
        (
            "video",
            f"{report['hours']:,.2f} h of {shown_size(report)} at {report['clock']['tick_hz']:g} frames a second; "
            f"the longest clip has {report['longest_s']:.1f} s",
        ),
        ("size", f"{report['bytes'] / 1e6:,.1f} MB, {report['bytes_an_hour'] / 1e6:,.1f} MB an hour"),
        ("words", f"{report['words']:,}, {report['words_a_second']:.2f} a second"),
    ]
    rows += [(f"rejected, {cause}", f"{count:,}") for cause, count in report["rejected"].items()]
    if report["measured"] is not None:
        rows += _measured_rows(report["measured"], report["tokenizer"])
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}".rstrip() for name, value in rows)


def _measured_rows(found: Mapping[str, Any], tokenizer: Mapping[str, str]) -> list[tuple[str, str]]:
    motion, tokens = found["motion"], found["tokens"]
    plane = size_text(frame_size(motion["plane_px"]))
    shifts = "  ".join(f"{share:.0%}" for share in motion["cells_by_shift"])
    kept = f"captions {found['with_caption']}, audio {found['with_audio']}, stored motion {found['with_motion']}"
    count = f"not counted: {tokenizer['why_not']}"
    if tokens is not None:
        count = (
            f"{tokens['per_s']:.1f} a second by {tokenizer['config']}: {tokens['anchor_per_s']:.1f} anchor, "
            f"{tokens['flow_per_s']:.1f} flow; at most {tokens['most_in_a_second']} in a second (cap {tokens['cap']})"
        )
    return [
        ("", ""),
        ("measured", f"{found['clips']:,} clips, {found['hours']:.2f} h, the same ones each time"),
        ("length", _spread(found["length_s"], " s")),
        ("words a second", f"{_spread(found['words_per_s'], '')}; {found['without_words']} clips without words"),
        ("word timing", _shares(found["timing"])),
        ("language", _shares(found["language"])),
        ("with", kept),
        (
            "motion",
            f"cells that move by 0, 1, 2 … plane pixels a tick (of {plane}): {shifts}",
        ),
        ("camera", f"moves in {motion['camera_moves']:.0%} of ticks"),
        ("tokens", count),
        *(("from", f"{one['source']}, licence {one['license']}: {one['clips']}") for one in found["origin"]),
    ]


def _spread(of: Mapping[str, float], unit: str) -> str:
    return f"{of['mean']:.2f}{unit} on average; half within {of['p25']:.2f} to {of['p75']:.2f}{unit}"


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.0%}" for name, count in counts.items())
