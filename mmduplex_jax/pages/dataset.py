"""The page of `launch.inspect`: a data set in numbers, and some of its clips with their words and tokens."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from data_pipelines.schema import Event, Record, Word
from mmduplex_jax.evals.dataset_report import ClipFacts, shown_size
from mmduplex_jax.frame_size import frame_size, size_text
from mmduplex_jax.pages import Page, jpeg, render
from mmduplex_jax.pages.things import Moment, has_boxes, is_narrated, moments_of, with_boxes

# A picture a second, this wide; words and tokens below it keep the same scale.
_SECOND_PX = 96
_THUMBNAIL_PX = 144  # its own pixels: half as many again, for dense screens
_SHOWN_S = 60  # longer clips are shown up to here
_BARS_PX = 56


class Chart(NamedTuple):
    """A bar chart: what it is of, the label and share of each bar, and a note below."""

    title: str
    bars: Sequence[tuple[str, float]]
    note: str


@dataclasses.dataclass(frozen=True)
class PageClip:
    """What the page shows of a clip; small, so that the clip itself can be freed.

    Attributes:
      facts: its numbers.
      sheet: JPEG of its pictures, one a second, side by side.
      high_px: how high they are shown.
      shown_s: how much of it is shown.
      words, events: those of that time.
      words_from_s: see `Record.words_from_s`.
      caption: of the whole.
      tokens: int `[T', 2]` of the ticks that are shown, None where they are not counted.
      tick_s: time from a tick to the next.
      provenance: where it comes from.
      moments: of a clip whose things have places, a picture of each event with the things in boxes.
    """

    facts: ClipFacts
    sheet: bytes
    high_px: int
    shown_s: float
    words: Sequence[Word]
    events: Sequence[Event]
    words_from_s: float
    caption: str
    tokens: np.ndarray | None
    tick_s: float
    provenance: Mapping[str, Any]
    moments: Sequence[Moment] = ()

    @property
    def is_narrated(self) -> bool:
        """Whether its words are a teacher's, so that a person should look before they are believed."""
        return is_narrated(self.provenance)

    @property
    def sources(self) -> Mapping[str, Any]:
        """Its provenance without boxes, which are drawn."""
        return {name: value for name, value in self.provenance.items() if name != "tracks"}

    @property
    def starts(self) -> list[tuple[str, float]]:
        """The text and the start of each word."""
        return [(word.text, word.start_s) for word in self.words]

    @property
    def tags(self) -> list[str]:
        """Facts of a few characters each."""
        facts = self.facts
        tags = [f"{facts.duration_s:.1f} s", f"{facts.words_per_s:.2f} words/s", f"timing: {facts.timing}"]
        if facts.tokens is not None:
            tags.append(f"{facts.tokens.sum() / facts.duration_s:.1f} tokens/s")
        tags += [tag for tag in (facts.language, facts.license, "audio" if facts.has_audio else "") if tag]
        if self.shown_s < facts.duration_s:
            tags.append(f"first {self.shown_s:.0f} s")
        return tags


def page_clip(record: Record, facts: ClipFacts) -> PageClip:
    """Makes a clip ready for the page."""
    clock = record.clock
    shown_s = min(facts.duration_s, _SHOWN_S)
    seconds = range(max(int(np.ceil(shown_s)), 1))
    pictures = [record.frames[min(clock.tick_at(float(second)), record.num_ticks - 1)] for second in seconds]
    if has_boxes(record):
        pictures = [with_boxes(picture, record, second) for picture, second in zip(pictures, seconds)]
    height_px, width_px = record.frame_px
    size = (_THUMBNAIL_PX, round(_THUMBNAIL_PX * height_px / width_px))
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
    return PageClip(
        facts=facts,
        sheet=jpeg(np.concatenate(small, axis=1), quality=80),
        high_px=round(_SECOND_PX * height_px / width_px),
        shown_s=shown_s,
        words=sorted((word for word in record.words if word.start_s < shown_s), key=lambda word: word.start_s),
        events=[event for event in record.events if event.t_s < shown_s],
        words_from_s=record.words_from_s,
        caption=record.caption,
        tokens=None if facts.tokens is None else facts.tokens[: clock.ticks_in(shown_s)],
        tick_s=clock.tick_s,
        provenance=record.provenance,
        moments=moments_of(record, shown_s) if has_boxes(record) else (),
    )


def dataset_page(report: Mapping[str, Any], clips: Sequence[PageClip]) -> Page:
    """The page of a report of `evals.dataset_report.inspect` and some of its clips."""
    counts = [clip.tokens.sum(axis=1).max() for clip in clips if clip.tokens is not None and len(clip.tokens)]
    return render(
        "dataset.html",
        report["directory"],
        report=report,
        charts=_charts(report),
        frames=shown_size(report),
        clips=clips,
        second_px=_SECOND_PX,
        bars_px=_BARS_PX,
        top_tokens=max([*counts, 1]),
    )


def _charts(report: Mapping[str, Any]) -> list[Chart]:
    measured = report["measured"]
    if measured is None:
        return []
    motion, tokens = measured["motion"], measured["tokens"]
    plane = size_text(frame_size(motion["plane_px"]))
    fastest = len(motion["cells_by_shift"]) - 1
    charts = [
        _histogram("Words a second", measured["words_per_s"], "Clips by their mean."),
        _histogram("Length", measured["length_s"], "Clips by seconds."),
        Chart(
            "Motion",
            [(f"{px}{'+' if px == fastest else ''}", share) for px, share in enumerate(motion["cells_by_shift"])],
            f"Cells by how far they move against the camera, in pixels a tick of a {plane} plane. The "
            f"camera moves in {motion['camera_moves']:.0%} of ticks.",
        ),
    ]
    if tokens is not None:
        charts.append(
            _histogram(
                "Tokens a second",
                tokens["clips_per_s"],
                f"Clips by their mean, under {report['tokenizer']['config']}: {tokens['anchor_per_s']:.1f} anchor and "
                f"{tokens['flow_per_s']:.1f} flow; at most {tokens['most_in_a_second']} in any second, cap "
                f"{tokens['cap']}.",
            )
        )
    return charts


def _histogram(title: str, of: Mapping[str, Any], note: str) -> Chart:
    edges, counts = of["histogram"]["edges"], of["histogram"]["counts"]
    digits = max(0, math.ceil(-math.log10(edges[1] - edges[0])))  # so that the ends of a bar differ
    if of["min"] == of["max"]:
        bars = [(f"{of['min']:.{digits}f}", 1.0)]
    else:
        total = sum(counts)
        bars = [(f"{a:.{digits}f}–{b:.{digits}f}", count / total) for a, b, count in zip(edges, edges[1:], counts)]
    spread = f"half within {of['p25']:.2f} to {of['p75']:.2f}, all within {of['min']:.2f} to {of['max']:.2f}"
    return Chart(title, bars, f"{note} Mean {of['mean']:.2f}, {spread}.")
