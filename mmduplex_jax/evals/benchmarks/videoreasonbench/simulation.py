"""The six demos of VideoReasonBench: states, operations, and what an operation does to a state.

What happens to an operation that is impossible is as in the published judges (llyx97/video_reason_bench 2524387,
utils/eval_utils.py): `hrd`, `cup` and `grid` pass over it, `card`, `chip` and `file_sys` give up.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

DEMOS = ("hrd", "cup", "grid", "file_sys", "card", "chip")
PASSED_OVER = ("hrd", "cup", "grid")

ROWS = "abcde"
RANKS = ("Ace", *(str(number) for number in range(2, 11)), "Jack", "Queen", "King")
SUITS = ("Hearts", "Clubs", "Diamonds", "Spades")
CARDS = tuple(f"{rank} of {suit}" for suit in SUITS for rank in RANKS)
CHIPS = (5, 10, 20, 50, 100)

# What a direction does to (column, row) of a picture, rows counted downwards.
DIRECTIONS = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}

Board = tuple[tuple[int, ...], ...]
Square = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A card or a chip is added to, or removed from, a pile or a cup.

    Attributes:
      verb: "add" or "remove".
      thing: "6 of Hearts", or a chip's value.
      place: "pile0", "cup1".
    """

    verb: str
    thing: str | int
    place: str

    def __str__(self) -> str:
        return f"{self.verb} {self.thing} {'to' if self.verb == 'add' else 'from'} {self.place}"


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the shell.

    Attributes:
      verb: "touch", "rm -rf", "cp" or "mv"; or "ls", which shows and changes nothing.
      files: names, in the order in which they stand there; of "ls" the paths.
      path: where they are, "" of "ls".
      to: where "cp" and "mv" bring them, "" of the others.
    """

    verb: str
    files: tuple[str, ...]
    path: str
    to: str = ""

    def __str__(self) -> str:
        if self.verb == "ls":
            return f"ls {' '.join(self.files)}"
        return f"{self.verb} {self.path}/{{{','.join(self.files)}}}" + (f" {self.to}/" if self.to else "")


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The state of `grid`: black (1) and white (0) pieces, rows from the top, and the circle's (column, row)."""

    board: Board
    circle: Square


# A direction (`hrd`, `grid`), two squares as (row, column) that change places (`cup`), or one of the classes above.
Operation = str | tuple[Square, Square] | Transfer | Command
# Of `hrd` the numbers, rows from the bottom as the files have them, 0 the empty square; of `cup` coins (1), rows from
# the top; of `card` and `chip` what is in each place, cards from the bottom; of `file_sys` the files of each path.
State = Any


@dataclasses.dataclass(frozen=True)
class Instance:
    """What happens in a video.

    Attributes:
      demo: one of `DEMOS`.
      size: squares along a side of the board, or number of piles, cups or paths.
      visible: when the state is shown, "start" or "end".
      states: before the first operation and after each.
      operations: in their order.
    """

    demo: str
    size: int
    visible: str
    states: tuple[State, ...]
    operations: tuple[Operation, ...]

    @property
    def hidden(self) -> str:
        """When the state must be inferred."""
        return "end" if self.visible == "start" else "start"

    def at(self, time: str) -> State:
        """The state at "start" or "end"."""
        return self.states[0 if time == "start" else -1]


def step(demo: str, state: State, operation: Any) -> State | None:
    """The state after an operation, None where it is impossible."""
    return _STEPS[demo](state, operation)


def play(demo: str, state: State, operations: Iterable[Operation]) -> State | None:
    """The state after operations; None where one is impossible and the demo is not of those that pass over it."""
    for operation in operations:
        after = step(demo, state, operation)
        if after is not None:
            state = after
        elif demo not in PASSED_OVER:
            return None
    return state


def replay(demo: str, state: State, operations: Iterable[Operation]) -> tuple[State, ...]:
    """All states from the first on.

    Raises:
      ValueError: an operation is impossible.
    """
    states = [state]
    for number, operation in enumerate(operations, start=1):
        after = step(demo, states[-1], operation)
        if after is None:
            raise ValueError(f"operation {number}, {written(demo, operation, state)!r}, is impossible there")
        states.append(after)
    return tuple(states)


def places(demo: str, size: int) -> tuple[str, ...]:
    """Names of the piles, cups or paths; () of boards."""
    name = {"card": "pile", "chip": "cup", "file_sys": "path"}.get(demo)
    return tuple(f"{name}{number}" for number in range(size)) if name else ()


def square_name(demo: str, size: int, square: Square) -> str:
    """The name, "a1", of a (row, column) as boards are stored. Row "a" is on top; columns of `grid` begin with 0."""
    row, column = square
    letter = ROWS[size - 1 - row if demo == "hrd" else row]
    return f"{letter}{column if demo == 'grid' else column + 1}"


def squares(demo: str, state: State) -> dict[str, int]:
    """What is on each square of a board, by its name, in the order of names."""
    board = state.board if demo == "grid" else state
    named = {
        square_name(demo, len(board), (row, column)): value
        for row, values in enumerate(board)
        for column, value in enumerate(values)
    }
    return dict(sorted(named.items()))


def touched(demo: str, before: State, operation: Any) -> tuple[str, ...]:
    """Names of the squares that an operation moves something from: one tile, the circle, two cups."""
    if demo == "hrd":
        return (square_name(demo, len(before), _moved_tile(before, operation)),)
    if demo == "grid":
        column, row = before.circle
        return (square_name(demo, len(before.board), (row, column)),)
    return tuple(square_name(demo, len(before), square) for square in operation)


def written(demo: str, operation: Any, state: State) -> str:
    """An operation as answers name it: "up", "(a1, b2)", "add 5 to cup0", "touch path0/{a.py}"."""
    return f"({', '.join(touched(demo, state, operation))})" if demo == "cup" else str(operation)


def _on(board: Board, square: Square) -> bool:
    return all(0 <= index < len(board) for index in square)


def _moved_tile(board: Board, direction: str) -> Square:
    row, column = next((row, values.index(0)) for row, values in enumerate(board) if 0 in values)
    right, down = DIRECTIONS[direction]
    # Rows are stored from the bottom: what moves up comes from the row before.
    return row + down, column - right


def _exchange(board: Board, one: Square, other: Square) -> Board:
    rows = [list(values) for values in board]
    rows[one[0]][one[1]], rows[other[0]][other[1]] = rows[other[0]][other[1]], rows[one[0]][one[1]]
    return tuple(map(tuple, rows))


def _slide(board: Board, direction: str) -> Board | None:
    tile = _moved_tile(board, direction)
    if not _on(board, tile):
        return None
    empty = next((row, values.index(0)) for row, values in enumerate(board) if 0 in values)
    return _exchange(board, tile, empty)


def _swap(board: Board, pair: tuple[Square, Square]) -> Board | None:
    return _exchange(board, *pair) if all(_on(board, square) for square in pair) else None


def _walk(state: Pieces, direction: str) -> Pieces | None:
    right, down = DIRECTIONS[direction]
    circle = (state.circle[0] + right, state.circle[1] + down)
    if not _on(state.board, circle):
        return None
    rows = [list(values) for values in state.board]
    for right, down in ((0, 0), *DIRECTIONS.values()):
        column, row = circle[0] + right, circle[1] + down
        if _on(state.board, (row, column)):
            rows[row][column] = 1 - rows[row][column]
    return Pieces(tuple(map(tuple, rows)), circle)


def _transfer(state: Mapping[str, tuple], transfer: Transfer, *, kinds: tuple, only_bottom: bool) -> Mapping | None:
    if transfer.place not in state or transfer.thing not in kinds:
        return None
    here = list(state[transfer.place])
    if transfer.verb == "add":
        here.append(transfer.thing)
    elif transfer.thing in (here[:1] if only_bottom else here):
        here.remove(transfer.thing)
    else:
        return None
    return {**state, transfer.place: tuple(here)}


def _run(state: Mapping[str, frozenset[str]], command: Command) -> Mapping | None:
    """What the shell would do; as in the published judge, names that are not there are passed over."""
    if command.path not in state or (command.to and command.to not in state):
        return None
    files, here = frozenset(command.files), state[command.path]
    if command.verb == "touch":
        return {**state, command.path: here | files}
    after = dict(state)
    if command.to:
        after[command.to] |= files & here
    if command.verb != "cp":
        after[command.path] -= files
    return after


_STEPS: dict[str, Callable[[Any, Any], State | None]] = {
    "hrd": _slide,
    "cup": _swap,
    "grid": _walk,
    "file_sys": _run,
    "card": functools.partial(_transfer, kinds=CARDS, only_bottom=True),
    "chip": functools.partial(_transfer, kinds=CHIPS, only_bottom=False),
}


def view(demo: str, state: State, place: str = "", suffix: str = "") -> tuple:
    """What is asked of a state, comparable: squares with what is on them (`hrd`, `grid`), squares with coins (`cup`),
    cards from the top, chips and files in order of value and name.

    Args:
      demo: one of `DEMOS`.
      state: of it.
      place: pile, cup or path.
      suffix: of files, ".py"; "" for all.
    """
    if demo in ("hrd", "grid"):
        return tuple(squares(demo, state).items())
    if demo == "cup":
        return tuple(name for name, coin in squares(demo, state).items() if coin)
    if demo == "card":
        return tuple(reversed(state[place]))
    return tuple(sorted(thing for thing in state[place] if not suffix or thing.endswith(suffix)))


def same_state(demo: str, one: State, other: State) -> bool:
    """Whether two states are the same; in a cup the order of chips is nothing."""
    if demo != "chip":
        return one == other
    return all(sorted(one[place]) == sorted(other[place]) for place in itertools.chain(one, other))
