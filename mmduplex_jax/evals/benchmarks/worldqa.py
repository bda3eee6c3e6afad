"""worldqa: questions about the built-in world, 15 s to an hour of it, in LongVideoBench's layout; made, not downloaded.

A video is clips of the world one after another. In most of them there are only circles, squares and triangles: the
haystack. In a few a needle comes in: a person, a dog or a car, once. Half of the videos stop two seconds after their
last needle has come in, so that there is always a question whose answer was just to be seen, however long the video
was; the others are asked when it is over. Who sees everything and forgets nothing has 1.0 on all of it.

Who comments what it sees has answered already: under the rule `commentary` the answer is read out of what was said
while watching, by the world's own grammar. Under `calibrated` a model that compares options' likelihoods answers with
the option that gained most by the video: what is likely before anything was seen is taken off (Holtzman et al., 2021,
arXiv 2104.08315; Zhao et al., 2021, arXiv 2102.09690). Every question is also written as the begin of a sentence in the
commentator's own words (`cloze`) where it has such words: so a commentator can be asked that knows no others.
"""

import dataclasses
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from tqdm import tqdm

from data_pipelines.schema import Event
from data_pipelines.world.clip import make_clip, plan_clip
from data_pipelines.world.commentator import SIDES, split_phrases
from data_pipelines.world.config import WorldConfig
from mmduplex_jax.evals.benchmarks import longvideobench
from mmduplex_jax.evals.benchmarks.json_files import read_json, write_json
from mmduplex_jax.evals.benchmarks.protocol import (
    SCORES,
    SCORES_UNSEEN,
    BenchmarkError,
    Control,
    Item,
    ItemScore,
    Prediction,
    letter_of,
    written_choice,
)
from mmduplex_jax.evals.captions import words_of

TITLE = "what came in, from where, how often and first, in 15 s to an hour of the built-in world; made by --make"
RULES = (*longvideobench.RULES, "commentary", "calibrated")
read_predictions, write_predictions = longvideobench.read_predictions, longvideobench.write_predictions
aggregate, aggregate_draws = longvideobench.aggregate, longvideobench.aggregate_draws

# How many videos of each length are made, in seconds.
VIDEOS: Mapping[int, int] = {15: 40, 60: 16, 600: 6, 3600: 2}
_QUESTIONS = "lvb_val.json"
# Of which seed the videos are: their names do not tell.
_SEED = "seed.json"
_CLIP_S = 15
# What never is in the haystack.
_NEEDLES = ("person", "dog", "car")
# A video that stops with its last needle does so this long after: its phrase could be said by then.
_AFTER_S = 2.0
# No needle is told to have come in while the clip was just beginning, or so late that it was hardly seen.
_CAME_IN_S = (1.0, _CLIP_S - 2.0)
_TIMES = ("never", "once", "twice", "three times")
_TRIES = 2000
# Pixels are few, so they are kept almost as they are.
_QUALITY = {"crf": "12", "preset": "veryfast"}


class Needle(NamedTuple):
    """Something that comes in.

    Attributes:
      clip: which of the video's clips.
      shape, colour, side: what, how it looks, from where.
      t_s: when, in seconds of the video.
      world_index: of the clip among all that its shape is in.
    """

    clip: int
    shape: str
    colour: str
    side: str
    t_s: float
    world_index: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A video: its clips, and what comes in.

    Attributes:
      haystack: indices of the clips without needles, one a clip of the video.
      needles: in the order of time.
      counted: the shape whose number is asked for.
      duration_s: of the video.
    """

    name: str
    group_s: int
    haystack: tuple[int, ...]
    needles: tuple[Needle, ...]
    counted: str
    duration_s: float


def load_items(root: Path) -> list[Item]:
    """The questions of a folder that `make` wrote; errors as of `longvideobench.load_items`."""
    items = longvideobench.load_items(root)
    records = {record["id"]: record for record in read_json(root if root.suffix == ".json" else root / _QUESTIONS)}
    facts_of = lambda record: {name: record[name] for name in ("about", "cloze") if name in record}
    more = {"said_counts": True}
    return [dataclasses.replace(item, facts={**item.facts, **more, **facts_of(records[item.key])}) for item in items]


def score(items: Sequence[Item], predictions: Mapping[str, Prediction], rule: str) -> list[ItemScore]:
    """As LongVideoBench; under `commentary` what was said while watching is the answer, under `calibrated` the option
    whose likelihood gained most by it.

    There what somebody wrote who did not watch (`Prediction.tokens` None: a control) counts as it is, as does what was
    answered without comparing likelihoods under `calibrated`.
    """
    if rule not in ("commentary", "calibrated"):
        return longvideobench.score(items, predictions, rule)
    read_as = _told if rule == "commentary" else _calibrated
    read = {item.key: read_as(item, predictions[item.key]) for item in items if item.key in predictions}
    return longvideobench.score(items, read, "official")


def _told(item: Item, prediction: Prediction) -> Prediction:
    """The letter of the option that was said; "" where nothing was said about it."""
    if prediction.tokens is None:
        return prediction
    words = [(word, one.start_s) for one in prediction.said for word in one.text.split()]
    came = [found for found, _, _ in split_phrases(words) if found is not None and found[0] == "enters"]
    about = item.facts["about"]
    of_it = [found for found in came if found[1].split()[1] in ((about,) if about else _NEEDLES)]
    category = item.groups["category"]
    if category == "count":
        said = _TIMES[min(len(of_it), len(_TIMES) - 1)]
    elif not of_it:
        return Prediction()
    elif category == "first":
        said = of_it[0][1].split()[1]
    else:
        said = of_it[-1][1].split()[0] if category == "colour" else of_it[-1][2]
    return Prediction(letter_of(item.options.index(said)) if said in item.options else "")


def _calibrated(item: Item, prediction: Prediction) -> Prediction:
    """The letter of the option whose likelihood gained most by the video."""
    if SCORES_UNSEEN not in prediction.facts:
        return prediction
    gained = np.subtract(prediction.facts[SCORES], prediction.facts[SCORES_UNSEEN])
    return dataclasses.replace(prediction, text=written_choice(item, int(gained.argmax())))


def figures(
    items: Sequence[Item], predictions: Mapping[str, Prediction], scores: Sequence[ItemScore], rule: str
) -> dict[str, Any]:
    """LongVideoBench's; and of questions about colours and sides two biases that options have.

    `by_option`: how often each is answered, and right. `said_last`: of the questions of which an option was said while
    watching, by how long ago the answer was seen: how many there are; how often the option is answered that was said
    last, and how often the right one; and the same of those where the one that was said last is wrong.
    """
    by_option: dict[str, Counter[str]] = defaultdict(Counter)
    said_last: dict[str, Counter[str]] = defaultdict(Counter)
    for item, one in zip(items, scores, strict=True):
        if item.groups["category"] not in ("colour", "side"):
            continue
        texts = {letter_of(number): option for number, option in enumerate(item.options)}
        answered, right = texts.get(one.shown["answer"], ""), texts[one.shown["right"]]
        by_option[right]["right"] += 1
        if answered:
            by_option[answered]["answered"] += 1
        said = predictions[item.key].said if item.key in predictions else ()
        last = next(
            (word for text in reversed(said) for word in reversed(words_of(text.text)) if word in texts.values()), ""
        )
        if not (last and answered):
            continue
        level = said_last[item.groups["level"]]
        for prefix in ("",) if last == right else ("", "wrong_"):
            level[f"{prefix}questions"] += 1
            level[f"{prefix}answered_last"] += answered == last
            level[f"{prefix}answered_right"] += answered == right
    return longvideobench.figures(items, predictions, scores, rule) | {
        "by_option": {option: dict(by_option[option]) for option in sorted(by_option)},
        "said_last": {level: dict(said_last[level]) for level in sorted(said_last)},
    }


def most_frequent(items: Sequence[Item]) -> dict[str, Prediction]:
    """The answer that is right most often to such questions about videos as long: knows the world, and sees nothing."""
    right = lambda item: item.options[item.facts["correct_choice"]]
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    asked = lambda item: (item.groups["category"], item.groups["duration"])
    for item in items:
        counts[asked(item)][right(item)] += 1
    best = lambda item: max(item.options, key=lambda option: counts[asked(item)][option])
    return {item.key: Prediction(letter_of(item.options.index(best(item)))) for item in items}


CONTROLS: Mapping[str, Control] = {**longvideobench.CONTROLS, "most_frequent": most_frequent}


def make(folder: Path, *, seed: int = 0, videos: Mapping[int, int] = VIDEOS) -> None:
    """Makes videos and questions; the same seed makes the same. Videos that are there already are not made again.

    Args:
      folder: becomes a folder in LongVideoBench's layout.
      seed: decides everything.
      videos: of each length in seconds, a multiple of 15, how many.

    Raises:
      BenchmarkError: the folder holds videos of another seed, which would be asked about what is not in them.
      OSError: it cannot be written there.
    """
    if any((folder / "videos").glob("*.mp4")):
        before = read_json(folder / _SEED) if (folder / _SEED).is_file() else "unknown"
        if before != seed:
            raise BenchmarkError(
                f"{folder}: holds videos of seed {before}, not {seed}: name another folder, or remove it"
            )
    for name in ("videos", "subtitles"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(folder / _SEED, seed)
    plans = [plan(seed, group_s, number) for group_s, count in videos.items() for number in range(count)]
    records: list[dict[str, Any]] = []
    for one in plans:
        records += questions(one, np.random.default_rng([seed, one.group_s, int(one.name.rpartition("_")[2]), 1]))
    total_s = sum(one.duration_s for one in plans)
    with tqdm(total=round(total_s), unit="s", desc="make", disable=None, file=sys.stderr) as progress:
        for one in plans:
            path = folder / "videos" / f"{one.name}.mp4"
            if not path.is_file():
                _write_video(path, _frames(one, seed))
            # Nobody speaks in it.
            write_json(folder / "subtitles" / f"{one.name}_en.json", [])
            progress.update(round(one.duration_s))
    write_json(folder / _QUESTIONS, records)


def plan(seed: int, group_s: int, number: int) -> Plan:
    """What happens in a video.

    Args:
      seed: of all videos.
      group_s: its length, before it is cut.
      number: of the video among those of its length. Those with an even one stop after their last needle.
    """
    rng = np.random.default_rng([seed, group_s, number])
    clips = group_s // _CLIP_S
    shapes = [str(shape) for shape in rng.permutation(_NEEDLES)]
    # One in the last clip, one of another shape before it where there is room, and of the third, which is counted, none
    # to three. Of a single clip it is counted whether what came in came in, or what did not.
    counted = shapes[int(rng.integers(2))] if clips == 1 else shapes[2]
    wanted = [shapes[0]] if clips == 1 else [shapes[1]] + [shapes[2]] * int(rng.integers(0, min(3, clips - 2) + 1))
    earlier = sorted(int(clip) for clip in rng.choice(clips - 1, min(len(wanted), clips - 1), replace=False))
    placed = [(clip, shape) for clip, shape in zip(earlier, rng.permutation(wanted).tolist())]
    needles = [_needle(rng, seed, clip, shape) for clip, shape in [*placed, (clips - 1, shapes[0])]]
    cut = number % 2 == 0
    duration_s = needles[-1].t_s + _AFTER_S if cut else float(group_s)
    haystack = tuple(int(index) for index in rng.integers(0, 2**31, clips))
    return Plan(f"world_{group_s}_{number}", group_s, haystack, tuple(needles), counted, duration_s)


def questions(video: Plan, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The questions about a video, as LongVideoBench writes them; the places of right answers are drawn."""
    found: list[dict[str, Any]] = []
    colours = WorldConfig().dynamics.colours
    number_of = {shape: sum(needle.shape == shape for needle in video.needles) for shape in _NEEDLES}

    def ask(
        category: str,
        text: str,
        right: str,
        options: Sequence[str],
        needle: Needle | None,
        about: str = "",
        cloze: Any = None,
    ) -> None:
        order = rng.permutation(len(options)).tolist()
        record = {
            "id": f"{video.name}_{len(found)}",
            "video_id": video.name,
            "video_path": f"{video.name}.mp4",
            "subtitle_path": f"{video.name}_en.json",
            "question": text,
            "question_wo_referring_query": text,
            "candidates": [options[place] for place in order],
            "correct_choice": order.index(list(options).index(right)),
            "position": [] if needle is None else [round(needle.t_s / _clock().tick_s)],
            "topic_category": "World",
            "question_category": category,
            "level": "whole video" if needle is None else _age(video.duration_s - needle.t_s),
            "duration_group": video.group_s,
            "starting_timestamp_for_subtitles": 0,
            "duration": video.duration_s,
            "about": about,
        }
        if cloze is not None:
            record["cloze"] = {"question": cloze[0], "options": [cloze[1][place] for place in order]}
        found.append(record)

    for needle in video.needles:
        shape = needle.shape
        if number_of[shape] > 1:
            continue
        cloze: Any = (f"from {needle.side} comes", [f"{colour} {shape}" for colour in colours])
        ask("colour", f"What colour was the {shape} that came in?", needle.colour, colours, needle, shape, cloze)
        cloze = (f"{needle.colour} {shape} enters", SIDES)
        ask("side", f"From which side did the {shape} come in?", needle.side, SIDES, needle, shape, cloze)
    counted = video.counted
    ask("count", f"How many times did a {counted} come in?", _TIMES[number_of[counted]], _TIMES, None, counted)
    if sum(number > 0 for number in number_of.values()) > 1:
        ask("first", "Which of these came in first?", video.needles[0].shape, _NEEDLES, video.needles[0])
    return found


def _age(since_s: float) -> str:
    """How long ago something was, when it is asked about."""
    return next((f"up to {limit} s ago" for limit in (3, 15, 60, 600) if since_s <= limit), "over 600 s ago")


def _needle(rng: np.random.Generator, seed: int, clip: int, shape: str) -> Needle:
    """A clip in which something of that shape comes in once, is not seen before, and keeps its colour."""
    config = _with(shape)
    first = int(rng.integers(0, 2**31))
    for index in range(first, first + _TRIES):
        scene, _, _ = plan_clip(config, seed, index)
        things = [thing for thing in scene.things if thing.shape == shape]
        event = _entry(scene.events, shape)
        if len(things) == 1 and len(things[0].colours) == 1 and event is not None:
            colour = event.subject.split()[0]
            return Needle(clip, shape, colour, event.detail, clip * _CLIP_S + event.t_s, index)
    raise RuntimeError(f"none of {_TRIES} clips from {first} on has a single {shape} that comes in")


def _entry(events: Sequence[Event], shape: str) -> Event | None:
    """The one event that brings something of that shape in; None where there is none, or another number."""
    found = [event for event in events if event.kind == "enters" and event.subject.split()[1] == shape]
    fits = len(found) == 1 and _CAME_IN_S[0] <= found[0].t_s <= _CAME_IN_S[1]
    return found[0] if fits else None


def _with(shape: str | None) -> WorldConfig:
    """The plain world; or with another shape in it, as large and drawn as the rich look has such shapes."""
    plain, rich = WorldConfig(clip_s=float(_CLIP_S)), WorldConfig(look="rich")
    if shape is None:
        return plain
    shapes = (*plain.dynamics.shapes, shape)
    dynamics = dataclasses.replace(plain.dynamics, shapes=shapes, size_px=rich.dynamics.size_px)
    return dataclasses.replace(plain, dynamics=dynamics, appearance=rich.appearance)


def _clock() -> Any:
    return _with(None).clock


def _frames(video: Plan, seed: int) -> Iterator[np.ndarray]:
    """The pictures of a video, one a tick."""
    needles = {needle.clip: needle for needle in video.needles}
    left = _clock().ticks_in(video.duration_s)
    for clip, index in enumerate(video.haystack):
        needle = needles.get(clip)
        config = _with(needle.shape if needle else None)
        frames = make_clip(config, seed, needle.world_index if needle else index).frames[:left]
        left -= len(frames)
        yield from frames


def _write_video(path: Path, frames: Iterator[np.ndarray]) -> None:
    """Writes pictures at the clock's rate of ticks; a file that is there is whole."""
    rate = Fraction(_clock().tick_hz).limit_denominator(1000)
    part = path.with_name(f"{path.name}.part")
    with av.open(str(part), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = _with(None).frame_px
        stream.pix_fmt, stream.options = "yuv420p", _QUALITY
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    part.replace(path)
