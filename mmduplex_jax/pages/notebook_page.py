"""The page of the notebook: videos with the words as they are said, and under each a timeline of words and tokens.

One HTML document that needs nothing else: videos and captions are inside it. A notebook shows it in a frame of its
own, so that neither's style touches the other.
"""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.schema import Event
from mmduplex_jax.pages.inspect_style import STYLE
from mmduplex_jax.pages.notebook_style import SCRIPT
from mmduplex_jax.pages.notebook_style import STYLE as MORE_STYLE
from mmduplex_jax.pages.timeline import in_lanes, ruler, tick_bars
from mmduplex_jax.streaming.captions import PAUSE_S
from mmduplex_jax.word_decoder import TimedWord

_SECOND_PX = 64
_TOKENS_PX = 72
_LINE_CHARACTERS = 42
# How much of the height the cap stands at, so that a line along it is seen whole.
_CAP_AT = 0.85
# Before a page's own script has measured it.
_FRAME_PX = 720


class Spent(NamedTuple):
    """The tokens of a tick: of an anchor, of flow, and of the second that it ends."""

    anchor: int
    flow: int
    in_last_second: int


@dataclasses.dataclass(frozen=True)
class Commentary:
    """A video that was watched.

    Attributes:
      name: of the video.
      film: the .mp4 that `streaming/render.py` drew; None where the source broke before its first picture.
      captions: the words as .vtt.
      report: as of `launch.commentate --json`.
      spent: a row a tick.
      tick_s: from a tick to the next.
      events: what happened, in the order of time; None where nobody knows.
    """

    name: str
    film: Path | None
    captions: Path
    report: Mapping[str, Any]
    spent: tuple[Spent, ...]
    tick_s: float
    events: tuple[Event, ...] | None = None

    @property
    def phrases(self) -> list[list[TimedWord]]:
        """The words, cut where a pause ends a phrase; what is then longer than a line, at its longest pauses."""
        words = [TimedWord(word["text"], word["t_video_s"], word["t_emit_s"]) for word in self.report["words"]]
        phrases: list[list[TimedWord]] = []
        waiting = [words] if words else []
        while waiting:
            run = waiting.pop()
            pauses_s = [round(after.t_emit_s - word.t_emit_s, 3) for word, after in zip(run, run[1:])]
            fits = sum(len(word.text) + 1 for word in run) <= _LINE_CHARACTERS and max(pauses_s, default=0.0) < PAUSE_S
            if fits or not pauses_s:
                phrases.append(run)
                continue
            # Of equal pauses the one nearest to the middle.
            cut = min(range(1, len(run)), key=lambda at: (-pauses_s[at - 1], abs(2 * at - len(run))))
            waiting += [run[cut:], run[:cut]]
        return phrases


@dataclasses.dataclass(frozen=True)
class Page:
    """A whole HTML document, which notebooks show when it is the last thing in a cell.

    Attributes:
      title: for readers that do not see it.
      html: the document.
    """

    title: str
    html: str

    def save(self, path: str | Path) -> None:
        """Writes it as a file that any browser opens."""
        Path(path).write_text(self.html, encoding="utf-8")

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="{escape(self.title)}" srcdoc="{escape(self.html)}" allow="fullscreen" '
            f'style="border:0;width:100%;height:{_FRAME_PX}px"></iframe>'
        )


def page(title: str, body: Sequence[str]) -> Page:
    """A document of parts, in the notebook's style."""
    return Page(
        title,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{MORE_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n",
    )


def commentary_page(watched: Sequence[Commentary]) -> Page:
    """What was said about some videos.

    Args:
      watched: the videos, in the order in which they stand on the page.

    Raises:
      OSError: a film or its captions are gone.
    """
    body = ['<h1 class="heard">What the model says about each video</h1>', _legend(watched)]
    return page("What the model says", body + [_card(number, one) for number, one in enumerate(watched)])


def _legend(watched: Sequence[Commentary]) -> str:
    parts = ["On the timeline, words stand where they begin to be said"]
    if any(one.events for one in watched):
        parts.append('<i class="mark"></i> what happened')
    parts.append(
        'tokens of a tick: <i class="key anchor"></i> anchor <i class="key flow"></i> flow; <i class="key second"></i> '
        'tokens of the last second, <i class="key cap"></i> the most that it may hold'
    )
    return '<p class="legend">' + " · ".join(parts) + "</p>"


def _card(number: int, one: Commentary) -> str:
    name, report = escape(one.name), one.report
    error = f'<p class="error">{escape(report["error"])}</p>' if report["error"] else ""
    notes = "".join(f"<p>Note: {escape(note)}</p>" for note in report["notes"])
    happened = ""
    if one.events is not None:
        items = "".join(f"<li>{event.t_s:.2f} s: {escape(named(event))}</li>" for event in one.events)
        happened = (
            f'<details><summary>What happened ({len(one.events)})</summary><ul class="happened">{items}</ul></details>'
        )
    return (
        f'<article aria-labelledby="video-{number}" data-second-px="{_SECOND_PX}"><h2 id="video-{number}">{name}</h2>'
        f'<p class="tags">{"".join(f"<span>{escape(fact)}</span>" for fact in _facts(report))}</p>{error}{notes}'
        f'<div class="watched"><div>{_film(one)}<p class="heard" aria-live="polite"></p></div>{_table(one)}</div>'
        f"{_timeline(one)}{happened}</article>"
    )


def _facts(report: Mapping[str, Any]) -> list[str]:
    facts = [f"{report['duration_s']:.1f} s", f"{len(report['words'])} words"]
    if report["word_lag_p50_s"] is not None:
        facts.append(f"{report['word_lag_p50_s']:.2f} s after the picture (median)")
    if report["tokens_per_s_mean"] is not None:
        facts.append(f"{report['tokens_per_s_mean']:.1f} tokens a second")
        facts.append(f"{report['tokens_in_any_second_max']} at most in any (cap {report['tokens_per_s_cap']})")
    if report["real_time_factor"] is not None:
        facts.append(f"watched {report['real_time_factor']:.1f} × as fast as it plays")
    return facts


def _film(one: Commentary) -> str:
    if one.film is None:
        return "<p>There is no picture to show.</p>"
    film, captions = (base64.b64encode(path.read_bytes()).decode() for path in (one.film, one.captions))
    return (
        f'<video controls playsinline preload="auto" aria-label="{escape(one.name)}, with the words drawn on it" '
        f'src="data:video/mp4;base64,{film}"><track kind="captions" label="Words" '
        f'src="data:text/vtt;base64,{captions}"></video>'
    )


def _table(one: Commentary) -> str:
    """What is said, for reading: of each phrase the time of its picture, and when each word was said."""
    rows = []
    for phrase in one.phrases:
        text = " ".join(word.text for word in phrase)
        words = " ".join(f'<span data-said="{word.t_emit_s:.3f}">{escape(word.text)}</span>' for word in phrase)
        seen_s, said_s = phrase[0].t_video_s, phrase[0].t_emit_s
        rows.append(
            f'<tr data-end="{phrase[-1].t_emit_s:.3f}" data-text="{escape(text)}">'
            f'<td><button type="button" data-seek="{seen_s:.3f}" aria-label="Play from {seen_s:.2f} seconds">'
            f"{seen_s:.2f} s</button></td><td>{said_s:.2f} s</td><td>{words}</td></tr>"
        )
    if not rows:
        return "<p>Nothing was said.</p>"
    return (
        f'<div class="phrases" tabindex="0" role="region" aria-label="Words about {escape(one.name)}"><table>'
        "<caption>What was said, by the time of the picture that it is about</caption>"
        '<thead><tr><th scope="col">Picture</th><th scope="col">Said</th><th scope="col">Words</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _timeline(one: Commentary) -> str:
    duration_s, phrases = one.report["duration_s"], one.phrases
    texts = [" ".join(word.text for word in phrase) for phrase in phrases]
    lanes, height = in_lanes([(text, phrase[0].t_emit_s) for text, phrase in zip(texts, phrases)], _SECOND_PX)
    said = "".join(
        f'<span class="word" style="left:{place.left_px:.0f}px;top:{place.top_px}px">'
        + " ".join(
            f'<span data-said="{word.t_emit_s:.3f}">{escape(word.text)}</span>' for word in phrases[place.number]
        )
        + "</span>"
        for place in lanes
    )
    marks = "".join(
        f'<i class="mark" style="left:{event.t_s * _SECOND_PX:.0f}px" '
        f'title="{event.t_s:.2f} s: {escape(named(event))}"></i>'
        for event in one.events or ()
        if event.t_s <= duration_s
    )
    words = len(one.report["words"])
    label = (
        f"Timeline of {one.name}: {words} words in {len(phrases)} phrases, which the table lists; "
        f"{one.report['tokens_in_any_second_max']} tokens at most in any second, of {one.report['tokens_per_s_cap']}"
    )
    width = max(round(duration_s * _SECOND_PX), _SECOND_PX)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Timeline of {escape(one.name)}, scrolls sideways">'
        f'<div class="timeline" role="img" aria-label="{escape(label)}" style="width:{width}px">'
        f"{ruler(duration_s, _SECOND_PX)}"
        + (f'<div class="events">{marks}</div>' if one.events else "")
        + f'<div class="words" style="height:{height}px">{said}</div>{_tokens(one, width)}<div class="now"></div>'
        "</div></div>"
    )


def _tokens(one: Commentary, width: int) -> str:
    """Tokens of each tick as bars, those of the last second as a line, and the cap."""
    if not one.spent:
        return ""
    cap = one.report["tokens_per_s_cap"]
    most = cap / _CAP_AT
    spent = np.array(one.spent)
    level = lambda tokens: _TOKENS_PX * (1 - tokens / most)
    tick_px = one.tick_s * _SECOND_PX
    steps = " ".join(
        f"{tick * tick_px:.1f},{level(tokens):.1f} {(tick + 1) * tick_px:.1f},{level(tokens):.1f}"
        for tick, tokens in enumerate(spent[:, 2].tolist())
    )
    return (
        f'<svg class="tokens" width="{width}" height="{_TOKENS_PX}" aria-hidden="true">'
        f"{tick_bars(spent[:, :2], one.tick_s, _SECOND_PX, _TOKENS_PX, most)}"
        f'<line class="cap" x1="0" x2="{width}" y1="{level(cap):.1f}" y2="{level(cap):.1f}"/>'
        f'<text x="4" y="{level(cap) - 3:.1f}">{cap} tokens a second</text>'
        f'<polyline class="second" points="{steps}"/></svg>'
    )


def named(event: Event) -> str:
    """What happened, in words."""
    return " ".join((event.subject, event.kind, event.detail)).strip()
