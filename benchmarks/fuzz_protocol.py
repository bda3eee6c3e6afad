"""Fuzzes what the server takes from strangers: the parser, the pictures, and whole sessions.

    python -m benchmarks.fuzz_protocol --minutes=10
    python -m benchmarks.fuzz_protocol --minutes=1 --parts=sessions --seed=7 --json=fuzz.json

hypothesis makes up the cases; the time is shared out among the parts, in turns.

`parser`: texts and pictures' messages, nearly right ones and noise: a message or a ProtocolError, nothing else.
`pictures`: JPEG, WebP and H.264 with bytes changed, cut or repeated: a square or a PictureRefused.
`sessions`: programs of up to 40 acts of 4 clients on 3 seats (connect, drop, come back, stand still, orders, pictures,
garbage) against the server's own sessions and a pool with a model that counts. Every word comes once and in order over
any connections, nothing comes after a bye, whatever was asked ends, nothing is left: no task, no seat, no error logged.

A failure is shown with the smallest case that was found, and the exit code is 1. Finds become tests.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from benchmarks.fuzz_streams import CLIENTS, Act, counting_pool, run_program
from mmduplex_jax.serving.pictures import PictureDecoder, PictureRefused
from mmduplex_jax.serving.protocol import (
    Change,
    Frame,
    Hello,
    Order,
    ProtocolError,
    frame_bytes,
    parse_frame,
    parse_text,
)

_ROUND = {"parser": 400, "pictures": 200, "sessions": 100}
_PIXELS_MAX, _FRAME_PX = 200_000, 32
_KINDS = ("hello", "config", "pause", "play", "reset", "end", "dance", "", None, 3)
_FIELDS: tuple[str, ...] = (
    "type",
    "version",
    "config",
    "resume",
    "mode",
    "fit",
    "delay_steps",
    "pad_bias",
    "source",
    "client",
)
_FIELDS += ("session", "token", "last_seq")
_VALUES: tuple[Any, ...] = (
    "live",
    "file",
    "crop",
    "pad",
    1,
    0,
    -1,
    2**63,
    1e308,
    True,
    None,
    "",
    "x" * 64,
    "\ud800",
    "0",
    [],
    {},
)

Json = st.recursive(
    st.sampled_from(_VALUES) | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=5),
    max_leaves=10,
)
Texts = st.one_of(
    st.text(max_size=80),
    Json.map(json.dumps),
    st.builds(lambda kind, rest: json.dumps({"type": kind, "version": 1} | rest), st.sampled_from(_KINDS),
              st.dictionaries(st.sampled_from(_FIELDS[1:]), Json, max_size=5)),
    st.integers(1, 5000).map(lambda n: "[" * n),
    st.integers(1, 5000).map(lambda n: '{"type":' * n),
)  # fmt: skip


def _image(side_px: int) -> np.ndarray:
    ramp = np.arange(side_px, dtype=np.uint8)
    return np.stack([ramp[:, None] + ramp, ramp[:, None] ^ ramp, 255 - ramp[:, None] * ramp], axis=-1)


def _h264(images: Sequence[np.ndarray]) -> bytes:
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = images[0].shape[1], images[0].shape[0], "yuv420p"
    context.time_base, context.options = Fraction(1, 25), {"tune": "zerolatency"}
    frames = [av.VideoFrame.from_ndarray(image, "rgb24") for image in images]
    return b"".join(bytes(packet) for frame in [*frames, None] for packet in context.encode(frame))


def samples() -> list[tuple[str, bytes]]:
    """Pictures that decode."""
    write = lambda suffix, *options: cv2.imencode(suffix, _image(96), list(options))[1].tobytes()
    return [
        ("jpeg", write(".jpg", cv2.IMWRITE_JPEG_QUALITY, 80)),
        ("jpeg", write(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        ("webp", write(".webp", cv2.IMWRITE_WEBP_QUALITY, 50)),
        ("webp", write(".webp", cv2.IMWRITE_WEBP_QUALITY, 101)),
        ("h264", _h264([_image(96), _image(96)[::-1].copy()])),
    ]


@st.composite
def spoiled(draw: st.DrawFn, samples: Sequence[tuple[str, bytes]]) -> tuple[str, bytes]:
    """A picture with bytes changed, cut out or repeated, or under another codec's name."""
    codec, data = draw(st.sampled_from(samples))
    spoil = bytearray(data)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(spoil)))
        match draw(st.integers(0, 2)):
            case 0:
                spoil[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del spoil[at : at + draw(st.integers(1, 40))]
            case 2:
                spoil[at:at] = spoil[at : at + draw(st.integers(1, 200))]
    codec = draw(st.sampled_from([codec] * 5 + ["jpeg", "webp", "h264"]))
    return codec, bytes(spoil) or b"\0"


def fuzz_parser(message: str | bytes) -> None:
    """One message through the parser."""
    try:
        if isinstance(message, str):
            assert isinstance(parse_text(message), Hello | Change | Order)
        else:
            frame = parse_frame(message)
            assert parse_frame(frame_bytes(frame)) == frame
    except ProtocolError as refused:
        _expect(refused.code in ("bad_message", "bad_version", "bad_config"), refused.code)


def fuzz_pictures(pictures: Sequence[tuple[str, bytes]]) -> None:
    """Some pictures of one stream through its decoder."""
    decoder = PictureDecoder(_FRAME_PX, "crop", _PIXELS_MAX)
    for number, (codec, data) in enumerate(pictures):
        try:
            for shown in decoder.take(Frame(number, number * 0.16, codec, number % 2 == 0, data)):
                assert shown.square().shape == (_FRAME_PX, _FRAME_PX, 3)
        except PictureRefused as refused:
            _expect(bool(str(refused)), "a refusal without words")


def _expect(holds: bool, said: str) -> None:
    if not holds:
        raise AssertionError(said)


def acts(samples: Sequence[tuple[str, bytes]]) -> st.SearchStrategy[list[Act]]:
    """Programs for `fuzz_streams`."""
    client = st.integers(0, CLIENTS - 1)
    config = st.fixed_dictionaries(
        {"mode": st.sampled_from(["live", "file"])},
        optional={"delay_steps": st.integers(-1, 6), "pad_bias": st.floats(-30, 30), "fit": st.just("pad")},
    )
    orders = st.sampled_from(["pause", "play", "reset", "end", "config", "hello"])
    said = orders.map(lambda kind: json.dumps({"type": kind})) | Texts | st.binary(max_size=40)
    good = st.tuples(st.integers(1, 2), st.just("jpeg"), st.just(samples[0][1]))
    odd = st.tuples(
        st.integers(-3, 5000), st.sampled_from(["jpeg", "webp", "h264"]), st.binary(min_size=1, max_size=30)
    )
    bad = st.tuples(st.integers(-3, 400), spoiled(samples)).map(lambda one: (one[0], *one[1]))
    act = st.one_of(
        st.builds(Act, client, st.just("connect"), config),
        st.builds(Act, client, st.just("resume"), config),
        st.builds(Act, client, st.just("resume"), config),
        st.builds(Act, client, st.sampled_from(["drop", "stall", "go_on"]), st.none()),
        st.builds(Act, client, st.just("say"), said),
        st.builds(Act, client, st.just("show"), good),
        st.builds(Act, client, st.just("watch"), st.tuples(st.integers(1, 6), st.just(samples[0][1]))),
        st.builds(Act, client, st.just("watch"), st.tuples(st.integers(1, 6), st.just(samples[0][1]))),
        st.builds(Act, client, st.just("show"), bad | odd),
        st.builds(Act, client, st.just("wait"), st.integers(0, 60)),
    )
    begun = st.lists(st.builds(Act, client, st.just("connect"), config), min_size=1, max_size=3)
    return st.tuples(begun, st.lists(act, max_size=40)).map(lambda both: both[0] + both[1])


def frames(samples: Sequence[tuple[str, bytes]]) -> st.SearchStrategy[bytes]:
    """Binary messages: right ones with their first bytes changed, and noise."""
    whole = st.builds(
        lambda number, t_s, key, data: frame_bytes(Frame(number, t_s, data[0], key, data[1])),
        st.integers(0, 2**32 - 1), st.floats(0, 1e9), st.booleans(), st.sampled_from(samples),
    )  # fmt: skip
    head = st.builds(lambda message, new: new + message[len(new) :], whole, st.binary(max_size=16))
    return st.binary(max_size=40) | whole | head


def _quietly(cases: int) -> settings:
    checks = list(HealthCheck)
    return settings(max_examples=cases, deadline=None, database=None, print_blob=False, suppress_health_check=checks)


def fuzz(parts: Sequence[str], minutes: float, first_seed: int) -> dict[str, Any]:
    """Runs the parts by turns until the time is over; the number of cases of each. Raises what a case raised."""
    pictures = samples()
    pool = counting_pool() if "sessions" in parts else None
    tests: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]] = {
        "parser": (fuzz_parser, Texts | frames(pictures)),
        "pictures": (fuzz_pictures, st.lists(spoiled(pictures), min_size=1, max_size=6)),
    }
    if pool is not None:
        tests["sessions"] = partial(run_program, pool), acts(pictures)
    cases, slowest_s = dict.fromkeys(parts, 0), dict.fromkeys(parts, 0.0)
    until_s, turn = time.monotonic() + 60.0 * minutes, 0

    def timed(part: str) -> Callable[..., None]:
        function, strategy = tests[part]

        @given(case=strategy)
        def test(case: Any) -> None:
            began_s = time.monotonic()
            function(case)
            cases[part] += 1
            slowest_s[part] = max(slowest_s[part], time.monotonic() - began_s)

        return test

    try:
        while time.monotonic() < until_s:
            for part in parts:
                _quietly(_ROUND[part])(seed(first_seed + turn)(timed(part)))()
            turn += 1
            print(f"{cases}", flush=True)
    finally:
        if pool is not None:
            pool.stop()
    return {"cases": cases, "slowest_s": {part: round(s, 3) for part, s in slowest_s.items()}, "turns": turn}


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzzes; 1 where something was found, 2 for wrong flags."""
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz_protocol",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flags.add_argument("--minutes", type=float, default=10.0, help="(default: %(default)s)")
    flags.add_argument("--parts", default=",".join(_ROUND), help="(default: %(default)s)")
    flags.add_argument("--seed", type=int, default=0, help="of the first turn (default: %(default)s)")
    flags.add_argument("--json", metavar="FILE", help="write the numbers here")
    args = flags.parse_args(argv)
    parts = [part for part in args.parts.split(",") if part]
    if not parts or set(parts) - set(_ROUND):
        print(f"fuzz_protocol: --parts of {tuple(_ROUND)}", file=sys.stderr)
        return 2
    found = fuzz(parts, args.minutes, args.seed)
    print(found)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
