"""The page of `launch.inspect`: one HTML file that needs no network, with pictures inside it."""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np

from data_pipelines.schema import Record
from mmduplex_jax.evals.dataset_report import ClipFacts
from mmduplex_jax.pages.inspect_style import STYLE
from mmduplex_jax.pages.timeline import in_lanes, ruler, tick_bars

# A picture a second, this wide; words and tokens below it keep the same scale.
_SECOND_PX = 96
_THUMBNAIL_PX = 144  # its own pixels: half as many again, for dense screens
_SHOWN_S = 60  # longer clips are shown up to here
_BAR_HEIGHT_PX = 56


@dataclasses.dataclass(frozen=True)
class PageClip:
    """What the page shows of a clip; small, so that the clip itself can go.

    Attributes:
      facts: its numbers.
      sheet: JPEG of its pictures, one a second, side by side.
      shown_s: how much of it is shown.
      words: text, start and end in seconds (end is None where nobody says).
      words_from_s: see `Record.words_from_s`.
      caption: of the whole.
      events: time in seconds, and what happened.
      tokens: int `[T', 2]` of the ticks that are shown, None where they are not counted.
      tick_s: time from a tick to the next.
      provenance: where it comes from.
    """

    facts: ClipFacts
    sheet: bytes
    shown_s: float
    words: list[tuple[str, float, float | None]]
    words_from_s: float
    caption: str
    events: list[tuple[float, str]]
    tokens: np.ndarray | None
    tick_s: float
    provenance: Mapping[str, Any]


def page_clip(record: Record, facts: ClipFacts) -> PageClip:
    """Makes a clip ready for the page."""
    clock = record.clock
    shown_s = min(facts.duration_s, _SHOWN_S)
    seconds = range(max(int(np.ceil(shown_s)), 1))
    pictures = [record.frames[min(clock.tick_at(float(second)), record.num_ticks - 1)] for second in seconds]
    size = (_THUMBNAIL_PX, _THUMBNAIL_PX)
    small = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
    bgr = cv2.cvtColor(np.concatenate(small, axis=1), cv2.COLOR_RGB2BGR)
    written, sheet = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 80])
    if not written:
        raise ValueError(f"OpenCV could not write a JPEG of {bgr.shape[1]}×{bgr.shape[0]} pixels")
    return PageClip(
        facts=facts,
        sheet=sheet.tobytes(),
        shown_s=shown_s,
        words=[(word.text, word.start_s, word.end_s) for word in record.words if word.start_s < shown_s],
        words_from_s=record.words_from_s,
        caption=record.caption,
        events=[
            (event.t_s, " ".join((event.subject, event.kind, event.detail)).strip())
            for event in record.events
            if event.t_s < shown_s
        ],
        tokens=None if facts.tokens is None else facts.tokens[: clock.ticks_in(shown_s)],
        tick_s=clock.tick_s,
        provenance=record.provenance,
    )


def page(report: Mapping[str, Any], clips: Sequence[PageClip]) -> str:
    """The page.

    Args:
      report: as `launch.inspect.inspect` gives it.
      clips: to show.
    """
    name = escape(str(report["directory"]))
    found = report["measured"]
    body = [_head(report)]
    if found is not None:
        body.append(_measured(report, found))
    body.append(_rejected(report))
    if clips:
        most = max([int(c.tokens.sum(axis=1).max()) for c in clips if c.tokens is not None and len(c.tokens)] or [1])
        body.append("<h2>Clips</h2>" + _legend(clips))
        body += [_card(clip, max(most, 1)) for clip in clips]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _head(report: Mapping[str, Any]) -> str:
    tiles = [
        (f"{report['samples']:,}", "clips"),
        (_time(report["hours"]), "of video"),
        (_bytes(report["bytes"]), "on disk"),
        (_bytes(report["bytes_an_hour"]), "an hour"),
        (f"{report['words_a_second']:.2f}", "words a second"),
        (f"{report['rejected_samples']:,}", "rejected"),
    ]
    tokens = report["measured"] and report["measured"]["tokens"]
    if tokens:
        tiles.append((f"{tokens['per_s']:.1f}", "tokens a second"))
    inside = "".join(f"<div><b>{escape(value)}</b><span>{label}</span></div>" for value, label in tiles)
    clock = report["clock"]
    shards = f"{report['shards']:,} shard{'' if report['shards'] == 1 else 's'}"
    return (
        f"<header><h1>{escape(str(report['directory']))}</h1><p>{report['frame_px']} px at {clock['tick_hz']:g} "
        f"frames a second, a slot for text every {1000 / clock['step_hz']:g} ms; {report['words']:,} words in "
        f'{shards}</p></header><section class="tiles">{inside}</section>'
    )


def _measured(report: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    motion, tokens = found["motion"], found["tokens"]
    panels = [
        _histogram("Words a second", found["words_per_s"], "Clips by their mean"),
        _histogram("Length", found["length_s"], "Clips by seconds"),
        _bars(
            "Motion",
            [(f"{i}{'+' if i + 1 == len(motion['cells_by_shift']) else ''}", share) for i, share in
             enumerate(motion["cells_by_shift"])],
            f"Cells by their shift apart from the camera's, in pixels a tick of a plane of {motion['plane_px']}; the "
            f"camera moves in {motion['camera_moves']:.0%} of ticks",
        ),
    ]  # fmt: skip
    tokenizer = report["tokenizer"]
    if tokens is None:
        panels.append(f"<figure><h3>Tokens a second</h3><p>Not counted: {escape(tokenizer['why_not'])}</p></figure>")
    else:
        note = (
            f"Clips by their mean, as {tokenizer['config']} spends them: {tokens['anchor_per_s']:.1f} of anchors and "
            f"{tokens['flow_per_s']:.1f} of flow; at most {tokens['most_in_a_second']} in any second, of "
            f"{tokens['cap']}"
        )
        panels.append(_histogram("Tokens a second", tokens["clips_per_s"], note))
    rows = [
        ("Timed by", _shares(found["timing"])),
        ("Language", _shares(found["language"])),
        ("Without words", f"{found['without_words']:,}"),
        ("With", f"caption {found['with_caption']:,}, audio {found['with_audio']:,}, motion {found['with_motion']:,}"),
    ]
    kinds = "".join(f"<tr><th>{name}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    origin = "".join(
        f"<tr><td>{escape(one['source'])}</td><td>{escape(one['license'])}</td><td>{one['clips']:,}</td></tr>"
        for one in found["origin"]
    )
    return (
        f"<h2>Measured on {found['clips']:,} clips, {_time(found['hours'])}</h2>"
        f'<section class="panels">{"".join(panels)}</section>'
        f'<section class="tables"><div class="scroll"><table>{kinds}</table></div>'
        f'<div class="scroll"><table><tr><th>Source</th><th>Licence</th><th>Clips</th></tr>{origin}</table></div>'
        "</section>"
    )


def _rejected(report: Mapping[str, Any]) -> str:
    if not report["rejected"]:
        return "<h2>Rejected</h2><p>Nothing was rejected.</p>"
    rows = []
    for cause, count in sorted(report["rejected"].items(), key=lambda item: -item[1]):
        examples = "".join(
            f"<li><code>{escape(one['key'])}</code> {escape(one['detail'])}</li>"
            for one in report["rejected_examples"].get(cause, [])
        )
        rows.append(f"<tr><td>{escape(cause)}</td><td>{count:,}</td><td><ul>{examples}</ul></td></tr>")
    return (
        '<h2>Rejected</h2><div class="scroll"><table class="rejected">'
        "<tr><th>Cause</th><th>Inputs</th><th>Such as</th></tr>" + "".join(rows) + "</table></div>"
    )


def _histogram(title: str, of: Mapping[str, Any], note: str) -> str:
    edges, counts = of["histogram"]["edges"], of["histogram"]["counts"]
    total = max(sum(counts), 1)
    digits = 0 if edges[-1] >= 20 else 1
    bars = [
        (f"{low:.{digits}f}–{high:.{digits}f}", count / total) for low, high, count in zip(edges, edges[1:], counts)
    ]
    if of["min"] == of["max"]:
        bars = [(f"{of['min']:.{digits}f}", 1.0)]
    half = f"half within {of['p25']:.2f} to {of['p75']:.2f}, all within {of['min']:.2f} to {of['max']:.2f}"
    return _bars(title, bars, f"{note}. Mean {of['mean']:.2f}, {half}")


def _bars(title: str, bars: Sequence[tuple[str, float]], note: str) -> str:
    """A small bar chart of shares, the labels of the first and last bar under it."""
    highest = max([share for _, share in bars] or [1.0]) or 1.0
    columns = "".join(
        f'<i style="height:{max(100 * share / highest, 1 if share else 0):.1f}%" '
        f'title="{escape(label)}: {share:.1%}"></i>'
        for label, share in bars
    )
    few = len(bars) <= 8
    shown = [label if few or i in (0, len(bars) - 1) else "" for i, (label, _) in enumerate(bars)]
    labels = "".join(f"<span>{escape(label)}</span>" for label in shown if few or label)
    return (
        f'<figure><h3>{escape(title)}</h3><div class="bars">{columns}</div>'
        f'<div class="labels{" few" if few else ""}">{labels}</div><figcaption>{escape(note)}</figcaption></figure>'
    )


def _legend(clips: Sequence[PageClip]) -> str:
    parts = ["A picture a second; under it what is said, where it begins"]
    if any(clip.events for clip in clips):
        parts.append('<i class="mark"></i> what happened')
    if any(clip.words_from_s for clip in clips):
        parts.append('<i class="key unknown"></i> speech belongs to the clip before')
    if any(clip.tokens is not None for clip in clips):
        parts.append('tokens of a tick: <i class="key anchor"></i> anchor <i class="key flow"></i> flow')
    return '<p class="legend">' + " · ".join(parts) + "</p>"


def _card(clip: PageClip, most: int) -> str:
    facts = clip.facts
    tags = [f"{facts.duration_s:.1f} s", f"{facts.words_per_s:.2f} words/s", f"timed by {facts.timing}"]
    if facts.tokens is not None:
        tags.append(f"{facts.tokens.sum() / facts.duration_s:.1f} tokens/s")
    tags += [tag for tag in (facts.language, facts.license, "audio" if facts.has_audio else "") if tag]
    if clip.shown_s < facts.duration_s:
        tags.append(f"first {clip.shown_s:.0f} s")
    lanes, height = in_lanes([(text, start_s) for text, start_s, _ in clip.words], _SECOND_PX)
    width = round(clip.shown_s * _SECOND_PX)
    picture = base64.b64encode(clip.sheet).decode()
    pictures_px = -(-width // _SECOND_PX) * _SECOND_PX
    words = "".join(
        f'<span class="word" style="left:{left:.0f}px;top:{top}px" title="{start_s:.2f} s'
        f'{"" if end_s is None else f" to {end_s:.2f} s"}">{escape(text)}</span>'
        for (text, start_s, end_s), left, top in [(clip.words[place.number], *place[1:]) for place in lanes]
    )
    unknown = min(clip.words_from_s, clip.shown_s) * _SECOND_PX
    hatch = f'<div class="unknown" style="width:{unknown:.0f}px"></div>' if unknown else ""
    events = "".join(
        f'<i class="mark" style="left:{t_s * _SECOND_PX:.0f}px" title="{t_s:.2f} s: {escape(what)}"></i>'
        for t_s, what in clip.events
    )
    caption = f"<p>{escape(clip.caption)}</p>" if clip.caption else ""
    origin = json.dumps(clip.provenance, indent=1, ensure_ascii=False)
    return (
        f"<article><h3>{escape(facts.key)}</h3>"
        f'<p class="tags">{"".join(f"<span>{escape(tag)}</span>" for tag in tags)}</p>'
        f'{caption}<div class="scroll">'
        f'<div class="timeline by-{facts.timing}" style="width:{max(width, pictures_px)}px">'
        f'<img alt="Pictures of {escape(facts.key)}, one a second" width="{pictures_px}" height="{_SECOND_PX}" '
        f'src="data:image/jpeg;base64,{picture}">{ruler(clip.shown_s, _SECOND_PX)}'
        f'<div class="events">{events}</div>'
        f'<div class="words" style="height:{height}px">{hatch}{words}</div>{_token_bars(clip, most, width)}</div></div>'
        f"<details><summary>Where it comes from</summary><pre>{escape(origin)}</pre></details></article>"
    )


def _token_bars(clip: PageClip, most: int, width: int) -> str:
    if clip.tokens is None:
        return ""
    bars = tick_bars(clip.tokens, clip.tick_s, _SECOND_PX, _BAR_HEIGHT_PX, most)
    spent = int(clip.tokens.sum())
    return (
        f'<svg class="tokens" width="{width}" height="{_BAR_HEIGHT_PX}" role="img" '
        f'aria-label="{spent} tokens over {clip.shown_s:.0f} seconds">{bars}</svg>'
    )


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.0%}" for name, count in counts.items())


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"
    return f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
