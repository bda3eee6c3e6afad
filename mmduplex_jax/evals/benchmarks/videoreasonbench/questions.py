"""Questions: what is asked, read off the published phrases, and the right answer, from what happened in the video."""

import re
from collections.abc import Mapping
from typing import Any

from mmduplex_jax.evals.benchmarks.videoreasonbench.answers import FORMS, read_operations, unordered
from mmduplex_jax.evals.benchmarks.videoreasonbench.simulation import (
    Command,
    Instance,
    Transfer,
    places,
    play,
    squares,
    touched,
    view,
)


class ImpossibleError(ValueError):
    """A question names operations that are impossible in the state that it names."""


# What a question is about is published only as text: these are the phrases in which it stands.
_RANGE = r"the (?P<first>\d+)(?:st|nd|rd|th) to (?P<last>\d+)(?:st|nd|rd|th)"
_NOW = r"as (?:it was|they did) at the (?P<time>start|end) of the video"
_AT = r"\bat the (?P<time>start|end) of the video"
_OF_PLACE = r"contains exactly the following {0}[^`]*`(?P<target>[^`]+)`"
_ENSURED = r"to ensure that\s*`(?P<place>\w+)`"
_MOVED = r"(?P<verb>add|remov)ed (?:to|from) `(?P<place>\w+)`"
_THEN = r"(?:actions in order|executed in order|are executed): `(?P<operations>[^`]+)`"
_WOULD = r"would be in `(?P<place>\w+)`"
_MISSING = r"in `(?P<place>\w+)/?` at the (?P<time>start|end) of the video, but were not there at the (?:start|end)"
_DIRECTION = r"(?:the '|direction `)(?P<direction>up|down|left|right)"

_PHRASES: dict[tuple[str, str], tuple[str, ...]] = {
    ("hrd", "order_operation"): (_RANGE,),
    ("hrd", "counting_operation"): (_DIRECTION,),
    ("hrd", "order_state"): (_AT + r"\?",),
    ("hrd", "comparison_state"): (r"number at the (?P<time>start|end)",),
    ("hrd", "prediction_state"): (_NOW, _THEN),
    ("hrd", "prediction_operation"): (_NOW, r"the desired number arrangement:\s*`(?P<target>[^`]+)`"),
    ("cup", "order_operation"): (_RANGE,),
    ("cup", "counting_operation"): (r"in the row '(?P<row>\w)'",),
    ("cup", "order_state"): (_AT + r"\?",),
    ("cup", "comparison_state"): (r"content at the (?P<time>start|end)",),
    ("cup", "prediction_state"): (_NOW, _THEN),
    ("cup", "prediction_operation"): (_NOW, r"the desired distribution of coins:\s*`(?P<target>[^`]+)`"),
    ("grid", "order_operation"): (_RANGE,),
    ("grid", "counting_operation"): (_DIRECTION,),
    ("grid", "order_state"): (_AT + r"\?",),
    ("grid", "comparison_state"): (r"piece color at the (?P<time>start|end)",),
    ("grid", "prediction_state"): (_NOW, _THEN),
    ("grid", "prediction_operation"): (
        _NOW,
        r"the desired arrangement of black and white pieces:\s*`(?P<target>[^`]+)`",
    ),
    ("file_sys", "order_operation"): (_RANGE + r" (?:`(?P<verb>[^`]+)` )?commands",),
    ("file_sys", "counting_operation"): (r"different `(?P<suffix>[^`]+)` files", r"in the `(?P<verb>[^`]+)` commands"),
    ("file_sys", "counting_state"): (
        r"[Aa]t the (?P<time>start|end) of the video",
        r"how many `(?P<suffix>[^`]+)` files remain in `(?P<place>\w+)/?`",
    ),
    ("file_sys", "comparison_state"): (
        rf"(?:{_MISSING}|After the command `(?P<after>[^`]+)` was executed, "
        r"what files were in `(?P<here>\w+)/?` but were not in `(?P<there>\w+)/?`)",
    ),
    ("file_sys", "prediction_state"): (
        _NOW,
        r"run the command `(?P<operations>[^`]+)`",
        r"which `(?P<suffix>[^`]+)` files",
        _WOULD,
    ),
    ("file_sys", "prediction_operation"): (_NOW, _ENSURED, _OF_PLACE.format("files")),
    ("card", "order_operation"): (_RANGE, r"cards being (?P<verb>add|remov)ed"),
    ("card", "counting_operation"): (_MOVED,),
    ("card", "order_state"): (r"[Aa]t the (?P<time>start|end) of the video", r"cards are in `(?P<place>\w+)`"),
    ("card", "comparison_state"): (_MISSING,),
    ("card", "prediction_state"): (_NOW, _THEN, _WOULD),
    ("card", "prediction_operation"): (_NOW, _ENSURED, _OF_PLACE.format("cards from top to bottom")),
    ("chip", "order_operation"): (_RANGE, r"chips being (?P<verb>add|remov)ed"),
    ("chip", "counting_operation"): (_MOVED,),
    ("chip", "counting_state"): (r"[Aa]t the (?P<time>start|end) of the video", r"chips were in `(?P<place>\w+)`"),
    ("chip", "comparison_state"): (r"chips in `(?P<place>\w+)`",),
    ("chip", "prediction_state"): (_NOW, _THEN, _WOULD),
    ("chip", "prediction_operation"): (_NOW, _ENSURED, _OF_PLACE.format("chips")),
}
DIMENSIONS = tuple(dict.fromkeys(dimension for _, dimension in _PHRASES))

# How the target of a question about operations is written.
_TARGETS = {
    "hrd": FORMS["hrd", "order_state"],
    "cup": FORMS["cup", "order_state"],
    "grid": FORMS["grid", "order_state"],
    "file_sys": FORMS["file_sys", "comparison_state"],
    "card": FORMS["card", "order_state"],
}


def parse_question(demo: str, dimension: str, question: str) -> dict[str, Any]:
    """What is asked, by the names in `_PHRASES`; operations, after and target as values, first and last as numbers.

    Raises:
      ValueError: the demo has no such dimension, or a phrase is missing.
    """
    if (demo, dimension) not in _PHRASES:
        raise ValueError(f"{demo} has no questions of dimension {dimension!r}")
    asked: dict[str, Any] = {}
    # What the video is like is said before, with the same words.
    question = question[_begin_of_question(question) :]
    for phrase in _PHRASES[demo, dimension]:
        found = re.search(phrase, question)
        if found is None:
            raise ValueError(f"no phrase like {phrase!r} in the question {question!r}")
        asked |= {name: text for name, text in found.groupdict().items() if text is not None}
    asked |= {name: int(asked[name]) for name in ("first", "last") if name in asked}
    if asked.get("verb") == "remov":
        asked["verb"] = "remove"
    for name in {"operations", "after"} & asked.keys():
        text = asked[name]
        asked[name] = read_operations(demo, text)
        if asked[name] is None:
            raise ValueError(f"operations that cannot be read: {text!r}")
    if "target" in asked:
        text = asked["target"]
        target = _chips(text) if demo == "chip" else _TARGETS[demo].read(text)
        if target is None:
            raise ValueError(f"a target that cannot be read: {text!r}")
        asked["target"] = target
    return asked


def _begin_of_question(question: str) -> int:
    found = question.find("answer the following question")
    return max(found, 0)


def _chips(text: str) -> tuple | None:
    values = [value.strip() for value in text.split(",")]
    return tuple(sorted(map(int, values))) if all(value.isdigit() for value in values) else None


def right_answer(instance: Instance, dimension: str, asked: Mapping[str, Any]) -> tuple:
    """The value, in the terms of `answers.FORMS`, of the right answer to any question but `prediction_operation`.

    Raises:
      ImpossibleError: the question's own operations are impossible.
    """
    demo = instance.demo
    place, suffix = asked.get("place", ""), asked.get("suffix", "")
    if dimension == "order_operation":
        steps = _named_operations(instance, asked.get("verb"))[asked["first"] - 1 : asked["last"]]
        if demo == "grid":
            return tuple(direction for (direction,) in steps)
        return tuple((number, *step) for number, step in enumerate(steps, start=asked["first"]))
    if dimension == "counting_operation":
        return _counted_operations(instance, asked)
    if dimension == "comparison_state":
        return _difference(instance, asked)
    state = instance.at(asked["time"])
    if dimension == "prediction_state":
        state = play(demo, state, asked["operations"])
        if state is None:
            raise ImpossibleError("operations that the question names are impossible there")
    seen = view(demo, state, place, suffix)
    return (len(seen), seen) if (demo, dimension) in _COUNTED_STATES else seen


_COUNTED_STATES = {("chip", "counting_state"), ("chip", "prediction_state"), ("file_sys", "counting_state")}


def _named_operations(instance: Instance, verb: str | None) -> list[tuple]:
    """What an answer says of each operation, of those with a verb where one is asked for."""
    demo = instance.demo
    named: list[tuple] = []
    if demo == "file_sys" and verb is None and instance.visible == "start":
        # Without a verb all commands of the video are asked for, and the first lists the files.
        named.append((Command("ls", places(demo, instance.size), ""),))
    for state, operation in zip(instance.states, instance.operations):
        match operation:
            case Transfer():
                if operation.verb == verb:
                    named.append((operation.thing, operation.place))
            case Command():
                if verb is None or _is_verb(operation, verb):
                    named.append((unordered(operation),))
            case str() if demo == "hrd":
                named.append((*touched(demo, state, operation), operation))
            case str():
                named.append((operation,))
            case _:
                named.append((tuple(sorted(touched(demo, state, operation))),))
    return named


def _is_verb(command: Command, verb: str) -> bool:
    return command.verb.split()[0] == verb.split()[0]


def _counted_operations(instance: Instance, asked: Mapping[str, Any]) -> tuple:
    demo = instance.demo
    if demo in ("card", "chip"):
        found = [
            operation.thing
            for operation in instance.operations
            if isinstance(operation, Transfer) and (operation.verb, operation.place) == (asked["verb"], asked["place"])
        ]
    elif demo == "file_sys":
        commands = [operation for operation in instance.operations if isinstance(operation, Command)]
        named = {name for command in commands if _is_verb(command, asked["verb"]) for name in command.files}
        found = [name for name in named if name.endswith(asked["suffix"])]
    else:
        pairs = list(zip(instance.states, instance.operations))
        names = [(operation, touched(demo, state, operation)) for state, operation in pairs]
        if demo == "cup":
            rows = [tuple(sorted(name for name in pair if name[0] == asked["row"])) for _, pair in names]
            return tuple(row for row in rows if row)
        found = [name for operation, (name,) in names if operation == asked["direction"]]
    return len(found), tuple(sorted(found))


def _difference(instance: Instance, asked: Mapping[str, Any]) -> tuple:
    demo, start, end = instance.demo, instance.at("start"), instance.at("end")
    if demo in ("hrd", "cup", "grid"):
        before, after = squares(demo, start), squares(demo, end)
        shown = before if asked["time"] == "start" else after
        return tuple((name, value) for name, value in shown.items() if before[name] != after[name])
    if demo == "chip":
        gain = sum(end[asked["place"]]) - sum(start[asked["place"]])
        return ("end" if gain > 0 else "start" if gain else "equal", abs(gain))
    if "after" in asked:
        # The command that the question names; where it never ran, nothing can be said but how it ended.
        texts = [str(operation) for operation in instance.operations]
        named = str(asked["after"][0])
        state = instance.states[texts.index(named) + 1] if named in texts else end
        return tuple(sorted(state[asked["here"]] - state[asked["there"]]))
    one, other = (start, end) if asked["time"] == "start" else (end, start)
    return tuple(sorted(set(one[asked["place"]]) - set(other[asked["place"]])))


# Of `file_sys`: how many commands an answer may have, and which (the question says so).
_MOST_COMMANDS, _ALLOWED = 2, ("touch", "rm -rf")


def reaches_target(instance: Instance, asked: Mapping[str, Any], answer: str) -> bool | None:
    """Whether the operations of an answer, simulated from the state that had to be inferred, reach the target.

    None where they cannot be read. (llyx97/video_reason_bench 2524387, utils/eval_utils.py, eval_op_*: there a language
    model extracts them, and what it writes is run as Python.)
    """
    demo = instance.demo
    operations = read_operations(demo, answer)
    if operations is None:
        return None
    if demo == "file_sys":
        commands = [operation for operation in operations if isinstance(operation, Command)]
        made = {name for command in commands if command.verb == "touch" for name in command.files}
        gone = {name for command in commands if command.verb != "touch" for name in command.files}
        if len(commands) > _MOST_COMMANDS or made & gone or any(command.verb not in _ALLOWED for command in commands):
            return False
    state = play(demo, instance.at(instance.hidden), operations)
    return state is not None and view(demo, state, asked.get("place", "")) == asked["target"]


def dispute(instance: Instance, dimension: str, asked: Mapping[str, Any], stored: str) -> str:
    """Why a stored answer is not what the operations lead to; "" where it is."""
    form = FORMS[instance.demo, dimension]
    value = form.read(stored)
    if value is None:
        return f"the stored answer {stored!r} cannot be read"
    try:
        right = right_answer(instance, dimension, asked)
    except ImpossibleError as error:
        return str(error)
    return "" if value == right else f"the stored answer is {stored!r}, the operations lead to {form.write(right)!r}"


def judge(instance: Instance, dimension: str, asked: Mapping[str, Any], stored: str | None, answer: str) -> bool | None:
    """Whether a final answer is right; None where it cannot be read.

    Args:
      instance: what happened.
      dimension: of the question.
      asked: of `parse_question`.
      stored: the answer to compare with; None for what the operations lead to.
      answer: of `answers.final_answer`.

    Raises:
      ImpossibleError: the question's own operations are impossible.
    """
    if dimension == "prediction_operation":
        return reaches_target(instance, asked, answer)
    form = FORMS[instance.demo, dimension]
    given = form.read(answer)
    right = right_answer(instance, dimension, asked) if stored is None else form.read(stored)
    return None if given is None else given == right
