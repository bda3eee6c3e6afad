"""docs/returns.md from the rows: tables with intervals over seeds, scores at equal cost, a figure.

The page's text is written by hand; between `<!-- rows: NAME -->` and `<!-- rows end -->` stands what this makes.
"""

import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from scipy import stats

from benchmarks.returns.arms import ARMS, COMPARISONS, LEVERS, PARTS, REPORTED, Comparison, Lever
from benchmarks.returns.rows import Point, Row, of_arm
from mmduplex_jax.evals.report import markdown_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "returns.md"
FIGURE = "returns/levers.svg"
_SECTION = re.compile(r"(<!-- rows: (?P<name>[\w-]+) -->\n).*?(<!-- rows end -->)", re.DOTALL)
_LEVEL = 0.95
# docs/cost.md: the parameters of configs/duplex_300m.py, its embedding among them.
_FULL_SIZE = 498e6


def write_report(rows: Sequence[Row], page: Path = PAGE) -> list[Path]:
    """Writes what the rows give into a page, and the figure beside it; returns the files.

    Raises:
      ValueError: the page lacks a section, or has one that is not known; the rows name arms that are not in the table.
    """
    text, figure = reported(rows, page.read_text(encoding="utf-8"))
    page.write_text(text, encoding="utf-8")
    file = page.parent / FIGURE
    if figure is None:
        file.unlink(missing_ok=True)
        return [page]
    file.parent.mkdir(exist_ok=True)
    file.write_text(figure, encoding="utf-8")
    return [page, file]


def reported(rows: Sequence[Row], text: str) -> tuple[str, str | None]:
    """The text of a page with its sections made anew, and the figure, where there are lines to draw."""
    rows = [row for row in rows if row.size in REPORTED]
    unknown = sorted({row.arm for row in rows} - {arm.name for arm in ARMS})
    if unknown:
        raise ValueError(f"rows of arms that are not in benchmarks/returns/arms.py: {', '.join(unknown)}")
    lines = list(lever_lines(rows))
    sections = {"state": _state(rows), "levers": _levers(lines), "scaling-fit": _fit(rows)}
    sections |= {part: _part(part, rows) for part in PARTS}
    found = [match["name"] for match in _SECTION.finditer(text)]
    if sorted(found) != sorted(sections):
        raise ValueError(f"the page must have the sections {', '.join(sorted(sections))} once each, it has {found}")
    filled = _SECTION.sub(lambda match: f"{match[1]}\n{sections[match['name']]}\n\n{match[3]}", text)
    return filled, _draw(lines) if lines else None


def _of_size(rows: Sequence[Row], size: str) -> list[Row]:
    return [row for row in rows if row.size == size]


def _of_fullest_size(rows: Sequence[Row], arms: Sequence[str]) -> list[Row]:
    """The rows of the size in which most of these arms ran; of as many, the first of `REPORTED`."""
    ran = lambda size: len({row.arm for row in _of_size(rows, size) if row.arm in arms})
    return _of_size(rows, max(REPORTED, key=ran))


# Over seeds.


def mean_and_half(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half of its 95 % interval by Student's t; None for one value."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, None
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1)) * spread


def _over_seeds(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean, half = mean_and_half(known)
    return format(mean, form) + (f" ± {half:{form.removeprefix('+')}}" if half is not None else "")


def _score(row: Row, name: str) -> float | None:
    """A score on the look that the row learned from."""
    return row.scores["rich" if "rich" in row.scores else "plain"].get(name)


def _f1(rows: Sequence[Row]) -> str:
    """F1 over seeds; of one seed the interval over resampled clips."""
    if len(rows) > 1:
        return _over_seeds([_score(row, "f1") for row in rows], ".3f")
    low, high = _score(rows[0], "f1_low"), _score(rows[0], "f1_high")
    return f"{_score(rows[0], 'f1'):.3f} ({low:.3f}–{high:.3f})"


def gains(rows: Sequence[Row], reference: Sequence[Row]) -> list[float]:
    """What F1 is over that of the reference, of each seed that both have."""
    base = {row.seed: _score(row, "f1") for row in reference}
    both = [(_score(row, "f1"), base[row.seed]) for row in rows if row.seed in base]
    return [mine - theirs for mine, theirs in both if mine is not None and theirs is not None]


# A part of the study.


def _state(rows: Sequence[Row]) -> str:
    """What ran, and what did not."""
    if not rows:
        return f"Nothing has run yet: none of {len(ARMS)} arms has a row."
    sizes = {trained: _of_size(rows, size) for size, trained in REPORTED.items()}
    return "\n\n".join(_state_of_size(of_size, trained) for trained, of_size in sizes.items() if of_size)


def _state_of_size(rows: Sequence[Row], trained: str) -> str:
    done = {row.arm for row in rows}
    processors = ", ".join(sorted({row.machine["cpu"] for row in rows}))
    dates = sorted({row.date for row in rows})
    hours = sum(row.cpu_s for row in rows) / 3600
    lines = [
        f"Trained {trained}: {len(rows)} rows of {len(done)} of {len(ARMS)} arms, {hours:.1f} CPU-hours, {dates[0]} to "
        f"{dates[-1]}, on {processors}."
    ]
    for part, title in PARTS.items():
        names = [arm.name for arm in ARMS if arm.part == part]
        missing = [name for name in names if name not in done]
        single = [name for name in names if len(of_arm(rows, name)) in (1, 2)]
        said = [f"not run: {', '.join(missing)}"] if missing else []
        said += [f"with fewer than 3 seeds: {', '.join(single)}"] if single else []
        lines.append(f"- {title}: {'; '.join(said) or 'all arms, 3 seeds or more'}.")
    unflat = sorted({row.arm for row in rows if row.stable_steps and not row.flat})
    if unflat:
        lines.append(f"- Not flat when its steps were over: {', '.join(unflat)}.")
    return "\n".join(lines)


def _part(part: str, rows: Sequence[Row]) -> str:
    tables = [
        table
        for each in COMPARISONS
        if each.part == part
        for size, trained in REPORTED.items()
        for table in _comparison(each, trained, _of_size(rows, size))
    ]
    return "\n\n".join(tables) or "No arm of this part has run."


def _comparison(comparison: Comparison, trained: str, rows: Sequence[Row]) -> Iterator[str]:
    """The tables of arms that are compared, as long as `trained` says: at their ends, and at equal cost if two ran."""
    ran = {name: of_arm(rows, name) for name in comparison.arms}
    ran = {name: found for name, found in ran.items() if found}
    if not ran:
        return
    head = [
        "arm", "what it is", "seeds", "steps", "F1", f"over {comparison.reference}", "word NLL", "word F1", "p50 s",
        "tokens/s", "CPU-min", "GFLOP a step", "MFLOP/s of video", "M parameters",
    ]  # fmt: skip
    reference = of_arm(rows, comparison.reference)
    lines = [_cells(name, found, [] if name == comparison.reference else reference) for name, found in ran.items()]
    note = "\n\n\\* not flat yet." if any(line[3].endswith("*") for line in lines) else ""
    yield f"**{comparison.title}; {trained}**\n\n{markdown_table(head, lines)}{note}"
    if len(ran) > 1:
        yield _at_equal_cost(ran)


def _cells(name: str, rows: Sequence[Row], reference: Sequence[Row]) -> list[str]:
    """An arm's line in a table, from its rows and those that gains are over."""
    scored = lambda score, form: _over_seeds([_score(row, score) for row in rows], form)
    mean = lambda values, form: format(statistics.mean(values), form)
    live = [row.flops_per_video_s / 1e6 for row in rows if row.flops_per_video_s is not None]
    tokens_per_s = [value for row in rows if (value := _score(row, "tokens_per_s")) is not None]
    return [
        name,
        next(arm.what for arm in ARMS if arm.name == name),
        str(len(rows)),
        mean([row.steps for row in rows], ".0f") + ("" if all(row.flat for row in rows) else "*"),
        _f1(rows),
        _over_seeds(gains(rows, reference), "+.3f"),
        scored("word_nll", ".3f"),
        scored("word_f1", ".3f"),
        scored("latency_p50_s", ".2f"),
        mean(tokens_per_s, ".1f"),
        mean([(row.cpu_s + row.begun_cpu_s) / 60 for row in rows], ".0f"),
        mean([row.flops_per_step / 1e9 for row in rows], ".1f"),
        mean(live, ".0f") if live else "–",
        f"{rows[0].parameters / 1e6:.2f}",
    ]


# At equal cost, read off the curves.

_COSTS: Mapping[str, tuple[Callable[[Row], float], Callable[[float], str]]] = {
    "steps": (lambda row: 1.0, lambda cost: f"{cost:.0f} steps"),
    "time": (lambda row: row.step_cpu_s, lambda cost: f"{cost / 60:.1f} CPU-min"),
    "operations": (lambda row: row.flops_per_step, lambda cost: f"{cost / 1e12:.1f} TFLOP"),
}


def point_at(curve: Sequence[Point], steps: float) -> Point | None:
    """The last evaluation at a constant rate within so many steps; None where there is none."""
    reached = [point for point in curve if not point.decaying and point.step <= steps]
    return reached[-1] if reached else None


def _at_equal_cost(ran: Mapping[str, Sequence[Row]]) -> str:
    """Held-out scores at a constant rate after as many steps, as much time and as many operations as all arms had."""
    head, columns = ["arm"], []
    for of_step, shown in _COSTS.values():
        spent = [row.stable_steps * of_step(row) for found in ran.values() for row in found]
        cost = min(spent)
        head.append(f"at {shown(cost)}: NLL, F1")
        columns.append([_at(found, cost, of_step) for found in ran.values()])
    lines = [[name, *(column[number] for column in columns)] for number, name in enumerate(ran)]
    return f"At equal cost, on the held-out clips, before the rate decays:\n\n{markdown_table(head, lines)}"


def _at(rows: Sequence[Row], cost: float, of_step: Callable[[Row], float]) -> str:
    # As a float, a cost over that of a step may be a hair less than the steps.
    points = [point_at(row.curve, cost / of_step(row) + 1e-6) for row in rows]
    known = [point for point in points if point is not None]
    if len(known) < len(points):
        return "–"
    nll, f1 = ([getattr(point, name) for point in known] for name in ("word_nll", "f1"))
    return f"{_over_seeds(nll, '.3f')}, {_over_seeds(f1, '.3f')}"


# Levers.


class Line(NamedTuple):
    """A lever as it is drawn.

    Attributes:
      lever: which.
      doublings: of its cost, from its cheapest arm on.
      gains: in F1 over that arm, means over seeds.
      halves: of their 95 % intervals; None with one seed.
      slope: F1 a doubling, by least squares through all its points.
      trained: how long its arms were.
    """

    lever: Lever
    doublings: list[float]
    gains: list[float]
    halves: list[float | None]
    slope: float
    trained: str


def _cost(row: Row, name: str) -> float:
    if name == "training_flops":
        return row.flops_per_step * row.steps
    value = getattr(row, name)
    if value is None:
        raise ValueError(f"{row.arm} has no {name}")
    return float(value)


def lever_lines(rows: Sequence[Row]) -> Iterator[Line]:
    """Of every lever with two arms or more that ran equally long."""
    for lever in LEVERS:
        equal = _of_fullest_size(rows, lever.arms)
        ran = [found for found in (of_arm(equal, name) for name in lever.arms) if found]
        if len(ran) < 2:
            continue
        costs = [statistics.mean(_cost(row, lever.cost) for row in found) for found in ran]
        doublings = [math.log2(cost / costs[0]) for cost in costs]
        over = [gains(found, ran[0]) for found in ran]
        if not all(over) or max(doublings) == min(doublings):
            continue  # no seed in common, or nothing that costs more
        means, halves = zip(*(mean_and_half(gain) for gain in over))
        slope = float(np.polyfit(doublings, means, 1)[0])
        yield Line(lever, doublings, list(means), list(halves), slope, REPORTED[equal[0].size])


def _levers(lines: Sequence[Line]) -> str:
    if not lines:
        return "No lever has two arms that ran: there is nothing to draw yet."
    head = ["lever", "what grows", "trained", "F1 a doubling", "arms: doublings of cost, F1 gained"]
    names = {"flops_per_video_s": "operations a second of video", "clips": "clips", "training_flops": "operations"}
    table = [
        [
            line.lever.name,
            names[line.lever.cost],
            line.trained,
            f"{line.slope:+.3f}",
            "; ".join(f"{double:.1f}, {gain:+.3f}" for double, gain in zip(line.doublings, line.gains)),
        ]
        for line in sorted(lines, key=lambda line: -line.slope)
    ]
    return f"![F1 gained per doubling of cost]({FIGURE})\n\n{markdown_table(head, table)}"


def _fit(rows: Sequence[Row]) -> str:
    """Word NLL as a power of the parameters, and where the full size would lie by it."""
    (comparison,) = (each for each in COMPARISONS if each.part == "scaling")
    equal = _of_fullest_size(rows, comparison.arms)
    found = [row for name in comparison.arms for row in of_arm(equal, name)]
    sizes = [(row.parameters, _score(row, "word_nll")) for row in found]
    known = [(parameters, nll) for parameters, nll in sizes if nll]
    if len({parameters for parameters, _ in known}) < 3:
        return "Fewer than three sizes ran: there is no line to fit."
    x, y = (np.log([pair[axis] for pair in known]) for axis in (0, 1))
    fit = stats.linregress(x, y)
    at = float(np.exp(fit.intercept + fit.slope * math.log(_FULL_SIZE)))
    return (
        f"Word NLL falls as parameters to the power {fit.slope:.3f} (standard error {fit.stderr:.3f}, r² "
        f"{fit.rvalue**2:.2f}, {len(known)} trainings: {REPORTED[found[0].size]}). By extrapolation, over a "
        f"range that is {_FULL_SIZE / max(parameters for parameters, _ in known):.0f} times as far as the largest, the "
        f"{_FULL_SIZE / 1e6:.0f} M parameters of `duplex_300m` would have {at:.3f} nats a token on this data, which "
        "holds far too little for them: it says which way the line points, and no more."
    )


_COLOURS = ("#2a78d6", "#e0662f", "#a33fb5", "#2e8b57", "#b8860b", "#c2185b")


def _draw(lines: Sequence[Line]) -> str:
    """The figure as SVG."""
    width, height, left, right, top, bottom = 720, 380, 60, 220, 20, 50
    most = max(max(line.doublings) for line in lines)
    gained = [gain for line in lines for gain in line.gains]
    low, high = min(gained), max(gained)
    high = high if high > low else low + 0.01
    x = lambda doubling: left + (width - left - right) * doubling / most
    y = lambda gain: height - bottom - (height - top - bottom) * (gain - low) / (high - low)
    drawn = [
        {
            "name": f"{line.lever.name}: {line.slope:+.3f}",
            "colour": _COLOURS[number % len(_COLOURS)],
            "points": [(x(double), y(gain)) for double, gain in zip(line.doublings, line.gains)],
            "label_y": top + 14 + 20 * number,
        }
        for number, line in enumerate(lines)
    ]
    places = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return places.get_template("levers.svg.jinja").render(
        width=width,
        height=height,
        left=left,
        right=width - right,
        top=top,
        bottom=height - bottom,
        x_marks=[(x(double), f"{double}") for double in range(math.floor(most) + 1)],
        y_marks=[(y(gain), f"{gain:+.2f}") for gain in np.linspace(low, high, 5)],
        lines=drawn,
    )
