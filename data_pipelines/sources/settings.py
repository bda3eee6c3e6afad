"""Settings that are dataclasses, changed by a configuration."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

_Settings = TypeVar("_Settings")


def with_changes(settings: _Settings, changes: Mapping[str, Any], where: str) -> _Settings:
    """A copy of a dataclass with those changes that are not None; lists become tuples.

    Args:
      settings: a dataclass with values.
      changes: by the names of its fields.
      where: what messages call the changes, e.g. "config.world.dynamics".

    Raises:
      ValueError: it has no field of a name.
    """
    known = {field.name for field in dataclasses.fields(settings)}  # type: ignore[arg-type]
    unknown = sorted(changes.keys() - known)
    if unknown:
        raise ValueError(f"{where}.{unknown[0]} is unknown, there are {sorted(known)}")
    given = {name: _frozen(value) for name, value in changes.items() if value is not None}
    return dataclasses.replace(settings, **given)  # type: ignore[type-var]


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list | tuple) else value
