"""Names of cameras: which of them a regular expression means."""

import re
from collections.abc import Iterable


def matching_cameras(pattern: str, cameras: Iterable[str]) -> frozenset[str]:
    """Those whose whole name matches a regular expression; ValueError where it is none."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return frozenset(camera for camera in cameras if compiled.fullmatch(camera))
