"""HTML pages: one file each, in one style, with pictures and films inside; nothing is fetched, so they work offline.

Python prepares plain data, and a jinja2 template in `templates/` lays it out; whatever it is given is escaped.
"""

import base64
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from data_pipelines.schema import Event

_LANES_MAX = 4
_LANE_PX = 24
_LETTER_PX = 7.2  # of the font of words on a timeline, about
_PADDING_PX = 14  # of such a word: its sides, and the gap to the next one
# The height of a notebook's frame until the page's script has measured the page.
_FRAME_PX = 720


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
        """A frame with the page, so that neither the notebook's style nor the page's touches the other."""
        frame = Markup(
            '<iframe title="{}" srcdoc="{}" allow="fullscreen" style="border:0;width:100%;height:{}px"></iframe>'
        )
        return str(frame.format(self.title, self.html, _FRAME_PX))


def render(template: str, title: str, **values: Any) -> Page:
    """Lays out a page.

    Args:
      template: a file in `templates/`.
      title: of the page.
      **values: what the template names.
    """
    return Page(title, _TEMPLATES.get_template(template).render(title=title, **values))


def jpeg(frame: np.ndarray, quality: int) -> bytes:
    """A picture uint8 `[H, W, 3]`, RGB, as a JPEG file."""
    written, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not written:
        raise ValueError(f"OpenCV could not write a JPEG of {frame.shape[1]}×{frame.shape[0]} pixels")
    return data.tobytes()


def in_lanes(texts: Sequence[Sequence[Any]], second_px: int) -> tuple[list[str], int]:
    """Places texts on a timeline where they begin, in as few lanes as keep them apart; beyond four lanes they overlap.

    Args:
      texts: of each the text and the second at which it begins, in the order of time; more fields are ignored.
      second_px: pixels of a second.

    Returns:
      The place of each as CSS, and the height of all lanes in pixels.
    """
    free_px = [float("-inf")] * _LANES_MAX
    places, used = [], 1
    for text, start_s, *_ in texts:
        left_px = max(start_s, 0.0) * second_px
        lane = next((i for i, free in enumerate(free_px) if free <= left_px), int(np.argmin(free_px)))
        free_px[lane] = left_px + len(text) * _LETTER_PX + _PADDING_PX
        used = max(used, lane + 1)
        places.append(f"left:{left_px:.0f}px;top:{lane * _LANE_PX}px")
    return places, used * _LANE_PX


def _phrase(event: Event) -> str:
    return " ".join((event.subject, event.kind, event.detail)).strip()


def _data_uri(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _as_time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"
    return f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"


def _as_size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} TB"


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader(__name__),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "as_size": _as_size,
    "as_time": _as_time,
    "data_uri": _data_uri,
    "in_lanes": in_lanes,
    "indented_json": lambda value: json.dumps(value, indent=1, ensure_ascii=False),
    "phrase": _phrase,
    "spec": format,
}
