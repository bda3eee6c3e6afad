"""JSON files of benchmarks and of predictions: errors say which file and entry, and what is wrong.

Nothing in them is trusted: a number is a number and no text is evaluated.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError

_MISSING = object()


def read_text(path: Path) -> str:
    """A text file in UTF-8; BenchmarkError where there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BenchmarkError(f"{path}: there is no such file") from error
    except IsADirectoryError as error:
        raise BenchmarkError(f"{path}: a file was expected, it is a folder") from error
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      BenchmarkError: there is no such file, it is not UTF-8 or not JSON; says where.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, place: str) -> Any:
    """What JSON text holds; `place` names it in errors.

    Raises:
      BenchmarkError: it is not JSON, names something twice in one object, or holds half a character; says where.
    """
    try:
        return _value(text, place)
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"{place}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from error


def _value(text: str, place: str) -> Any:
    """What JSON text holds; JSONDecodeError where it is none, BenchmarkError where it is not to be trusted."""
    try:
        value = json.loads(text, object_pairs_hook=_without_doubles)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        raise BenchmarkError(f"{place}: {error}") from error
    except RecursionError as error:
        raise BenchmarkError(f"{place}: lists or objects are nested too deeply in it") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError where a name comes twice, of which Python would keep the last in silence."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} comes twice in one object: keep one of them")
        found[name] = value
    return found


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Of every line of a JSON lines file where it stands ("FILE, line 3"), and its object; blank ones are skipped.

    Raises:
      BenchmarkError: there is no such file, or a line is not a JSON object.
    """
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = _value(line, place)
        except json.JSONDecodeError as error:
            raise BenchmarkError(f"{place}: not JSON ({error.msg})") from error
        yield place, as_object(row, place)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file as the benchmarks' own scripts do (indented); its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def as_object(value: Any, place: str) -> dict[str, Any]:
    """The value, which must be a JSON object; BenchmarkError where it is not."""
    if not isinstance(value, dict):
        raise BenchmarkError(f"{place}: an object was expected, there is {_shown(value)}")
    return value


def as_list(value: Any, place: str) -> list[Any]:
    """The value, which must be a list; BenchmarkError where it is not."""
    if not isinstance(value, list):
        raise BenchmarkError(f"{place}: a list was expected, there is {_shown(value)}")
    return value


def list_of(row: Mapping[str, Any], name: str, place: str) -> list[Any]:
    """A list in an object; BenchmarkError where it is missing or none."""
    return as_list(_get(row, name, place), f"{place}, {name!r}")


def text_of(row: Mapping[str, Any], name: str, place: str) -> str:
    """A text in an object; BenchmarkError where it is missing or none."""
    value = _get(row, name, place)
    if not isinstance(value, str):
        raise BenchmarkError(f"{place}: {name!r} must be a text, it is {_shown(value)}")
    return value


def path_of(folder: Path, row: Mapping[str, Any], name: str, place: str) -> Path:
    """The file of a folder that an object names; BenchmarkError where it names none, or one outside of the folder.

    (By its name alone: a link inside of the folder may lead where its owner likes.)
    """
    text = text_of(row, name, place)
    if not text.strip() or PurePath(text).is_absolute() or ".." in PurePath(text.replace("\\", "/")).parts:
        raise BenchmarkError(f"{place}: {name!r} must name a file in {folder}, it is {_shown(text)}")
    return folder / text


def check_finite(row: Mapping[str, Any], place: str) -> None:
    """Raises BenchmarkError where an object holds NaN or an infinite number, which Python reads and JSON lacks."""
    try:
        json.dumps(row, allow_nan=False)
    except ValueError as error:
        raise BenchmarkError(f"{place}: holds NaN or an infinite number: write a number, or null") from error


def number_of(row: Mapping[str, Any], name: str, place: str) -> float:
    """A number in an object, also where it stands there as a text; BenchmarkError where it is missing or none."""
    value = _get(row, name, place)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BenchmarkError(f"{place}: {name!r} must be a number, it is {_shown(value)}")
    return number


def integer_of(row: Mapping[str, Any], name: str, place: str) -> int:
    """An integer in an object; BenchmarkError where it is missing or none."""
    value = _get(row, name, place)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BenchmarkError(f"{place}: {name!r} must be an integer, it is {_shown(value)}")
    return value


def _get(row: Mapping[str, Any], name: str, place: str) -> Any:
    value = row.get(name, _MISSING)
    if value is _MISSING:
        raise BenchmarkError(f"{place}: {name!r} is missing; there are {', '.join(map(repr, row)) or 'no fields'}")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
