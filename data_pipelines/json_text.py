"""JSON from elsewhere as values whose texts can be written down."""

import json
import re
from typing import Any

# The escape of half a character: sliced captions of films and chats hold some, which no file in UTF-8 can.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
      ValueError: it is no JSON, no UTF-8, or a text in it holds half a character (a surrogate without its partner).
    """
    value = json.loads(data)
    if _HALF.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"a text in it holds half a character, \\u{ord(half):04x} without its partner") from error
    return value
