"""New videos and questions in the published layout, from a seed: the benchmark can be trained for, and enlarged.

What happens is drawn here, `questions.py` answers it and `rendering.py` films it. The questions have the published
dimensions and the phrases that tell what is asked; the words around them are ours.
"""

import dataclasses
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from mmduplex_jax.evals.benchmarks.videoreasonbench.answers import FORMS, ordinal
from mmduplex_jax.evals.benchmarks.videoreasonbench.questions import ImpossibleError, parse_question, right_answer
from mmduplex_jax.evals.benchmarks.videoreasonbench.rows import Row, instance_fields
from mmduplex_jax.evals.benchmarks.videoreasonbench.simulation import (
    CARDS,
    CHIPS,
    DIRECTIONS,
    Command,
    Instance,
    Operation,
    Pieces,
    State,
    Transfer,
    places,
    replay,
    step,
    touched,
    view,
    written,
)
from mmduplex_jax.evals.benchmarks.videoreasonbench.wording import ENDING, INTRODUCTIONS, NOW, REQUEST, TEMPLATES

SIZES = {"hrd": (3, 4), "cup": (3, 4), "grid": (3, 4), "file_sys": (1, 2), "card": (1, 2), "chip": (1, 2)}
_SUFFIXES = (".txt", ".csv", ".py", ".json")
_NAMES = tuple(f"{letter}{suffix}" for letter in string.ascii_lowercase for suffix in _SUFFIXES)
_FIRST_THINGS = (3, 5)  # cards or chips in a place at the start, from and to
_FIRST_FILES = (10, 14)
_MOST_TOUCHED, _MOST_MOVED = 8, 5
_PREDICTED = (3, 5)  # operations that a question adds, from and to

Generator = np.random.Generator
T = TypeVar("T")


def random_instance(rng: Generator, demo: str, size: int, num_operations: int) -> Instance:
    """What happens in a random video, with its state shown at the start; every operation is possible."""
    while True:
        state = _first_state(rng, demo, size)
        operations = random_operations(rng, demo, state, num_operations)
        # The layout keeps states of files by their commands.
        if demo != "file_sys" or len(set(map(str, operations))) == len(operations):
            return Instance(demo, size, "start", replay(demo, state, operations), operations)


def random_operations(rng: Generator, demo: str, state: State, count: int) -> tuple[Operation, ...]:
    """So many operations, each possible after those before it."""
    operations: list[Operation] = []
    while len(operations) < count:
        operation = _random_operation(rng, demo, state)
        after = None if operation is None else step(demo, state, operation)
        if after is not None and operation is not None:
            operations.append(operation)
            state = after
    return tuple(operations)


def _pick(rng: Generator, things: Sequence[T]) -> T:
    return things[int(rng.integers(len(things)))]


def _some(rng: Generator, things: Sequence[T], least: int, most: int) -> tuple[T, ...]:
    count = int(rng.integers(min(least, len(things)), min(most, len(things)) + 1))
    return tuple(things[i] for i in rng.choice(len(things), size=count, replace=False))


def _rows_of(values: np.ndarray) -> tuple:
    return tuple(tuple(int(value) for value in row) for row in values)


def _first_state(rng: Generator, demo: str, size: int) -> State:
    if demo == "hrd":
        return _rows_of(rng.permutation(size * size).reshape(size, size))
    if demo == "cup":
        coins = np.zeros(size * size, int)
        coins[: rng.integers(size, size * size - size + 1)] = 1
        return _rows_of(rng.permutation(coins).reshape(size, size))
    if demo == "grid":
        column, row = rng.integers(size, size=2)
        return Pieces(_rows_of(rng.integers(2, size=(size, size))), (int(column), int(row)))
    named = places(demo, size)
    if demo == "file_sys":
        return {path: frozenset(_some(rng, _NAMES, *_FIRST_FILES)) for path in named}
    if demo == "chip":
        return {cup: tuple(_pick(rng, CHIPS) for _ in range(rng.integers(_FIRST_THINGS[0], _FIRST_THINGS[1] + 1)))
                for cup in named}  # fmt: skip
    deck = [CARDS[i] for i in rng.permutation(len(CARDS))]
    counts = rng.integers(_FIRST_THINGS[0], _FIRST_THINGS[1] + 1, size=size)
    return {pile: tuple(deck.pop() for _ in range(count)) for pile, count in zip(named, counts)}


def _random_operation(rng: Generator, demo: str, state: State) -> Operation | None:
    """One that people would make, or None where the dice fell on one that is impossible."""
    if demo in ("hrd", "grid"):
        return _pick(rng, tuple(DIRECTIONS))
    if demo == "cup":
        one, other = (divmod(int(square), len(state)) for square in rng.choice(len(state) ** 2, 2, replace=False))
        return one, other
    place, adds = _pick(rng, tuple(state)), bool(rng.integers(2))
    if demo == "file_sys":
        return _random_command(rng, state, place)
    if demo == "chip":
        return Transfer("add", _pick(rng, CHIPS), place) if adds else _removal(rng, state, place, last=1)
    if adds:
        used = {card for pile in state.values() for card in pile}
        return Transfer("add", _pick(rng, [card for card in CARDS if card not in used]), place)
    return _removal(rng, state, place, last=2)


def _removal(rng: Generator, state: Mapping[str, tuple], place: str, *, last: int) -> Transfer | None:
    here = state[place]
    if len(here) < last:
        return None
    thing = here[0] if isinstance(here[0], str) else _pick(rng, here)
    return Transfer("remove", thing, place)


def _random_command(rng: Generator, state: Mapping[str, frozenset[str]], path: str) -> Command | None:
    verb = _pick(rng, ("touch", "rm -rf", "cp", "mv") if len(state) > 1 else ("touch", "rm -rf"))
    here = sorted(state[path])
    if verb == "touch":
        return Command(verb, _some(rng, [name for name in _NAMES if name not in here], 3, _MOST_TOUCHED), path)
    if verb == "rm -rf":
        return Command(verb, _some(rng, here, 1, _MOST_MOVED), path) if here else None
    to = _pick(rng, [other for other in state if other != path])
    movable = [name for name in here if name not in state[to]]
    return Command(verb, _some(rng, movable, 1, _MOST_MOVED), path, to) if movable else None


def dimensions_of(demo: str) -> tuple[str, ...]:
    """The six dimensions of a demo's questions."""
    return tuple(dimension for named, dimension in TEMPLATES if named == demo)


def random_questions(rng: Generator, instance: Instance) -> Iterator[tuple[str, str, str | None, str]]:
    """One question of each dimension as (dimension, question, answer, solution).

    The answer is None for `prediction_operation`, as in the published rows; the solution is then one of many.
    """
    for dimension in dimensions_of(instance.demo):
        asked, solution = _random_details(rng, instance, dimension)
        introduction = INTRODUCTIONS[instance.demo].format(n=instance.size, visible=instance.visible)
        text = TEMPLATES[instance.demo, dimension].format(**asked)
        question = f"{introduction} {REQUEST}\n\n{text}\n\n{ENDING}"
        if dimension == "prediction_operation":
            yield dimension, question, None, solution
            continue
        value = right_answer(instance, dimension, parse_question(instance.demo, dimension, question))
        answer = FORMS[instance.demo, dimension].write(value)
        yield dimension, question, answer, answer


def _random_details(rng: Generator, instance: Instance, dimension: str) -> tuple[dict[str, Any], str]:
    """What fills a template, and a solution where operations are asked for."""
    demo, operations, time = instance.demo, instance.operations, instance.hidden
    asked: dict[str, Any] = {"time": time, "other": instance.visible, "suffix": _pick(rng, _SUFFIXES)}
    asked["now"] = NOW[demo].format(time=time)
    asked["place"] = _pick(rng, places(demo, instance.size) or ("",))
    if dimension in ("order_operation", "counting_operation"):
        asked |= _details_of_operations(rng, instance, dimension)
    elif dimension == "comparison_state":
        asked |= {"time": "start", "other": "end"} if demo in ("card", "file_sys") else {}
    elif dimension in ("prediction_state", "prediction_operation"):
        state = instance.at(time)
        if dimension == "prediction_operation" and demo == "file_sys":
            operations = _touch_and_remove(rng, state[asked["place"]], asked["place"])
        else:
            count = int(rng.integers(_PREDICTED[0], _PREDICTED[1] + 1))
            operations = random_operations(rng, demo, state, count)
        states = replay(demo, state, operations)
        solution = listed(demo, state, operations)
        target = view(demo, states[-1], asked["place"])
        if dimension == "prediction_operation" and (not target or target == view(demo, state, asked["place"])):
            return _random_details(rng, instance, dimension)
        return asked | {"operations": solution, "target": _written_target(demo, target)}, solution
    return asked, ""


def _touch_and_remove(rng: Generator, here: frozenset[str], path: str) -> tuple[Command, ...]:
    made = Command("touch", _some(rng, [name for name in _NAMES if name not in here], 1, _MOST_MOVED), path)
    if len(here) < 2:
        return (made,)
    return made, Command("rm -rf", _some(rng, sorted(here), 1, min(_MOST_MOVED, len(here) - 1)), path)


def _written_target(demo: str, target: tuple) -> str:
    form = FORMS.get((demo, "comparison_state" if demo == "file_sys" else "order_state"))
    return (form.write(target) if form else ", ".join(map(str, target))).replace("\n", ", ")


def _details_of_operations(rng: Generator, instance: Instance, dimension: str) -> dict[str, Any]:
    """Of operations that happen: no published question counts what never does."""
    demo, counts = instance.demo, dimension == "counting_operation"
    happened: list[Any] = list(instance.operations)
    asked: dict[str, Any] = {}
    if demo in ("card", "chip", "file_sys"):
        # Of a verb that comes more than once, if there is one, so that there is an order.
        verbs = [operation.verb for operation in happened]
        chosen = _pick(rng, [one for one in happened if verbs.count(one.verb) > 1] or happened)
        happened = [operation for operation in happened if operation.verb == chosen.verb]
        if demo == "file_sys":
            suffix = chosen.files[0].rpartition(".")[2]
            asked |= {"verb": chosen.verb.split()[0], "suffix": f".{suffix}"}
        else:
            asked["verb"] = {"add": "added", "remove": "removed"}[chosen.verb]
            if counts:
                way = "to" if chosen.verb == "add" else "from"
                return {"verb": f"{asked['verb']} {way}", "place": chosen.place}
    elif counts and demo == "cup":
        return {"row": touched(demo, instance.states[0], _pick(rng, happened))[0][0]}
    elif counts:
        return {"direction": _pick(rng, happened)}
    most = len(happened)
    first, last = sorted(rng.choice(most, size=2, replace=False) + 1) if most > 1 else (1, 1)
    return asked | {"first": ordinal(int(first)), "last": ordinal(int(last))}


def random_rows(rng: Generator, instance: Instance, name: str) -> Iterator[tuple[str, Row]]:
    """The rows of an instance's two videos, with its state shown at the start and at the end, by their ids.

    Beside the published fields each has a `solution`, the answer or one of several: what a model may be taught.
    """
    demo = instance.demo
    for visible in ("start", "end"):
        shown = dataclasses.replace(instance, visible=visible)
        fields = instance_fields(shown)
        video = f"videos/{demo}/{name}_{visible}.mp4"
        for dimension, question, answer, solution in random_questions(rng, shown):
            row = {"video": video, "question": question, "answer": answer, "dim": dimension, **fields}
            yield f"{name}_{dimension}_{visible}", row | {"solution": solution}


def random_answer(
    rng: Generator, demo: str, size: int, num_operations: int, dimension: str, asked: Mapping[str, Any]
) -> str:
    """An answer to a question about another video, or random operations where these are asked for."""
    other = random_instance(rng, demo, size, num_operations)
    if dimension == "prediction_operation":
        state = other.at("end")
        count = int(rng.integers(_PREDICTED[0], _PREDICTED[1] + 1))
        return listed(demo, state, random_operations(rng, demo, state, count))
    try:
        value = right_answer(other, dimension, asked)
    except ImpossibleError:
        # What the question removes is not there: whoever saw nothing can as well leave the operations out.
        value = right_answer(other, dimension, {**asked, "operations": ()})
    return FORMS[demo, dimension].write(value)


def listed(demo: str, state: State, operations: Sequence[Operation]) -> str:
    """Operations as questions and answers list them."""
    return (" & " if demo == "file_sys" else ", ").join(written(demo, operation, state) for operation in operations)
