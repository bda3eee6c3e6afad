"""Reads answers: from text to what can be compared, and back to text in the published form.

Reading is strict in what counts and lenient in words around it. The things that an answer consists of (squares,
cards, numbers …) must stand there in the published order and nothing of their kind besides; other words are passed
over, unless they take something back ("or", "not"). Whatever else stands there makes the answer unreadable.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from mmduplex_jax.evals.benchmarks.videoreasonbench.simulation import (
    RANKS,
    ROWS,
    SUITS,
    Command,
    Operation,
    Transfer,
)

_MARK = "Final Answer"
_NAME = r"[A-Za-z0-9_-]+\.[a-z]+"

# Kinds of things, each a pattern; the order decides where two fit at the same place.
_KINDS: dict[str, tuple[str, Callable[[re.Match], Any]]] = {
    "ordinal": (r"\b(\d+)(?:st|nd|rd|th)\b", lambda found: int(found[1])),
    "command": (
        r"\b(touch|rm -rf|cp|mv) +(path\d)/?\{([^{}]*)\}(?: +(path\d)\b/?)?|\bls((?: +path\d\b)+)",
        lambda found: (
            Command("ls", tuple(found[5].split()), "")
            if found[5]
            else Command(found[1], tuple(name.strip() for name in found[3].split(",")), found[2], found[4] or "")
        ),
    ),
    "card": (
        rf"\b({'|'.join(sorted(RANKS, key=len, reverse=True))}) of ({'|'.join(SUITS)})\b",
        lambda found: f"{found[1].title()} of {found[2].title()}",
    ),
    "square": (
        rf"\(\s*([{ROWS}])\s*,\s*(\d)\s*\)|\b([{ROWS}])(\d)\b",
        lambda found: (found[1] or found[3]).lower() + (found[2] or found[4]),
    ),
    "direction": (r"\b(up|down|left|right)(?:wards?)?\b", lambda found: found[1].lower()),
    "verb": (r"\b(add|remove)\b", lambda found: found[1].lower()),
    "place": (r"\b(pile|cup)(\d)\b", lambda found: found[1].lower() + found[2]),
    "file": (rf"(?<![\w.]){_NAME}\b", lambda found: found[0]),
    "colour": (r"\b(black|white|[01])\b", lambda found: int(found[1].lower() in ("black", "1"))),
    "content": (r"\b(empty|coin)\b", lambda found: int(found[1].lower() == "coin")),
    "number": (r"\b\d+\b", lambda found: int(found[0])),
    "time": (r"\b(start|end|equal)\b", lambda found: found[1].lower()),
}
_TAKEN_BACK = re.compile(
    r"\b(or|nor|not|either|neither|maybe|perhaps|possibly|unsure|unknown|cannot|instead)\b|n't", re.I
)
_NUMBERED = re.compile(r"^[ \t]*(\d+)[.)][ \t]+", re.M)
_NOTHING = re.compile(r"[\W_]*none[\W_]*", re.I)

Thing = tuple[str, Any]
_CAPTURING = r"(?<!\\)\((?!\?)"


def final_answer(text: str) -> str | None:
    """What follows the last "Final Answer", None where there is none or nothing follows it.

    (The published judge takes what follows the first, and so would judge a chain of thought that mentions it.)
    """
    _, mark, answer = text.rpartition(_MARK)
    return answer.strip() if mark and re.search(r"\w", answer) else None


def things(text: str, kinds: Iterable[str]) -> list[Thing] | None:
    """The things of some kinds in a text as (kind, value); None where what stands between them may mean something."""
    text = _without_numbers(text)
    found, position, rest = [], 0, []
    for match in _scanner(frozenset(kinds)).finditer(text):
        kind = match.lastgroup or ""
        rest.append(text[position : match.start()])
        whole = cast(re.Match, _PATTERNS[kind].match(text, match.start()))
        found.append((kind, _KINDS[kind][1](whole)))
        position = match.end()
    rest.append(text[position:])
    between = " ".join(rest)
    return None if re.search(r"\d", between) or _TAKEN_BACK.search(between) else found


def _without_numbers(text: str) -> str:
    """The text without the numbers of a list, "1. left" and "2. up" each on a line of its own."""
    numbers = [int(number) for number in _NUMBERED.findall(text)]
    return _NUMBERED.sub("", text) if numbers == list(range(1, len(numbers) + 1)) else text


# Names of files and commands are exact, all else may begin a sentence.
_PATTERNS = {
    kind: re.compile(f"(?:{pattern})" if kind in ("file", "command") else f"(?i:{pattern})")
    for kind, (pattern, _) in _KINDS.items()
}


@functools.lru_cache
def _scanner(kinds: frozenset[str]) -> re.Pattern:
    """One pattern for some kinds, which says by a group's name which it was; the groups within are dropped."""
    parts = [(kind, _PATTERNS[kind].pattern) for kind in _KINDS if kind in kinds]
    return re.compile("|".join(f"(?P<{kind}>{re.sub(_CAPTURING, '(?:', pattern)})" for kind, pattern in parts))


@dataclasses.dataclass(frozen=True)
class Form:
    """How the answer to a kind of question is written.

    Attributes:
      grammar: a regular expression over the kinds of the things in it, each followed by a space.
      value: of these things, what is compared; None where they contradict themselves.
      text: a value in the published form.
      nothing: what "None" means.
    """

    grammar: str
    value: Callable[[list[Thing]], tuple | None]
    text: Callable[[Any], str]
    nothing: tuple = ()

    def read(self, text: str) -> tuple | None:
        """The value of an answer; None where it cannot be read."""
        if _NOTHING.fullmatch(text):
            return self.nothing
        found = things(text, re.findall(r"\w+", self.grammar))
        if found is None or not re.fullmatch(self.grammar, "".join(f"{kind} " for kind, _ in found)):
            return None
        return self.value(found)

    def write(self, value: Any) -> str:
        """A value as the published answers are written."""
        return "None" if value == self.nothing else self.text(value)


def ordinal(number: int) -> str:
    """1 as "1st"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _spelled(name: str) -> str:
    return f"({name[0]},{name[1]})"


def _sorted_values(found: list[Thing]) -> tuple:
    return tuple(sorted(value for _, value in found))


def _counted(kind: str, unit: str = "", shown: Callable[[Any], str] = str) -> Form:
    """As "2 cards: 6 of Hearts, King of Clubs"; the order is nothing."""

    def value(found: list[Thing]) -> tuple | None:
        (_, count), *rest = found
        return (count, _sorted_values(rest)) if count == len(rest) else None

    def text(counted: tuple) -> str:
        return f"{counted[0]}{unit and ' ' + unit}: {', '.join(map(shown, counted[1]))}"

    return Form(rf"number ({kind} )*", value, text, nothing=(0, ()))


def _bag(kind: str) -> Form:
    """As "a2, b1, c3"; the order is nothing."""
    return Form(rf"({kind} )+", _sorted_values, _write_listed)


def _listed(kind: str) -> Form:
    """As "King of Clubs, 6 of Hearts", in this order."""
    return Form(rf"({kind} )+", lambda found: tuple(value for _, value in found), _write_listed)


def _write_listed(values: tuple) -> str:
    return ", ".join(map(str, values))


def _directions(found: list[Thing]) -> tuple | None:
    """Of "up, down", or "2nd: up, 3rd: down"; the numbers, which nobody asks for, must be in their order."""
    numbers = [value for kind, value in found if kind == "ordinal"]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers)) if numbers else []):
        return None
    return tuple(value for kind, value in found if kind == "direction")


def _mapping(
    kind: str, shown: Callable[[int], str] = str, square: Callable[[str], str] = _spelled, between: str = "\n"
) -> Form:
    """As "(a,1): 3", each square once; the order is nothing."""

    def value(found: list[Thing]) -> tuple | None:
        pairs = tuple(sorted((found[i][1], found[i + 1][1]) for i in range(0, len(found), 2)))
        return pairs if len(dict(pairs)) == len(pairs) else None

    return Form(
        rf"(square {kind} )+",
        value,
        lambda pairs: between.join(f"{square(name)}: {shown(content)}" for name, content in pairs),
    )


def _steps(*kinds: str, text: Callable[..., str]) -> Form:
    """As "2nd: (a,2) right", line by line."""
    width = len(kinds) + 1

    def value(found: list[Thing]) -> tuple:
        values = [value for _, value in found]
        return tuple((values[i], *_parts(kinds, values[i + 1 : i + width])) for i in range(0, len(values), width))

    return Form(
        rf"(ordinal {' '.join(kinds)} )+",
        value,
        lambda steps: "\n".join(f"{ordinal(number)}: {text(*parts)}" for number, *parts in steps),
    )


def _parts(kinds: tuple[str, ...], values: list) -> tuple:
    if kinds == ("square", "square"):
        return (tuple(sorted(values)),)  # of cups that change places none is the first
    return tuple(unordered(value) if isinstance(value, Command) else value for value in values)


def unordered(command: Command) -> Command:
    """The same command with its files in the order of names."""
    return dataclasses.replace(command, files=tuple(sorted(set(command.files))))


def _occasions(found: list[Thing]) -> tuple | None:
    """Of "1st: a1, 2nd: (a1,a2)" the squares of each occasion; these must be numbered from 1 on."""
    occasions: list[list[str]] = []
    for kind, value in found:
        if kind == "square":
            occasions[-1].append(value)
        elif value == len(occasions) + 1:
            occasions.append([])
        else:
            return None
    return tuple(tuple(sorted(squares)) for squares in occasions)


def _write_occasions(occasions: tuple) -> str:
    shown = [squares[0] if len(squares) == 1 else f"({','.join(squares)})" for squares in occasions]
    return "\n".join(f"{ordinal(number)}: {text}" for number, text in enumerate(shown, start=1))


_EQUAL = "The total value is equal at both times."
_ARRANGEMENT = _mapping("number")
_PIECES = _mapping("colour", ("white", "black").__getitem__)
_CHIPS = _counted("number", "chips")
_FILES = _bag("file")

FORMS: dict[tuple[str, str], Form] = {
    ("hrd", "order_operation"): _steps("square", "direction", text=lambda name, way: f"{_spelled(name)} {way}"),
    ("hrd", "counting_operation"): _counted("square", shown=_spelled),
    ("hrd", "order_state"): _ARRANGEMENT,
    ("hrd", "comparison_state"): _ARRANGEMENT,
    ("hrd", "prediction_state"): _ARRANGEMENT,
    ("cup", "order_operation"): _steps("square", "square", text=lambda pair: f"({', '.join(pair)})"),
    ("cup", "counting_operation"): Form(r"(ordinal square (square )?)+", _occasions, _write_occasions),
    ("cup", "order_state"): _bag("square"),
    ("cup", "comparison_state"): _mapping("content", ("empty", "coin").__getitem__, str, ", "),
    ("cup", "prediction_state"): _bag("square"),
    ("grid", "order_operation"): Form(r"(direction )+|(ordinal direction )+", _directions, _write_listed),
    ("grid", "counting_operation"): _counted("square", shown=_spelled),
    ("grid", "order_state"): _PIECES,
    ("grid", "comparison_state"): _PIECES,
    ("grid", "prediction_state"): _PIECES,
    ("file_sys", "order_operation"): _steps("command", text=str),
    ("file_sys", "counting_operation"): _counted("file", "files"),
    ("file_sys", "counting_state"): _counted("file", "files"),
    ("file_sys", "comparison_state"): _FILES,
    ("file_sys", "prediction_state"): _FILES,
    ("card", "order_operation"): _steps("card", "place", text=lambda card, place: f"{card}, {place}"),
    ("card", "counting_operation"): _counted("card", "cards"),
    ("card", "order_state"): _listed("card"),
    ("card", "comparison_state"): _bag("card"),
    ("card", "prediction_state"): _listed("card"),
    ("chip", "order_operation"): _steps("number", "place", text=lambda chip, place: f"{chip}, {place}"),
    ("chip", "counting_operation"): _CHIPS,
    ("chip", "counting_state"): _CHIPS,
    ("chip", "comparison_state"): Form(
        r"time number |time ",
        lambda found: _verdict(*(value for _, value in found)),
        lambda verdict: _EQUAL if verdict == ("equal", 0) else f"{verdict[0]}, {verdict[1]}",
    ),
    ("chip", "prediction_state"): _CHIPS,
}


def _verdict(time: str, difference: int | None = None) -> tuple | None:
    if time == "equal":
        return ("equal", 0) if not difference else None
    return (time, difference) if difference else None


_OPERATIONS = {
    "hrd": r"(direction )+",
    "cup": r"(square square )+",
    "grid": r"(direction )+",
    "file_sys": r"(command )+",
    "card": r"(verb card place )+",
    "chip": r"(verb number place )+",
}


def read_operations(demo: str, text: str) -> tuple[Operation, ...] | None:
    """The operations that an answer or a question lists, in their order; None where they cannot be read."""
    grammar = _OPERATIONS[demo]
    found = things(text, re.findall(r"\w+", grammar))
    if found is None or not re.fullmatch(grammar, "".join(f"{kind} " for kind, _ in found)):
        return None
    values = [value for _, value in found]
    if demo == "cup":
        places = [(ROWS.index(name[0]), int(name[1]) - 1) for name in values]
        return tuple((places[i], places[i + 1]) for i in range(0, len(places), 2))
    if demo in ("card", "chip"):
        return tuple(Transfer(*values[i : i + 3]) for i in range(0, len(values), 3))
    return tuple(values)
