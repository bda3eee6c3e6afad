"""Writes a pack: cut-outs and backgrounds one by one, resumable, with a list of what was not taken and why.

Each has a key ("coco/1234"). A picture is written before its line, and a key that has a line, in the pack or among the
rejected, is done: a run that was killed goes on where it was. What was rejected for a cause that a person can change
(`RETRIED`) is tried again.
"""

import collections
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.world.real.pack import BACKGROUNDS_FILE, CUTOUTS_FILE, PackError

REJECTED_FILE = "rejected.jsonl"
_LISTS = (CUTOUTS_FILE, BACKGROUNDS_FILE, REJECTED_FILE)
# Longer sides are at most so long: frames are small, and what is nearer than this is larger than the picture.
CUTOUT_PX, BACKGROUND_PX = 192, 480
# A thing that is smaller in its picture than this cannot be told from others.
LEAST_PX = 32
# A mask that fills less of its box is a piece of something, or things far apart.
_LEAST_FILL = 0.12
_WEBP_QUALITY = 88
# What drawn masks have of the background at their edges: taken off, and the new edge softened.
_ERODE_PX, _SOFTEN_PX = 1, 0.8

# Why something is not taken.
SMALL = "smaller than the least size"
CUT_OFF = "cut off by the picture's edge"
CROWD = "many in one mask"
SCATTERED = "mask in pieces or nearly empty"
NO_PICTURE = "picture is missing or cannot be read"
BROKEN = "broken annotation"
NO_CLASS = "no class given"
ENOUGH = "enough of its class"
TOO_SHORT = "mask in too few frames"
RETRIED = (NO_PICTURE, NO_CLASS, ENOUGH)


class RejectedError(Exception):
    """Something that is not taken; `cause` is one of this module's."""

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(cause, detail)
        self.cause, self.detail = cause, detail


class PackWriter:
    """Adds to a pack, in a folder that may have one already.

    Args:
      folder: made if it is not there.

    Attributes:
      done: keys of all that is listed, taken or rejected, in this run or before.
      background_keys: those of the backgrounds.
      classes: how many cut-outs of each class the pack has.
      cutouts, backgrounds, rejected: how many this run added; rejected ones by cause.
      kept: how many lines were there before.

    Raises:
      PackError: a list in it is damaged other than by a last line that a killed run left half written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.done: set[str] = set()
        self.background_keys: set[str] = set()
        self.classes: collections.Counter[str] = collections.Counter()
        self.rejected: collections.Counter[str] = collections.Counter()
        self.cutouts = self.backgrounds = self.kept = 0
        for name in _LISTS:
            rows = _mended_rows(folder / name)
            if any(row.get("cause") in RETRIED for row in rows):
                rows = [row for row in rows if row.get("cause") not in RETRIED]
                part = folder / f"{name}.part"
                part.write_text("".join(map(_line, rows)), encoding="utf-8")
                part.replace(folder / name)
            for row in rows:
                key = row.get("key", row.get("file", ""))
                self.done.add(key)
                self.kept += 1
                if name == CUTOUTS_FILE:
                    self.classes[row["class"]] += 1
                elif name == BACKGROUNDS_FILE:
                    self.background_keys.add(key)

    def add_cutout(self, key: str, pictures: Sequence[np.ndarray], **facts: Any):
        """A cut-out: uint8 [h, w, 4] RGBA each, several of one that moves; `facts` as `pack.py` has them."""
        files = []
        for number, picture in enumerate(pictures):
            file = f"cutouts/{key}.webp" if len(pictures) == 1 else f"cutouts/{key}/{number:05d}.webp"
            self._write(file, cv2.cvtColor(_shrunk(picture, CUTOUT_PX), cv2.COLOR_RGBA2BGRA))
            files.append(file)
        moving = {"files": files} if len(files) > 1 else {}
        self._list(CUTOUTS_FILE, {"key": key, "file": files[0], **facts, **moving})
        self.classes[facts["class"]] += 1
        self.cutouts += 1

    def add_background(self, key: str, picture: np.ndarray, **facts: Any):
        """A background: uint8 [h, w, 3] RGB."""
        file = f"backgrounds/{key}.webp"
        self._write(file, cv2.cvtColor(_shrunk(picture, BACKGROUND_PX), cv2.COLOR_RGB2BGR))
        self._list(BACKGROUNDS_FILE, {"key": key, "file": file, **facts})
        self.background_keys.add(key)
        self.backgrounds += 1

    def reject(self, key: str, error: RejectedError):
        """Lists what is not taken."""
        self._list(REJECTED_FILE, {"key": key, "cause": error.cause, "detail": error.detail})
        self.rejected[error.cause] += 1

    def _write(self, file: str, picture: np.ndarray):
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY]):
            raise OSError(f"{path} cannot be written")

    def _list(self, name: str, row: dict[str, Any]):
        with open(self.folder / name, "a", encoding="utf-8") as lines:
            lines.write(_line(row))
        self.done.add(row["key"])


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _mended_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a list, without a last one that is not whole, which is cut off the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise PackError(f"{path}:{number} is no JSON ({error}): mend it or take the line out") from error
    return rows


def cut_out(picture: np.ndarray, mask: np.ndarray, *, whole: bool = True) -> np.ndarray:
    """A thing without its surroundings, uint8 [h, w, 4] RGBA.

    Args:
      picture: uint8 [H, W, 3] RGB.
      mask: uint8 [H, W], above 0 inside.
      whole: whether it must not touch the picture's edge, where more of it may be.

    Raises:
      RejectedError: it is too small, cut off, or in pieces.
    """
    inside = (mask > 0).astype(np.uint8)
    rows, columns = np.flatnonzero(inside.max(axis=1)), np.flatnonzero(inside.max(axis=0))
    if not len(rows):
        raise RejectedError(SCATTERED, "the mask is empty")
    y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if max(y1 - y0, x1 - x0) < LEAST_PX or min(y1 - y0, x1 - x0) < LEAST_PX / 4:
        raise RejectedError(SMALL, f"{x1 - x0}x{y1 - y0} px")
    if whole and (y0 < 2 or x0 < 2 or y1 > mask.shape[0] - 2 or x1 > mask.shape[1] - 2):
        raise RejectedError(CUT_OFF)
    part = (slice(y0, y1), slice(x0, x1))
    if inside[part].mean() < _LEAST_FILL:
        raise RejectedError(SCATTERED, f"fills {inside[part].mean():.0%} of its box")
    padded = cv2.copyMakeBorder(255 * inside[part], 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=0)
    size = 2 * _ERODE_PX + 1
    alpha = cv2.erode(padded, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    alpha = cv2.GaussianBlur(alpha, (0, 0), _SOFTEN_PX)[2:-2, 2:-2]
    return np.dstack([picture[part], alpha])


def _shrunk(picture: np.ndarray, longest_px: int) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = longest_px / max(height, width)
    if scale >= 1:
        return picture
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


# Hues in degrees: (from, to, word).
_HUES = (
    (0, 12, "red"), (12, 40, "orange"), (40, 68, "yellow"), (68, 165, "green"), (165, 260, "blue"),
    (260, 295, "purple"), (295, 340, "pink"), (340, 361, "red"),
)  # fmt: skip
# Of 255: darker is black; paler is grey, or white from `_LIGHT` on; an orange that is darker than `_BROWN` is brown.
_DARK, _PALE, _LIGHT, _BROWN = 50, 55, 185, 150
_MAIN_SHARE = 0.5


def plain_colour(picture: np.ndarray) -> str:
    """The word for what most of a cut-out's pixels are, "" where no word holds for half of them.

    Args:
      picture: uint8 [h, w, 4] RGBA.
    """
    solid = picture[picture[..., 3] > 200][:, :3]
    if not len(solid):
        return ""
    hsv = cv2.cvtColor(solid[None], cv2.COLOR_RGB2HSV)[0].astype(int)
    hue, saturation, value = 2 * hsv[:, 0], hsv[:, 1], hsv[:, 2]
    words = np.full(len(solid), "grey", object)
    for low, high, word in _HUES:
        words[(hue >= low) & (hue < high)] = word
    words[(words == "orange") & (value < _BROWN)] = "brown"
    words[saturation < _PALE] = "grey"
    words[(saturation < _PALE) & (value > _LIGHT)] = "white"
    words[value < _DARK] = "black"
    word, count = collections.Counter(words.tolist()).most_common(1)[0]
    return word if count >= _MAIN_SHARE * len(solid) else ""
