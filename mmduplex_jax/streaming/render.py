"""A video of what the model saw and said: subtitles, the tokens' places, and the budget, over the source's pictures."""

import math
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from data_pipelines.decode import Tick
from data_pipelines.geometry import frame_in_picture
from mmduplex_jax.frame_size import FrameSize, frame_size
from mmduplex_jax.streaming.sentences import SentenceWriter, WrittenWord
from mmduplex_jax.streaming.slot import SpentTokens, TickResult
from mmduplex_jax.streaming.sound import SoundPiece
from mmduplex_jax.streaming.speech import SoundTrack
from mmduplex_jax.tokenizer.bflow import ANCHOR
from mmduplex_jax.word_decoder import TimedWord

# Longer side of what the reader should hand out, and the least that overlays are readable on.
PICTURE_PX = 640
_PICTURE_MIN_PX = 480
_RATE_MAX_HZ = 30
_MS = Fraction(1, 1000)
_BAR_PX = 34
_FONT = cv2.FONT_HERSHEY_DUPLEX
_FLASH_S = 0.35
_SUBTITLE_HOLD_S = 2.5
# Two crops are of one thing when they are this near, in sides of a crop; it has moved from one to the other.
_NEAR = 0.6
_TIP_PX = 10
_WHITE, _GREY, _DARK = (245, 245, 245), (150, 150, 150), (24, 24, 24)
_ANCHOR, _FLOW, _FULL = (255, 196, 61), (86, 224, 200), (240, 96, 84)


class Renderer:
    """Writes a video while the stream runs; nothing is kept but the state of the overlays.

    A picture is shown with what was known at its time: words appear when they were said. The video has the source's
    own times and at most 30 pictures a second, and the size of the first; one of another shape stands between bars.
    What is heard, if anything, lies beside it: AAC in an .mp4, Opus in an .mkv.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        frame_px: FrameSize,
        fit: str,
        tokens_per_s_max: int,
        tick_s: float,
        sample_rate_hz: int | None = None,
    ):
        """Opens the file.

        Args:
          path: of the file, an .mkv, or an mp4 whatever it is called.
          frame_px, fit: how the model's frame lies on the picture (see VideoReader).
          tokens_per_s_max: the cap, for the gauge.
          tick_s: a tick's length, which is how long a flow token is current.
          sample_rate_hz: of the sound that `on_sound` will take; None: there is none.
        """
        self._frame_px, self._fit, self._cap, self._tick_s = frame_size(frame_px), fit, tokens_per_s_max, tick_s
        # The file is made with the first picture; an older one must not be taken for it when none comes.
        Path(path).unlink(missing_ok=True)
        matroska = Path(path).suffix.lower() == ".mkv"
        self._container = av.open(str(path), "w", format="matroska" if matroska else "mp4")
        self._sound_codec, self._sample_rate_hz = "libopus" if matroska else "aac", sample_rate_hz
        self._sound: SoundTrack | None = None
        self._unwritten: list[SoundPiece] = []
        self._stream: av.VideoStream | None = None
        self._size = self._picture_size = (0, 0)
        self._last: np.ndarray | None = None
        self._written_ms = -1
        self._writer = SentenceWriter()
        self._words: deque[WrittenWord] = deque(maxlen=64)
        self._shown_until_s = math.inf
        self._crops: list[tuple[np.ndarray, int, np.ndarray]] = []
        self._crops_s = self._anchor_s = -10.0
        self._spent = 0
        self._end_s = 0.0

    def on_tick(self, tick: Tick, result: TickResult, tokens_in_last_second: int) -> None:
        """Draws the pictures since the last tick with what was known then, the tick's own with what is known now."""
        for picture in tick.pictures:
            if picture.t_s < tick.t_s - 1e-6:
                self._write(picture.t_s, picture.image)
            self._last = picture.image
        self._words.extend(map(self._writer.write, result.words))
        self._shown_until_s = self._writer.shown_until_s(result.scene_s)
        self._take(tick.t_s, result.tokens)
        self._spent = tokens_in_last_second
        self._end_s = tick.t_s + self._tick_s
        if self._last is not None:
            self._write(tick.t_s, self._last)

    def on_sound(self, piece: SoundPiece) -> None:
        """Puts a piece beside the pictures of its time."""
        self._unwritten.append(piece)
        # (A file's streams are all there before its first packet is.)
        if self._sound is not None:
            for unwritten in self._unwritten:
                self._sound.write(unwritten)
            self._unwritten.clear()

    def close(self, words: Sequence[TimedWord]) -> None:
        """Writes the last words and ends the file."""
        self._words.extend(map(self._writer.write, words))
        try:
            if self._last is not None:
                self._write(self._end_s, self._last)
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
            if self._sound is not None:
                self._sound.finish()
        finally:
            self._container.close()

    def _take(self, t_s: float, tokens: SpentTokens) -> None:
        """The tick's tokens become the overlay; a crop moved from the nearest one of the tick before."""
        if tokens.is_anchor:
            self._anchor_s = t_s
        before = [centre for centre, _, _ in self._crops]
        self._crops, self._crops_s = [], t_s
        for centre, size, kind in zip(tokens.centre_px, tokens.size_px, tokens.kind):
            if kind == ANCHOR:
                continue  # it shows the whole frame
            steps = [centre - other for other in before]
            step = min(steps, key=lambda s: float(np.hypot(*s)), default=np.zeros(2))
            near = np.hypot(*step) <= _NEAR * size
            self._crops.append((np.asarray(centre), int(size), np.asarray(step) if near else np.zeros(2)))

    def _write(self, t_s: float, image: np.ndarray) -> None:
        t_ms = round(t_s * 1000)
        # Half a millisecond of slack for containers that round; a picture must also come after the last.
        if self._written_ms >= 0 and t_ms - self._written_ms < 1000 // (_RATE_MAX_HZ + 2):
            return
        if self._stream is None:
            self._stream = self._open_stream(image)
        frame = av.VideoFrame.from_ndarray(self._draw(t_s, image), format="rgb24")
        frame.pts, frame.time_base = t_ms, _MS
        self._container.mux(self._stream.encode(frame))
        self._written_ms = t_ms

    def _open_stream(self, image: np.ndarray) -> av.VideoStream:
        height_px, width_px = image.shape[:2]
        scale = float(np.clip(max(width_px, height_px), _PICTURE_MIN_PX, PICTURE_PX)) / max(width_px, height_px)
        even = lambda side: max(2, 2 * round(side * scale / 2))
        self._picture_size = even(width_px), even(height_px)
        self._size = max(self._picture_size[0], _PICTURE_MIN_PX), self._picture_size[1] + _BAR_PX
        # VFR is written by its times; the rate is only what the header says.
        stream = self._container.add_stream("libx264", rate=_RATE_MAX_HZ, options={"preset": "superfast", "crf": "21"})
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = _MS
        stream.time_base = _MS
        if self._sample_rate_hz is not None:
            self._sound = SoundTrack(self._container, self._sound_codec, self._sample_rate_hz)
        return stream

    def _draw(self, t_s: float, image: np.ndarray) -> np.ndarray:
        most_px, (height_px, width_px) = self._picture_size, image.shape[:2]
        scale = min(most_px[0] / width_px, most_px[1] / height_px)
        # (A rounding of the first picture's even sides is no bar.)
        size = [
            side if abs(side - scaled) < 2 else max(1, round(scaled))
            for side, scaled in zip(most_px, (width_px * scale, height_px * scale))
        ]
        if (width_px, height_px) != tuple(size):
            image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if width_px < size[0] else cv2.INTER_AREA)
        canvas = np.full((self._size[1], self._size[0], 3), _DARK, np.uint8)
        left, top = (self._size[0] - size[0]) // 2, (most_px[1] - size[1]) // 2
        area = canvas[top : top + size[1], left : left + size[0]]
        area[:] = image
        self._draw_tokens(area, t_s)
        self._draw_subtitle(canvas[: most_px[1]], t_s)
        self._draw_bar(canvas[most_px[1] :], t_s)
        return canvas

    def _draw_tokens(self, area: np.ndarray, t_s: float) -> None:
        """Crops as boxes with an arrow of their motion; an edge around the frame after an anchor, fading."""
        x0, y0, scale = frame_in_picture(area.shape[1], area.shape[0], self._frame_px, self._fit)
        at = lambda point: (round(x0 + float(point[1]) * scale), round(y0 + float(point[0]) * scale))
        if t_s - self._crops_s <= 1.5 * self._tick_s:
            for centre, size, step in self._crops:
                box = at(centre - size / 2), at(centre + size / 2)
                cv2.rectangle(area, *box, _FLOW, 1, cv2.LINE_AA)
                if np.hypot(*step) >= 1:
                    length_px = 2 * float(np.hypot(*step)) * scale
                    ends = at(centre), at(centre + 2 * step)
                    cv2.arrowedLine(area, *ends, _FLOW, 2, cv2.LINE_AA, tipLength=min(0.5, _TIP_PX / length_px))
        age = (t_s - self._anchor_s) / _FLASH_S
        if 0 <= age < 1:
            edge = at((0, 0)), at(self._frame_px)
            inner = (
                (max(1, edge[0][0] + 1), max(1, edge[0][1] + 1)),
                (
                    min(area.shape[1] - 2, edge[1][0] - 2),
                    min(area.shape[0] - 2, edge[1][1] - 2),
                ),
            )
            flash = area.copy()
            cv2.rectangle(flash, *inner, _ANCHOR, 3)
            area[:] = cv2.addWeighted(flash, 1 - age, area, age, 0)

    def _draw_subtitle(self, area: np.ndarray, t_s: float) -> None:
        """The phrase that is being said, at most two lines, white with a dark outline."""
        lines = self._lines(area.shape[1] - 32, t_s)
        scale, gap = _text_scale(area.shape[1]), round(34 * _text_scale(area.shape[1]) / 0.8)
        if not lines:
            return
        band = area[max(0, area.shape[0] - 16 - gap * len(lines)) :]
        ink = np.zeros(band.shape[:2], np.uint8)
        for row, line in enumerate(reversed(lines)):
            x = (band.shape[1] - cv2.getTextSize(line, _FONT, scale, 1)[0][0]) // 2
            cv2.putText(ink, line, (x, band.shape[0] - 16 - gap * row), _FONT, scale, 255, 1, cv2.LINE_AA)
        # The outline is grown from the letters: drawn thicker, they would also be wider than the text.
        outline = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5)))
        left, mask = band * (1 - outline[..., None] / np.float32(255)), ink[..., None] / np.float32(255)
        band[:] = (left * (1 - mask) + np.array(_WHITE, np.float32) * mask).astype(np.uint8)

    def _lines(self, width_px: int, t_s: float) -> list[str]:
        """The last sentence, or phrase, in lines that fit; of a long one the last two."""
        lines: list[str] = []
        for written in self._words:
            if written.begins:
                lines = []
            longer = f"{lines[-1]} {written.text}" if lines else written.text
            fits = cv2.getTextSize(longer, _FONT, _text_scale(width_px + 32), 1)[0][0] <= width_px
            if lines and fits:
                lines[-1] = longer
            else:
                lines.append(written.text)
        if not self._words:
            return []
        until_s = min(self._words[-1].word.t_emit_s + _SUBTITLE_HOLD_S, self._shown_until_s)
        return lines[-2:] if t_s < until_s else []

    def _draw_bar(self, bar: np.ndarray, t_s: float) -> None:
        """Time on the left, on the right the tokens of the last second against the cap."""
        cv2.putText(bar, f"{t_s:7.2f} s", (8, 23), _FONT, 0.5, _GREY, 1, cv2.LINE_AA)
        label = f"{self._spent:3d} / {self._cap} tokens/s"
        text_px = cv2.getTextSize(label, _FONT, 0.5, 1)[0][0]
        x = bar.shape[1] - text_px - 10
        cv2.putText(bar, label, (x, 23), _FONT, 0.5, _GREY, 1, cv2.LINE_AA)
        gauge_px, start = 160, x - 172
        share = min(1.0, self._spent / max(1, self._cap))
        cv2.rectangle(bar, (start, 12), (start + gauge_px, 22), (60, 60, 60), -1)
        if share > 0:
            colour = _FULL if share > 0.9 else _FLOW
            cv2.rectangle(bar, (start, 12), (start + round(gauge_px * share), 22), colour, -1)


def _text_scale(width_px: int) -> float:
    return float(np.clip(width_px / 800, 0.6, 0.9))
