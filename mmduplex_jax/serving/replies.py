"""What the server says to clients, as JSON objects. docs/protocol.md describes every field.

Nothing but the standard library is imported.
"""

import json
from collections.abc import Sequence
from typing import Any

from mmduplex_jax.serving.protocol import VERSION

Reply = dict[str, Any]
# Places of tokens: (row, column) of the centre and side, in the model's pixels, and the kind.
Places = Sequence[tuple[int, int, int, int]]

# Why a session ended, and the WebSocket's close code that goes with it.
CLOSE_CODES = {
    "end": 1000,
    "superseded": 1000,
    "shutdown": 1001,
    "protocol": 1008,
    "idle": 1008,
    "too_slow": 1008,
    "unknown_session": 1008,
    "source": 1000,
    "full": 1013,
    "overloaded": 1013,
    "draining": 1013,
    "internal": 1011,
}


def encode(reply: Reply) -> str:
    """A reply as the text that is sent; ValueError for a number that JSON does not have."""
    return json.dumps(reply, separators=(",", ":"), allow_nan=False)


def hello(*, session: str, token: str, feed: str, resumed: bool, missed_words: int, seq: int, **facts: Any) -> Reply:
    """The answer to a hello: who the stream is, and all that a client must know of the model and the limits."""
    return {
        "type": "hello",
        "version": VERSION,
        "session": session,
        "token": token,
        "feed": feed,
        "resumed": resumed,
        "missed_words": missed_words,
        "seq": seq,
        **facts,
    }


def config(*, delay_steps: int, pad_bias: float) -> Reply:
    """The settings as they now are."""
    return {"type": "config", "delay_steps": delay_steps, "pad_bias": pad_bias}


def word(*, seq: int, text: str, t_video_s: float, t_emit_s: float) -> Reply:
    """A word that was said."""
    return {
        "type": "word",
        "seq": seq,
        "text": text,
        "t_video_s": round(t_video_s, 6),
        "t_emit_s": round(t_emit_s, 6),
    }


def status(
    *,
    t_video_s: float,
    step: int,
    lag_s: float,
    dropped_frames: int,
    late_frames: int,
    tokens: int,
    tokens_per_s: int,
    anchor: bool,
    places: Places,
    change: float,
) -> Reply:
    """What a tick did: lag, tokens and where they look. Never numbered; the newest counts, old ones may be left out."""
    return {
        "type": "status",
        "t_video_s": round(t_video_s, 6),
        "step": step,
        "lag_s": round(lag_s, 4),
        "dropped_frames": dropped_frames,
        "late_frames": late_frames,
        "tokens": tokens,
        "tokens_per_s": tokens_per_s,
        "anchor": anchor,
        "places": [list(place) for place in places],
        "change": round(change, 4),
    }


def error(code: str, message: str, *, fatal: bool) -> Reply:
    """Something is wrong; where it is fatal, a bye follows."""
    return {"type": "error", "code": code, "message": message, "fatal": fatal}


def bye(reason: str, message: str, *, seq: int, resumable: bool = False) -> Reply:
    """The last message: why, and the number of the last word that was said."""
    return {"type": "bye", "reason": reason, "message": message, "seq": seq, "resumable": resumable}
