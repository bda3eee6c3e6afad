"""What a compiled program sends between devices, read out of its optimised HLO text.

A compiler's own counts take the body of a scan once, so a model of 32 scanned layers would seem to talk as much as one
layer. Here a loop's body counts as often as the loop runs.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_HEADER = re.compile(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"  (ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_BITS = re.compile(r"\d+")
# What hands a value on as it is.
_SAME_VALUE = ("copy", "bitcast", "reshape", "convert", "copy-start", "copy-done", "get-tuple-element")

# The value of a computation's parameter, or of an element of it where that is a tuple; None where it is not known.
_Known = Callable[[int, int | None], int | None]


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one kind of collective moves in a run of the program.

    Attributes:
      count: how often it is called.
      bytes: its payload on one device, whole: a gather's result, a scatter's operand.
    """

    count: int = 0
    bytes: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.count + other.count, self.bytes + other.bytes)

    def times(self, number: int) -> "Traffic":
        return Traffic(self.count * number, self.bytes * number)


@dataclasses.dataclass(frozen=True)
class Collectives:
    """All that a program sends.

    Attributes:
      traffic: by kind; kinds that do not occur are missing.
      open_loops: loops with collectives whose number of runs the text does not say (data decides): counted as one run.
    """

    traffic: Mapping[str, Traffic]
    open_loops: int = 0

    def __add__(self, other: "Collectives") -> "Collectives":
        kinds = {**self.traffic, **other.traffic}
        both = {kind: self.traffic.get(kind, Traffic()) + other.traffic.get(kind, Traffic()) for kind in kinds}
        return Collectives(both, self.open_loops + other.open_loops)

    def times(self, number: int) -> "Collectives":
        return Collectives({kind: moved.times(number) for kind, moved in self.traffic.items()}, self.open_loops)

    @property
    def bytes(self) -> int:
        return sum(moved.bytes for moved in self.traffic.values())


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    arguments: str
    rest: str
    is_root: bool

    @property
    def operands(self) -> tuple[str, ...]:
        return tuple(_OPERAND.findall(self.arguments))


class _Computation:
    """Instructions by name, in order."""

    def __init__(self, name: str):
        self.name = name
        self.instructions: dict[str, _Instruction] = {}

    @property
    def root(self) -> _Instruction:
        return next(instruction for instruction in self.instructions.values() if instruction.is_root)


def collectives(hlo: str) -> Collectives:
    """Counts the collectives of a compiled program.

    Of a conditional the branch that moves most counts. Collectives that a TPU spreads over several fusions, to hide
    them behind products, count once.

    Args:
      hlo: `compiled.as_text()`.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry = _parse(hlo)
    return _Reading(computations).of(entry, lambda number, index: None)


def _parse(hlo: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    current, entry = None, None
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            header = _HEADER.match(line)
            if header:
                current = computations[header[1]] = _Computation(header[1])
                entry = header[1] if line.startswith("ENTRY") else entry
        elif current is not None and (instruction := _instruction(line)) is not None:
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("no ENTRY computation: this is not the text of a compiled program")
    return computations, entry


def _instruction(line: str) -> _Instruction | None:
    name = _NAME.match(line)
    if not name:
        return None
    rest = line[name.end() :]
    end = _closed(rest, 0) if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    at = rest.index("(")
    end = _closed(rest, at)
    return _Instruction(name[2], kind, rest[:at], rest[at + 1 : end - 1], rest[end:], bool(name[1]))


def _closed(text: str, start: int) -> int:
    """Just behind the parenthesis that closes the one at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at + 1
    raise ValueError(f"unbalanced parentheses in {text[:200]!r}")


class _Reading:
    """Adds up what computations send, each as often as it is called."""

    def __init__(self, computations: Mapping[str, _Computation]):
        self.computations = computations

    def of(self, name: str, known: _Known) -> Collectives:
        """What one run of a computation sends; `known` are its parameters' values."""
        computation = self.computations[name]
        total = Collectives({})
        spread: set[tuple[str, str]] = set()
        for instruction in computation.instructions.values():
            payload = _payload(instruction, computation)
            called = _CALLED.findall(instruction.rest)
            if payload is not None:
                total += Collectives({payload[0]: Traffic(1, payload[1])})
            elif instruction.opcode == "while":
                total += self._loop(instruction, computation, known)
            elif instruction.opcode == "conditional":
                names = [name for key, name in called if key.endswith("_computation")]
                names += [name for group in _BRANCHES.findall(instruction.rest) for name in _OPERAND.findall(group)]
                branches = [self.of(name, _nothing) for name in names]
                total += max(branches, key=lambda branch: branch.bytes)
            elif instruction.opcode == "fusion":
                for kind, channel, size in self._fused(instruction):
                    if (kind, channel) not in spread:
                        spread.add((kind, channel))
                        total += Collectives({kind: Traffic(1, size)})
            elif instruction.opcode in ("call", "async-start"):
                for _, name in called:
                    total += self.of(name, _nothing)
        return total

    def _loop(self, loop: _Instruction, where: _Computation, known: _Known) -> Collectives:
        called = dict(_CALLED.findall(loop.rest))
        first = lambda number, index: None if index is None else _integer(loop.operands[0], where, known, index)
        body = self.computations[called["body"]]

        def in_body(number: int, index: int | None) -> int | None:
            # Only what every run of the body hands on is the same in all of them.
            root = body.root
            if index is None or root.opcode != "tuple":
                return None
            kept = body.instructions[root.operands[index]]
            handed_on = kept.opcode == "get-tuple-element" and _index(kept) == index
            return first(number, index) if handed_on else None

        sent = self.of(body.name, in_body)
        if not sent.traffic:
            return sent
        trips = self._trips(loop, self.computations[called["condition"]], first)
        return sent.times(trips) if trips is not None else sent + Collectives({}, 1)

    def _trips(self, loop: _Instruction, condition: _Computation, first: _Known) -> int | None:
        """How often a loop runs, if that is written: by the compiler, or as `counter < limit`, counted by ones."""
        written = _KNOWN_TRIPS.search(loop.rest)
        if written:
            return int(written[1])
        compare, where, known = condition.root, condition, first
        if compare.opcode == "fusion":
            given, where = compare.operands, self.computations[dict(_CALLED.findall(compare.rest))["calls"]]
            compare = where.root
            known = lambda number, index: _integer(given[number], condition, first) if index is None else None
        if compare.opcode != "compare" or "direction=LT" not in compare.rest:
            return None
        begin, end = (_integer(name, where, known) for name in compare.operands)
        return None if begin is None or end is None else max(0, end - begin)

    def _fused(self, fusion: _Instruction) -> Iterator[tuple[str, str, int]]:
        """Kind, channel and bytes of the collectives in a fusion."""
        computation = self.computations[dict(_CALLED.findall(fusion.rest))["calls"]]
        for instruction in computation.instructions.values():
            payload = _payload(instruction, computation)
            if payload is not None:
                channel = _CHANNEL.search(instruction.rest)
                # A TPU's reduce-scatter is a fusion of an all-reduce and of the slice that a device keeps.
                kind = "reduce-scatter" if "all-reduce-scatter" in computation.name else payload[0]
                yield kind, channel[1] if channel else f"{computation.name}/{instruction.name}", payload[1]
            elif instruction.opcode == "fusion":
                yield from self._fused(instruction)


def _nothing(number: int, index: int | None) -> None:
    """Parameters of which nothing is known."""


def _index(instruction: _Instruction) -> int:
    """Which element a `get-tuple-element` takes; ValueError where the text does not say."""
    match = _INDEX.search(instruction.rest)
    if match is None:
        raise ValueError(f"a get-tuple-element without `index=`: {instruction.rest!r}")
    return int(match[1])


def _integer(name: str, where: _Computation, known: _Known, index: int | None = None) -> int | None:
    """The value of an instruction, or of an element of the tuple that it is; None where it is no constant."""
    instruction = where.instructions[name]
    if instruction.opcode == "parameter":
        return known(int(instruction.arguments), index)
    if instruction.opcode == "constant" and index is None:
        return int(instruction.arguments) if re.fullmatch(r"-?\d+", instruction.arguments) else None
    if instruction.opcode == "tuple" and index is not None:
        return _integer(instruction.operands[index], where, known)
    if instruction.opcode == "get-tuple-element" and index is None:
        return _integer(instruction.operands[0], where, known, _index(instruction))
    if instruction.opcode in _SAME_VALUE:
        return _integer(instruction.operands[0], where, known, index)
    return None


def _payload(instruction: _Instruction, computation: _Computation) -> tuple[str, int] | None:
    """Kind and bytes of a collective, of its first half where it has two; None of anything else."""
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    given = sum(_bytes(computation.instructions[name].type) for name in instruction.operands)
    result = instruction.type
    if instruction.opcode.endswith("-start"):
        # It also holds the operands, and scalars that are no part of what is sent.
        result = re.sub(r"\b[us]32\[\]", "", result)
        return kind, max(given, _bytes(result) - given)
    return kind, max(given, _bytes(result))


def _bytes(type_text: str) -> int:
    """Bytes of all arrays of a type, layouts and padding not counted."""
    sizes = [(_item_bits(dtype), shape.split(",") if shape else []) for dtype, shape in _ARRAY.findall(type_text)]
    return sum(-(-bits * math.prod(map(int, shape)) // 8) for bits, shape in sizes)


def _item_bits(dtype: str) -> int:
    """Bits of an element, from the name: `bf16`, `f8e4m3fn`, `pred`, `token`."""
    if dtype in ("token", "opaque"):
        return 0
    if dtype == "pred":
        return 8
    digits = _BITS.search(dtype)
    if digits is None:
        raise ValueError(f"the HLO text has an array of {dtype!r}, whose size is not known here")
    return int(digits[0])
