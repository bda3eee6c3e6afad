"""Parts of a timeline in HTML, of which several pages are made: a ruler, texts in lanes, tokens tick by tick.

All parts of one timeline take the same `second_px`, so that what happens together stands one above the other. How they
look is said by the classes in `inspect_style.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LANE_HEIGHT_PX = 24
_LANES = 4
_LETTER_PX = 7.2  # of the texts' font, about
_PADDING_PX = 14  # of a text: its sides, and what keeps it from the next


class Placed(NamedTuple):
    """Where a text stands: the number it was given in, and its left and top in pixels."""

    number: int
    left_px: float
    top_px: int


def ruler(shown_s: float, second_px: int) -> str:
    """The seconds, each with its number."""
    ticks = "".join(f'<span style="left:{s * second_px}px">{s} s</span>' for s in range(int(np.ceil(shown_s))))
    return f'<div class="ruler">{ticks}</div>'


def in_lanes(texts: Sequence[tuple[str, float]], second_px: int) -> tuple[list[Placed], int]:
    """Places texts where they begin, in as few lanes as keep them apart (at most four; then they overlap).

    Args:
      texts: what is written, and the second at which it begins, in any order.
      second_px: pixels of a second.

    Returns:
      The places by time, and the height of all lanes in pixels.
    """
    free_px = [float("-inf")] * _LANES
    placed, used = [], 1
    for number, (text, start_s) in sorted(enumerate(texts), key=lambda item: item[1][1]):
        left = max(start_s, 0.0) * second_px
        lane = next((i for i, free in enumerate(free_px) if free <= left), int(np.argmin(free_px)))
        free_px[lane] = left + len(text) * _LETTER_PX + _PADDING_PX
        used = max(used, lane + 1)
        placed.append(Placed(number, left, lane * LANE_HEIGHT_PX))
    return placed, used * LANE_HEIGHT_PX


def tick_bars(tokens: np.ndarray, tick_s: float, second_px: int, height_px: float, most: float) -> str:
    """Bars of an SVG, one a tick: tokens of anchors below, of flow above them.

    Args:
      tokens: int `[T, 2]`, of an anchor and of flow.
      tick_s: from a tick to the next.
      second_px: pixels of a second.
      height_px: of the SVG.
      most: how many tokens are as high as it.
    """
    tick_px, scale = tick_s * second_px, height_px / most
    bars = []
    for tick, (anchor, flow) in enumerate(tokens.tolist()):
        left, wide = tick * tick_px + 1, max(tick_px - 2, 1)
        title = f"<title>{tick * tick_s:.2f} s: {anchor} of an anchor, {flow} of flow</title>"
        parts = (("anchor", anchor, 0), ("flow", flow, anchor))
        bars.append(
            "<g>"
            + title
            + "".join(
                f'<rect class="{kind}" x="{left:.1f}" y="{height_px - scale * (below + count):.1f}" '
                f'width="{wide:.1f}" height="{scale * count:.1f}"/>'
                for kind, count, below in parts
                if count
            )
            + "</g>"
        )
    return "".join(bars)
