"""The leaderboard: ratings with intervals, wins by pair, by category and by reason, bias to a side; JSON and HTML."""

import dataclasses
import functools
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2

from mmduplex_jax.arena.ratings import RESAMPLES, Rating, rate, side_bias, win_matrix
from mmduplex_jax.arena.recordings import LiveReport
from mmduplex_jax.arena.votes import CHOICES, Tally, VoteStore

# Of the plot, in units of its view box.
_ROW_PX, _NAME_PX, _WIDTH_PX, _PAD_PX = 30, 150, 640, 24
_TICKS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000)


def leaderboard(
    store: VoteStore, contestants: Sequence[str], rounds: int = RESAMPLES, *, live: Sequence[LiveReport] = ()
) -> dict[str, Any]:
    """All that the page shows, as JSON values.

    Args:
      store: the votes.
      contestants: of the arena now; who has left it and was voted on is shown, too.
      rounds: of the bootstrap.
      live: how far contestants that are servers are recorded.

    Raises:
      MissingLibrary: evalica is not installed.
    """
    everything = store.tallies()
    names = sorted({*contestants, *(tally.left for tally in everything), *(tally.right for tally in everything)})
    bias = side_bias(everything)
    flagged, groups = store.flagged_tallies(), store.groups()
    categories, reasons = store.counts_by("category"), store.counts_by("reason")
    return {
        "votes": sum(tally.votes for tally in everything),
        "choices": _choices(everything),
        "ratings": _rows(everything, names, rounds),
        "win_matrix": {
            one: {other: {"rate": share, "votes": votes} for other, (share, votes) in row.items()}
            for one, row in win_matrix(everything, names).items()
        },
        # One category is the whole again.
        "categories": {
            name: {"votes": votes, "ratings": _rows(store.tallies(category=name), names, rounds)}
            for name, votes in categories.items()
            if len(categories) > 1
        },
        "reasons": {
            name: {"votes": votes, "ratings": _rows(store.tallies(reason=name), names, rounds)}
            for name, votes in reasons.items()
            if name
        },
        "sides": {"left": bias.left, "right": bias.right, "p": bias.p},
        # (Numbers of voters are for whoever has the database.)
        "groups": [{**group, "voters": len(group["voters"])} for group in groups],
        "without_flagged": {
            "votes": sum(tally.votes for tally in everything) - sum(tally.votes for tally in flagged),
            "ratings": _rows(_less(everything, flagged), names, rounds),
        }
        if flagged
        else None,
        "excluded_voters": store.excluded_voters(),
        "age_s": 0.0,
        "live": [dataclasses.asdict(one) for one in live],
    }


def _rows(tallies: Sequence[Tally], names: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    return [dataclasses.asdict(one) for one in rate(tallies, names, rounds=rounds)]


def _less(tallies: Sequence[Tally], fewer: Sequence[Tally]) -> list[Tally]:
    """Tallies without some of their votes."""
    taken = {tally[:3]: tally.votes for tally in fewer}
    left = [tally._replace(votes=tally.votes - taken.get(tally[:3], 0)) for tally in tallies]
    return [tally for tally in left if tally.votes > 0]


def _choices(tallies: Sequence[Tally]) -> dict[str, int]:
    return {choice: sum(tally.votes for tally in tallies if tally.choice == choice) for choice in CHOICES}


def board_html(board: dict[str, Any]) -> str:
    """The board as a piece of a page; whatever names hold is text in it."""
    return _template().render(board=board, plot=_plot([Rating(**row) for row in board["ratings"]]))


@functools.cache
def _template() -> jinja2.Template:
    source = (files("mmduplex_jax.arena") / "templates" / "board.html").read_text(encoding="utf-8")
    strict = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    return strict.from_string(source)


def _plot(ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Where the plot's marks stand: a row a contestant, its interval a line, its rating a dot; None without votes."""
    if not ratings:
        return None
    low, high = min(one.low for one in ratings), max(one.high for one in ratings)
    step = next((tick for tick in _TICKS if (high - low) / tick <= 8), _TICKS[-1])
    first, last = step * (low // step), step * (high // step + 1)
    width = _WIDTH_PX - _NAME_PX - 2 * _PAD_PX

    def x(points: float) -> float:
        return round(_NAME_PX + _PAD_PX + width * (points - first) / (last - first), 1)

    rows = [
        {"name": one.name, "y": _ROW_PX * (i + 0.5), "low": x(one.low), "high": x(one.high), "at": x(one.rating),
         "points": round(one.rating)}
        for i, one in enumerate(ratings)
    ]  # fmt: skip
    marks = [first + step * i for i in range(round((last - first) / step) + 1)]
    ticks = [{"x": x(points), "points": round(points)} for points in marks]
    height = _ROW_PX * len(rows)
    return {"rows": rows, "ticks": ticks, "width": _WIDTH_PX, "height": height + _PAD_PX, "bottom": height}
