"""Timed words for people: lines on a terminal, captions in a file (WebVTT, SRT).

Both break where a sentence ends; in a stream that has no sentences, where a phrase does, or a line is full. Where a
scene ends (`TimedWord.scene_s`) they close what is open.
"""

import dataclasses
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TextIO

from data_pipelines.decode import Tick
from mmduplex_jax.streaming.sentences import PAUSE_S, SentenceWriter, WrittenWord, closed
from mmduplex_jax.streaming.slot import TickResult
from mmduplex_jax.word_decoder import TimedWord

_LINE_CHARACTERS_MAX = 42
_LINE_WORDS_MAX = 12


@dataclasses.dataclass(frozen=True)
class Cue:
    """A caption: words, each with the time it was said, on the screen from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    words: tuple[tuple[str, float], ...]

    @property
    def text(self) -> str:
        return " ".join(text for text, _ in self.words)


class Terminal:
    """A listener that prints words as they come, a line a sentence, or a phrase."""

    def __init__(self, file: TextIO | None = None) -> None:
        """Prints to `file`, standard output where none is given."""
        self._file = file
        self._writer = SentenceWriter()
        self._line: list[WrittenWord] = []

    def on_tick(self, tick: Tick, result: TickResult, tokens_in_last_second: int) -> None:
        """Prints the tick's words."""
        for word in result.words:
            self._print(word)
        if self._writer.is_over(tick.t_s, result.scene_s):
            self._end_line()

    def close(self, words: Sequence[TimedWord]) -> None:
        """Prints the last words."""
        for word in words:
            self._print(word)
        self._end_line()

    def _print(self, word: TimedWord) -> None:
        written = self._writer.write(word)
        if written.begins or (not self._writer.marked and len(self._line) >= _LINE_WORDS_MAX):
            self._end_line()
        before = " " if self._line else f"[{word.t_video_s:7.2f}s] "
        print(before + written.text, end="", file=self._file, flush=True)
        self._line.append(written)
        if written.ends:
            self._end_line()

    def _end_line(self) -> None:
        if self._line:
            last = self._line[-1].text
            stop = closed(last).removeprefix(last) if self._writer.marked else ""
            print(f"{stop}   (said {self._line[0].word.t_emit_s:.2f}s)", file=self._file, flush=True)
        self._line = []


class CaptionFile:
    """A listener that writes a .vtt or .srt as the stream goes: what was said is there, however the stream ends."""

    def __init__(self, path: str | Path):
        """Begins the file; ValueError for a suffix other than .vtt and .srt."""
        self._path = Path(path)
        if self._path.suffix.lower() not in (".vtt", ".srt"):
            raise ValueError(f"{path}: captions are written as .vtt or .srt")
        self._srt = self._path.suffix.lower() == ".srt"
        self._file: IO[str] = self._path.open("w", encoding="utf-8", newline="\n")
        self._grouper = CueGrouper()
        self._count = 0
        if not self._srt:
            self._file.write("WEBVTT\n")
            self._file.flush()

    def on_tick(self, tick: Tick, result: TickResult, tokens_in_last_second: int) -> None:
        """Adds the tick's words."""
        self.add(result.words, tick.t_s, result.scene_s)

    def add(self, words: Sequence[TimedWord], now_s: float, scene_s: float | None = None) -> None:
        """Takes new words, and writes what captions are complete at `now_s`, in the scene that began at `scene_s`."""
        cues = [cue for word in words for cue in self._grouper.add(word)]
        self._write(cues + self._grouper.advance(now_s, scene_s))

    def close(self, words: Sequence[TimedWord] = ()) -> None:
        """Adds the last words and ends the file."""
        if not self._file.closed:
            for word in words:
                self.add([word], word.t_emit_s, word.scene_s)
            self._write(self._grouper.finish())
            self._file.close()

    def _write(self, cues: Iterable[Cue]) -> None:
        for cue in cues:
            self._count += 1
            if self._srt:
                # SRT has numbers before the first cue and no blank line there.
                self._file.write("\n" if self._count > 1 else "")
                self._file.write(
                    f"{self._count}\n{_stamp(cue.start_s, ',')} --> {_stamp(cue.end_s, ',')}\n{cue.text}\n"
                )
            else:
                self._file.write(vtt_cue(cue))
            self._file.flush()


class CueGrouper:
    """Groups timed words into captions, each a sentence, or a phrase; a full line goes on in the next caption."""

    def __init__(self) -> None:
        self._writer = SentenceWriter()
        self._words: list[tuple[str, float]] = []
        self._scene_s: float | None = None

    def add(self, word: TimedWord) -> list[Cue]:
        before_s = self._end_s(word.scene_s)
        written = self._writer.write(word)
        self._scene_s = word.scene_s
        done = []
        if self._words:
            line = sum(len(text) + 1 for text, _ in self._words) + len(written.text)
            if written.begins or line > _LINE_CHARACTERS_MAX:
                done = self._end(min(word.t_emit_s, before_s), whole=written.begins)
        self._words.append((written.text, word.t_emit_s))
        return done

    def advance(self, now_s: float, scene_s: float | None) -> list[Cue]:
        """The caption that a silence has ended by now, or the cut with which the scene began at `scene_s`, if any."""
        self._scene_s = scene_s
        silent = bool(self._words) and now_s - self._words[-1][1] >= 2 * PAUSE_S
        return self.finish() if silent or now_s >= self._writer.shown_until_s(scene_s) else []

    def finish(self) -> list[Cue]:
        return self._end(self._end_s(self._scene_s), whole=True) if self._words else []

    def _end_s(self, scene_s: float | None) -> float:
        """When the caption of the words so far ends by itself, where the stream is in the scene of `scene_s`."""
        return min(self._words[-1][1] + PAUSE_S, self._writer.shown_until_s(scene_s)) if self._words else 0.0

    def _end(self, end_s: float, *, whole: bool) -> list[Cue]:
        """The caption of the words so far; `whole`: their sentence is over, whether or not it was marked."""
        words, self._words = self._words, []
        if whole and self._writer.marked:
            words[-1] = (closed(words[-1][0]), words[-1][1])
        return [Cue(words[0][1], end_s, tuple(words))]


def vtt_cue(cue: Cue) -> str:
    """The caption as a WebVTT file has it, with the empty line before it."""
    return f"\n{_stamp(cue.start_s)} --> {_stamp(cue.end_s)}\n{_vtt_text(cue)}\n"


def _vtt_text(cue: Cue) -> str:
    """Words with inline time stamps, so that a player shows each as it is said."""
    parts, last_s = [], cue.start_s
    for text, t_s in cue.words:
        stamp = f"<{_stamp(t_s)}>" if _stamp(t_s) != _stamp(last_s) else ""
        last_s = t_s
        parts.append(stamp + html.escape(text, quote=False))
    return " ".join(parts)


def _stamp(t_s: float, point: str = ".") -> str:
    total_ms = round(t_s * 1000)
    seconds, ms = divmod(total_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{ms:03d}"
