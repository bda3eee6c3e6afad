"""Films what happens in an instance: the six demos, drawn, as .mp4 files with a caption for each operation.

The videos say what the published ones say (labels of squares as there, the state shown once, every operation seen)
and look like nothing but themselves: the published ones of cards and chips are filmed with hands.
"""

import dataclasses
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.schema import Word
from data_pipelines.world.clip import captions, find_encoder, write_video
from mmduplex_jax.evals.benchmarks.videoreasonbench.simulation import (
    ROWS,
    Command,
    Instance,
    State,
    Transfer,
    squares,
    touched,
)

REVEAL_S = 3.0
_OPERATION_S, _COMMAND_S = 1.5, 3.0  # a command must be read
_BEFORE_S = 0.5
_MOVING = 0.7  # of an operation's time; the rest of it all is still
_ASPECT = 4 / 3

Colour = tuple[int, int, int]
_PAPER, _INK, _GREY = (245, 243, 238), (25, 25, 30), (175, 175, 180)
_BLUE, _RED, _GOLD, _GREEN, _WHITE = (45, 85, 200), (205, 45, 45), (235, 190, 40), (30, 105, 70), (255, 255, 255)
_TERMINAL, _TEXT = (18, 20, 24), (205, 220, 205)
_CHIP_COLOURS: dict[int, Colour] = {
    5: (190, 60, 50), 10: (50, 90, 180), 20: (60, 140, 80), 50: (200, 130, 40), 100: (45, 45, 50),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Moment:
    """What is seen at a time.

    Attributes:
      state: of the instance.
      shown: whether the state is shown.
      operation: the one under way, if any.
      progress: how much of it is done, from 0 to 1.
    """

    state: State
    shown: bool = False
    operation: Any = None
    progress: float = 0.0


def duration_s(instance: Instance) -> float:
    """Of the video."""
    return _first_operation_s(instance) + operation_s(instance) * len(instance.operations) + _after_s(instance)


def operation_s(instance: Instance) -> float:
    """How long each operation takes."""
    return _COMMAND_S if instance.demo == "file_sys" else _OPERATION_S


def _first_operation_s(instance: Instance) -> float:
    return REVEAL_S + _BEFORE_S if instance.visible == "start" else _BEFORE_S


def _after_s(instance: Instance) -> float:
    return REVEAL_S if instance.visible == "end" else _BEFORE_S


def moment(instance: Instance, time_s: float) -> Moment:
    """What is seen at a time of the video, in seconds."""
    if instance.visible == "start" and time_s < REVEAL_S:
        return Moment(instance.states[0], shown=True)
    into_s = time_s - _first_operation_s(instance)
    if into_s < 0:
        return Moment(instance.states[0])
    number = int(into_s / operation_s(instance))
    if number >= len(instance.operations):
        return Moment(instance.states[-1], shown=instance.visible == "end")
    progress = min(1.0, (into_s / operation_s(instance) - number) / _MOVING)
    return Moment(instance.states[number], operation=instance.operations[number], progress=progress)


def frames(instance: Instance, *, fps: int, height_px: int) -> Iterator[np.ndarray]:
    """The video's frames, uint8 [H, W, 3] RGB."""
    draw = _DRAWINGS[instance.demo]
    last: tuple[Moment, np.ndarray] | None = None
    for number in range(round(duration_s(instance) * fps)):
        seen = moment(instance, number / fps)
        if last is None or seen != last[0]:
            canvas = Canvas(height_px, _TERMINAL if instance.demo == "file_sys" else _PAPER)
            draw(canvas, instance, seen)
            last = seen, canvas.pixels
        yield last[1]


def write_files(
    folder: Path, name: str, instance: Instance, *, fps: int = 10, height_px: int = 360, codec: str | None = None
) -> Path:
    """Writes NAME.mp4, and NAME.vtt with what is done at its time; returns the video's path.

    Args:
      folder: where; made if it is missing.
      name: of the files.
      instance: what happens.
      fps: frames a second.
      height_px: of the frames, even and at least 144; they are 4:3.
      codec: one of `data_pipelines.world.clip.CODECS`; by default the first that this PyAV has.

    Raises:
      ValueError: a size or a rate that is none, or no such encoder.
    """
    if height_px < 144 or height_px % 2 or fps < 1:
        raise ValueError(f"height_px must be even and at least 144, fps positive; got {height_px} and {fps}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.mp4"
    size_px = (_width_px(height_px), height_px)
    write_video(path, frames(instance, fps=fps, height_px=height_px), size_px, fps, find_encoder(codec))
    path.with_suffix(".vtt").write_text(_captions(instance), encoding="utf-8")
    return path


def narration(instance: Instance) -> list[str]:
    """What each operation is called: "b2 right", "a1 and c3 swap", "add 5 to cup0", a command."""
    texts = []
    for state, operation in zip(instance.states, instance.operations):
        if isinstance(operation, (Transfer, Command)):
            texts.append(str(operation))
        elif isinstance(operation, tuple):
            texts.append(f"{' and '.join(touched(instance.demo, state, operation))} swap")
        else:
            texts.append(f"{touched(instance.demo, state, operation)[0]} {operation}")
    return texts


def _captions(instance: Instance) -> str:
    texts, words, each_s = narration(instance), [], operation_s(instance)
    for number, text in enumerate(texts):
        # Nobody can name an operation before it has been seen.
        begin_s = _first_operation_s(instance) + each_s * (number + _MOVING)
        parts = text.split()
        gap_s = each_s / (len(parts) + 1)
        words += [
            Word(part, begin_s + gap_s * place, begin_s + gap_s * (place + 1)) for place, part in enumerate(parts)
        ]
    return captions(words, lambda _: [(None, 0.0, text) for text in texts])


def _width_px(height_px: int) -> int:
    return 2 * round(height_px * _ASPECT / 2)


class Canvas:
    """A picture to draw on. Places are in heights of the picture, from its upper left corner: x to 4/3, y to 1."""

    def __init__(self, height_px: int, colour: Colour):
        self.pixels = np.full((height_px, _width_px(height_px), 3), colour, np.uint8)
        self._height = height_px

    def _px(self, *point: float) -> tuple[int, int]:
        x, y = (round(value * self._height) for value in point)
        return x, y

    def box(self, x: float, y: float, width: float, height: float, fill: Colour | None, line: Colour = _INK) -> None:
        """A rectangle with its upper left corner at (x, y)."""
        ends = self._px(x, y), self._px(x + width, y + height)
        if fill is not None:
            cv2.rectangle(self.pixels, *ends, fill, -1)
        cv2.rectangle(self.pixels, *ends, line, max(1, self._height // 240), cv2.LINE_AA)

    def disc(self, x: float, y: float, radius: float, fill: Colour | None, line: Colour = _INK, thick: float = 0.004):
        """A circle around (x, y)."""
        if fill is not None:
            cv2.circle(self.pixels, self._px(x, y), round(radius * self._height), fill, -1, cv2.LINE_AA)
        width = max(1, round(thick * self._height))
        cv2.circle(self.pixels, self._px(x, y), round(radius * self._height), line, width, cv2.LINE_AA)

    def shape(self, points: list[tuple[float, float]], fill: Colour, line: Colour = _INK) -> None:
        """A polygon."""
        corners = np.array([self._px(*point) for point in points], np.int32)
        cv2.fillPoly(self.pixels, [corners], fill, cv2.LINE_AA)
        cv2.polylines(self.pixels, [corners], True, line, 1, cv2.LINE_AA)

    def line(self, one: tuple[float, float], other: tuple[float, float], colour: Colour, thick: float = 0.005) -> None:
        """A straight line."""
        width = max(1, round(thick * self._height))
        cv2.line(self.pixels, self._px(*one), self._px(*other), colour, width, cv2.LINE_AA)

    def text(self, x: float, y: float, text: str, height: float, colour: Colour = _INK, *, left: bool = False) -> None:
        """One line of text, its middle (or the middle of its left edge) at (x, y), capitals `height` high."""
        font, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(height * self._height / 14))
        scale = height * self._height / 22
        (width_px, height_px), _ = cv2.getTextSize(text, font, scale, thick)
        px, py = self._px(x, y)
        corner = (px if left else px - width_px // 2, py + height_px // 2)
        cv2.putText(self.pixels, text, corner, font, scale, colour, thick, cv2.LINE_AA)


def _between(one: float, other: float, progress: float) -> float:
    return one + (other - one) * progress


class _Board:
    """Where the squares of a board are, with their labels: rows by letters from the top, columns by numbers."""

    def __init__(self, size: int, first_column: int):
        self.size, self.first_column = size, first_column
        self.side = 0.8 / size
        self.left, self.top = (_ASPECT - 0.8) / 2 + 0.03, 0.14

    def corner(self, name: str) -> tuple[float, float]:
        """The upper left corner of a square, by its name."""
        column, row = int(name[1]) - self.first_column, ROWS.index(name[0])
        return self.left + column * self.side, self.top + row * self.side

    def middle(self, name: str) -> tuple[float, float]:
        """The middle of a square, by its name."""
        x, y = self.corner(name)
        return x + self.side / 2, y + self.side / 2

    def label(self, canvas: Canvas) -> None:
        """Writes the letters and the numbers beside the board."""
        for number in range(self.size):
            along = (number + 0.5) * self.side
            canvas.text(self.left - 0.06, self.top + along, ROWS[number], 0.035, _RED)
            canvas.text(self.left + along, self.top - 0.06, str(number + self.first_column), 0.035, _RED)


def _draw_hrd(canvas: Canvas, instance: Instance, seen: Moment) -> None:
    board = _Board(instance.size, 1)
    board.label(canvas)
    canvas.box(board.left, board.top, 0.8, 0.8, _WHITE)
    values = squares("hrd", seen.state)
    moved, to = "", next(name for name, number in values.items() if number == 0)
    if seen.operation:
        (moved,) = touched("hrd", seen.state, seen.operation)
    for name, number in values.items():
        if number == 0:
            continue
        x, y = board.corner(name)
        if name == moved:
            end_x, end_y = board.corner(to)
            x, y = _between(x, end_x, seen.progress), _between(y, end_y, seen.progress)
        canvas.box(x, y, board.side, board.side, _WHITE if seen.shown else _BLUE)
        if seen.shown:
            canvas.text(x + board.side / 2, y + board.side / 2, str(number), 0.07)


def _draw_grid(canvas: Canvas, instance: Instance, seen: Moment) -> None:
    board = _Board(instance.size, 0)
    board.label(canvas)
    for name, black in squares("grid", seen.state).items():
        canvas.box(*board.corner(name), board.side, board.side, _WHITE, _GREY)
        if seen.shown:
            canvas.disc(*board.middle(name), board.side * 0.3, _INK if black else _WHITE)
    x, y = board.middle(touched("grid", seen.state, seen.operation)[0])
    if seen.operation:
        right, down = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[seen.operation]
        x, y = x + right * board.side * seen.progress, y + down * board.side * seen.progress
    canvas.disc(x, y, board.side * 0.4, None, _RED, 0.012)


def _draw_cup(canvas: Canvas, instance: Instance, seen: Moment) -> None:
    board = _Board(instance.size, 1)
    board.label(canvas)
    values = squares("cup", seen.state)
    for index, name in enumerate(values):
        shade = (222, 222, 224) if (index // instance.size + index % instance.size) % 2 else (200, 200, 203)
        canvas.box(*board.corner(name), board.side, board.side, shade, _GREY)
    pair = touched("cup", seen.state, seen.operation) if seen.operation else ()
    if pair:
        canvas.line(board.middle(pair[0]), board.middle(pair[1]), _RED)
    # What moves is drawn last, over what stands.
    for name, coin in sorted(values.items(), key=lambda item: item[0] in pair):
        x, y = board.middle(name)
        if name in pair:
            end_x, end_y = board.middle(pair[1 - pair.index(name)])
            x, y = _between(x, end_x, seen.progress), _between(y, end_y, seen.progress)
        if seen.shown and coin:
            canvas.disc(x, y + board.side * 0.3, board.side * 0.13, _GOLD)
        lift = board.side * 0.18 if seen.shown else 0.0
        _cup(canvas, x, y - lift, board.side * 0.5)


def _cup(canvas: Canvas, x: float, y: float, size: float) -> None:
    half, narrow = size / 2, size * 0.34
    canvas.shape([(x - narrow, y - half), (x + narrow, y - half), (x + half, y + half), (x - half, y + half)], _BLUE)


_COLUMN = 7  # cards that stand below each other when a pile is shown


def _draw_cards(canvas: Canvas, instance: Instance, seen: Moment) -> None:
    middle_of = _draw_places(canvas, instance)
    height = 0.17
    for pile, cards in seen.state.items():
        x = middle_of[pile]
        if seen.shown:
            # Columns, each read downwards, the left one first.
            columns = -(-len(cards) // _COLUMN)
            for number, card in enumerate(reversed(cards)):
                along = x + (number // _COLUMN - (columns - 1) / 2) * 0.2
                if number == 0:
                    canvas.text(along, 0.15, "top", 0.025)
                _card(canvas, along, 0.27 + number % _COLUMN * 0.095, height, card)
            continue
        for number in range(len(cards)):
            _card(canvas, x, 0.62 - 0.008 * number, height, None)
    if seen.operation:
        # From the right onto the pile, or out from below it to the left.
        x = middle_of[seen.operation.place]
        top = 0.62 - 0.008 * len(seen.state[seen.operation.place])
        if seen.operation.verb == "add":
            _card(canvas, _between(x + 0.3, x, seen.progress), _between(0.3, top, seen.progress), height,
                  seen.operation.thing)  # fmt: skip
        else:
            _card(canvas, _between(x, x - 0.2, seen.progress), _between(0.66, 0.86, seen.progress), height,
                  seen.operation.thing)  # fmt: skip


def _draw_places(canvas: Canvas, instance: Instance) -> dict[str, float]:
    """Writes the names of piles or cups; gives where their middles are, from the left."""
    named = list(instance.states[0])
    middle_of = {place: _ASPECT * (number + 0.5) / len(named) for number, place in enumerate(named)}
    for place, x in middle_of.items():
        canvas.text(x, 0.08, place, 0.04, _RED)
    return middle_of


def _card(canvas: Canvas, x: float, y: float, height: float, card: str | None) -> None:
    """A card around (x, y); its back where it is None."""
    width = height * 1.1
    canvas.box(x - width / 2, y - height / 2, width, height, _WHITE if card else (150, 40, 60))
    if card is None:
        canvas.box(x - width * 0.42, y - height * 0.4, width * 0.84, height * 0.8, None, (225, 170, 180))
        return
    rank, suit = card.split(" of ")
    colour = _RED if suit in ("Hearts", "Diamonds") else _INK
    # In the upper part, which stays in sight where cards overlap.
    canvas.text(x - width * 0.22, y - height * 0.25, rank if rank.isdigit() else rank[0], height * 0.22, colour)
    _suit(canvas, suit, x + width * 0.22, y - height * 0.25, height * 0.3, colour)


def _suit(canvas: Canvas, suit: str, x: float, y: float, size: float, colour: Colour) -> None:
    r = size * 0.26
    if suit == "Diamonds":
        half = size / 2
        canvas.shape([(x, y - half), (x + half * 0.8, y), (x, y + half), (x - half * 0.8, y)], colour, colour)
        return
    if suit == "Clubs":
        for dx, dy in ((0, -r), (-r, r * 0.4), (r, r * 0.4)):
            canvas.disc(x + dx, y + dy, r, colour, colour)
    else:
        up = 1 if suit == "Hearts" else -1
        for dx in (-r, r):
            canvas.disc(x + dx, y - up * r * 0.5, r, colour, colour)
        canvas.shape([(x - 1.9 * r, y - up * r * 0.2), (x + 1.9 * r, y - up * r * 0.2), (x, y + up * size / 2)],
                     colour, colour)  # fmt: skip
    if suit in ("Clubs", "Spades"):
        canvas.shape([(x, y), (x - r * 0.7, y + size / 2), (x + r * 0.7, y + size / 2)], colour, colour)


def _draw_chips(canvas: Canvas, instance: Instance, seen: Moment) -> None:
    middle_of = _draw_places(canvas, instance)
    if seen.operation:
        x = middle_of[seen.operation.place]
        outside, inside = 0.18, 0.4
        begin, end = (outside, inside) if seen.operation.verb == "add" else (inside, outside)
        _chip(canvas, x, _between(begin, end, seen.progress), seen.operation.thing)
    across = 5
    for place, chips in seen.state.items():
        x = middle_of[place]
        # Drawn over the chip that moves, which so goes into it.
        canvas.shape([(x - 0.13, 0.3), (x + 0.13, 0.3), (x + 0.09, 0.56), (x - 0.09, 0.56)], _GREEN)
        for number, chip in enumerate(chips if seen.shown else ()):
            column, row = number % across - (min(across, len(chips)) - 1) / 2, number // across
            _chip(canvas, x + column * 0.12, 0.64 + row * 0.1, chip)


def _chip(canvas: Canvas, x: float, y: float, value: int) -> None:
    canvas.disc(x, y, 0.046, _CHIP_COLOURS[value], _INK)
    canvas.text(x, y, str(value), 0.03, _WHITE)


_LINE = 54  # characters


def _draw_files(canvas: Canvas, instance: Instance, seen: Moment) -> None:
    lines: list[str] = []
    if seen.shown:
        lines.append(f"$ ls {' '.join(seen.state)}")
        for path, files in seen.state.items():
            if len(seen.state) > 1:
                lines.append(f"{path}:")
            lines += textwrap.wrap("  ".join(sorted(files)), _LINE)
    elif seen.operation:
        text = f"$ {seen.operation}"
        typed = round(len(text) * seen.progress)
        # Wrapped before it is typed, so that no word jumps to another line.
        for line in (text[i : i + _LINE] for i in range(0, len(text), _LINE)):
            lines.append(line[: max(0, typed)])
            typed -= len(line)
    else:
        lines.append("$")
    spacing = min(0.075, 0.92 / len(lines))
    for number, line in enumerate(lines):
        canvas.text(0.04, 0.06 + spacing * number, line, 0.48 * spacing, _TEXT, left=True)


_DRAWINGS: dict[str, Callable[[Canvas, Instance, Moment], None]] = {
    "hrd": _draw_hrd,
    "cup": _draw_cup,
    "grid": _draw_grid,
    "file_sys": _draw_files,
    "card": _draw_cards,
    "chip": _draw_chips,
}
