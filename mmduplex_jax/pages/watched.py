"""What models said about videos, and its pages: commentary on a timeline, or captions below pictures."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.schema import Event
from mmduplex_jax.pages import Page, render
from mmduplex_jax.stages.vlm.captioner import Captioned
from mmduplex_jax.streaming.sentences import written_sentences
from mmduplex_jax.word_decoder import TimedWord

_SECOND_PX = 64
_BARS_PX = 72
# The share of the bars' height at which the cap is drawn, so that there is room above its line.
_CAP_AT = 0.85
_LINE_CHARACTERS = 42


class Spent(NamedTuple):
    """The tokens of a tick: of an anchor, of flow, and of the second that ends with it."""

    anchor: int
    flow: int
    in_last_second: int


@dataclasses.dataclass(frozen=True)
class Commentary:
    """A video with what a model of stage `duplex` said about it.

    Attributes:
      name: of the video.
      film: the .mp4 that `streaming/render.py` drew; None where the source broke before its first picture.
      captions: the words as .vtt.
      report: as of `launch.commentate --json`.
      spent: a row a tick.
      tick_s: from a tick to the next.
      events: what happened, in the order of time; None where it is not known.
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
        """The words as they are read, by sentence.

        In a stream that has none, cut where a pause ends a phrase, and what is then longer than a line, at its longest
        pauses.
        """
        said = [
            TimedWord(word["text"], word["t_video_s"], word["t_emit_s"], word.get("ends_sentence"), word.get("scene_s"))
            for word in self.report["words"]
        ]
        sentences = [
            [written.word._replace(text=written.text) for written in sentence] for sentence in written_sentences(said)
        ]
        if said and said[0].ends_sentence is not None:
            return sentences
        phrases: list[list[TimedWord]] = []
        waiting = sentences[::-1]
        while waiting:
            run = waiting.pop()
            pauses_s = [round(after.t_emit_s - word.t_emit_s, 3) for word, after in zip(run, run[1:])]
            if not pauses_s or sum(len(word.text) + 1 for word in run) <= _LINE_CHARACTERS:
                phrases.append(run)
                continue
            # Of equal pauses the one nearest to the middle.
            cut = min(range(1, len(run)), key=lambda at: (-pauses_s[at - 1], abs(2 * at - len(run))))
            waiting += [run[cut:], run[:cut]]
        return phrases

    @property
    def starts(self) -> list[tuple[str, float]]:
        """The text of each phrase, and when it begins to be said."""
        return [(" ".join(word.text for word in phrase), phrase[0].t_emit_s) for phrase in self.phrases]

    @property
    def facts(self) -> list[str]:
        """Figures of the run, as far as there are any."""
        report = self.report
        facts = [f"{report['duration_s']:.1f} s", f"{len(report['words'])} words"]
        if report["word_lag_p50_s"] is not None:
            facts.append(f"{report['word_lag_p50_s']:.2f} s after the picture (median)")
        if report["tokens_per_s_mean"] is not None:
            facts.append(f"{report['tokens_per_s_mean']:.1f} tokens a second")
            facts.append(f"at most {report['tokens_in_any_second_max']} in any (cap {report['tokens_per_s_cap']})")
        if report["real_time_factor"] is not None:
            facts.append(f"{report['real_time_factor']:.1f} × real time")
        return facts


@dataclasses.dataclass(frozen=True)
class CaptionedVideo:
    """A video, or a picture, with the captions that a model of stage `vlm` gave it.

    Attributes:
      name: of the video.
      captions: one a piece.
      frames: of each piece the frames that the model was given, as JPEG; only one where they are all the same.
      events: what happened, in the order of time; None where it is not known.
      error: what broke the source on the way; "" where it was whole.
    """

    name: str
    captions: tuple[Captioned, ...]
    frames: tuple[tuple[bytes, ...], ...]
    events: tuple[Event, ...] | None = None
    error: str = ""

    @property
    def pieces(self) -> list[tuple[Captioned, tuple[bytes, ...]]]:
        """Each caption with its frames."""
        return list(zip(self.captions, self.frames))


def commentary_page(watched: Sequence[Commentary]) -> Page:
    """The page of what was said about some videos; OSError where a film or its captions are gone."""
    return render(
        "commentary.html",
        "What the model says",
        watched=watched,
        second_px=_SECOND_PX,
        bars_px=_BARS_PX,
        cap_at=_CAP_AT,
    )


def captions_page(captioned: Sequence[CaptionedVideo]) -> Page:
    """The page of some videos' captions, each below its frames, beside what is known to have happened."""
    return render("captions.html", "What the model says about each piece", captioned=captioned)
