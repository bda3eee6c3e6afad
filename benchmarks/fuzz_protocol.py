"""Fuzzes what the server takes from strangers: the parser, the pictures, and whole sessions.

    python -m benchmarks.fuzz_protocol --minutes=10
    python -m benchmarks.fuzz_protocol --minutes=1 --parts=sessions --seed=7 --json=fuzz.json

hypothesis makes up the cases; the time is shared out among the parts, in turns.

`parser`: texts and pictures' messages, nearly right ones and noise: a message or a ProtocolError, nothing else.
`pictures`: JPEG, WebP and H.264 with bytes changed, cut or repeated: a square or a PictureRefused.
`sessions`: programs of up to 40 acts of 4 clients on 3 slots (connect, drop, come back, stand still, orders, pictures,
garbage) against the server's own sessions and a pool with a model that counts. Every word comes once and in order over
any connections, nothing comes after a bye, whatever was asked ends, nothing is left: no task, no stream, no error.

A failure is shown with the smallest case that was found, and the exit code is 1. Finds become tests.
"""

import asyncio
import atexit
import dataclasses
import functools
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import av
import cv2
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Delays
from mmduplex_jax.models.live import StepOutput, TokenReport
from mmduplex_jax.serving.connection import WireGone, converse
from mmduplex_jax.serving.decoding import DecoderProcesses
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.monitoring import Counters
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
from mmduplex_jax.serving.session import Session
from mmduplex_jax.serving.sessions import Sessions
from mmduplex_jax.serving.sound import SoundQueue
from mmduplex_jax.serving.sources import Sources
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, listed, parse_args, show
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import StreamPool
from mmduplex_jax.text_tokenizer import TextTokenizer

_ROUND = {"parser": 400, "pictures": 200, "sessions": 100}
_PIXELS_MAX, _FRAME_PX = 200_000, 32
_KINDS = ("hello", "config", "pause", "play", "reset", "end", "dance", "", None, 3)
_FIELDS = (
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
    "sound",
    "hear",
)
_FIELDS += ("session", "token", "last_seq")  # type: ignore[assignment]
_VALUES: tuple[Any, ...] = ("live", "file", "crop", "pad", 1, 0, -1, 2**63, 1e308, True, None, "", "x" * 64, "\ud800")
_VALUES += ("0", [], {})

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

# Fast, so that a program takes a fraction of a second.
CLOCK = Clock(step_hz=250.0, video_stride=2)
FRAME_PX, SLOTS, CLIENTS = 32, 3, 4
WORDS = ("red", "circle", "enters", "left")
FACTS = SimpleNamespace(
    name="counts", fingerprint="0" * 64, clock=CLOCK, frame_px=(FRAME_PX, FRAME_PX), fit="crop", tokens_per_s_max=64,
    sample_rate_hz=None, delays=Delays(0, 4, 1),
)  # fmt: skip
LIMITS = Limits(
    hello_s=0.3, send_s=0.2, resume_s=0.4, idle_s=5.0, bad_frames=3, inbox_frames=3, messages_hz=50.0, text_bytes=4096
)
# Far over what a program takes; one that takes longer hangs.
PATIENCE_S = 30.0
TYPES = frozenset({"hello", "word", "status", "config", "error", "bye"})


class _State(NamedTuple):
    step: jax.Array


class CountingLive:
    """A model that says one word after another, a mark and its token by turns."""

    def __init__(self, tokenizer: TextTokenizer):
        ids = [tokenizer.encode_word(word)[0] for word in WORDS]
        self._slots = jnp.asarray([slot for token in ids for slot in (tokenizer.word_id, token)], jnp.int32)
        self._vocab_size = tokenizer.vocab_size

    def init_state(self, params: Any, batch: int) -> _State:
        return _State(jnp.zeros((batch,), jnp.int32))

    def reset_row(self, params: Any, state: _State, row: Any) -> _State:
        return _State(state.step.at[row].set(0))

    def live_step(
        self, params: Any, state: _State, frame: Any, active: Any, delay: Any, pad_bias: Any, *, cap: Any
    ) -> tuple[_State, StepOutput]:
        batch = frame.shape[0]
        none = jnp.zeros((batch, 1), jnp.int32)
        report = TokenReport(
            none > 0, none[:, 0] > 0, none[:, 0], jnp.zeros((batch, 1, 2), jnp.int32), none, none
        )  # fmt: skip
        token = self._slots[state.step % len(self._slots)]
        logits = jnp.zeros((batch, self._vocab_size))
        return _State(state.step + active), StepOutput(token, state.step, logits, report)


@functools.cache
def decoders() -> DecoderProcesses:
    """Decoders that all programs share."""
    processes = DecoderProcesses(LIMITS.decode_s)
    atexit.register(processes.close)
    return processes


def counting_pool() -> StreamPool:
    """A pool over the counting model, started."""
    tokenizer = TextTokenizer.word_level(list(WORDS))
    policy = DeadlinePolicy(gather_s=0.0)
    live = CountingLive(tokenizer)
    pool = StreamPool(live, {}, tokenizer, CLOCK, FRAME_PX, slots=SLOTS, policy=policy, tokens_per_s_max=64)
    pool.start()
    return pool


class Act(NamedTuple):
    """One thing that a client does.

    Attributes:
      kind: "connect", "resume", "drop", "stall", "go_on", "say" (`what` is sent as it is), "show" (`what` are the ticks
        since its last picture, and the codec and data of another one), "watch" (`what` are how many ticks are shown, by
        the clock, and the JPEG), "hear" (as "watch", until a word is said or the wire is gone; `what` is the JPEG) or
        "wait" (`what` are milliseconds).
      what: as `kind` says.
    """

    client: int
    kind: str
    what: Any = None


class MemoryWire:
    """A wire whose other end is a list."""

    track: SoundQueue | None = None

    def __init__(self) -> None:
        self._incoming: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.received: list[dict[str, Any]] = []
        self.gone = False
        self.closed: int | None = None

    def put(self, message: str | bytes) -> None:
        self._incoming.put_nowait(message)

    def drop(self) -> None:
        self.gone = True
        self.flowing.set()
        self._incoming.put_nowait(None)

    async def receive(self) -> str | bytes:
        message = await self._incoming.get()
        if message is None or self.gone:
            raise WireGone("dropped")
        return message

    async def send(self, message: str | bytes) -> None:
        assert self.closed is None, "something was sent after the end"
        await self.flowing.wait()
        if self.gone:
            raise WireGone("dropped")
        self.received.append(json.loads(message))

    async def close(self, code: int, reason: str) -> None:
        assert self.closed is None, "closed twice"
        self.closed = code


@dataclasses.dataclass
class _Client:
    """A client's stream: its connection, and what it was told of the session over all of them."""

    wire: MemoryWire | None = None
    task: "asyncio.Task[None] | None" = None
    hello: dict[str, Any] | None = None
    session: Session | None = None
    words: list[str] = dataclasses.field(default_factory=list)
    tick: int = 0
    number: int = 0


class Program:
    """Runs acts against sessions of their own over a pool that is shared."""

    def __init__(self, pool: StreamPool):
        self._pool = pool
        self._clients = [_Client() for _ in range(CLIENTS)]

    async def run(self, acts: Sequence[Act]) -> None:
        """Runs them; AssertionError where the server broke its word, TimeoutError where it hangs."""
        complaints: list[str] = []
        handler = logging.Handler(logging.ERROR)
        handler.emit = lambda record: complaints.append(handler.format(record))  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(repr(context)))
        sessions = Sessions(self._pool, FACTS, LIMITS, Counters(), Sources(), decoders())
        try:
            async with asyncio.timeout(PATIENCE_S):
                for act in acts:
                    await self._act(sessions, act)
                for client in self._clients:
                    if client.wire is None and client.hello is not None:
                        await self._connect(sessions, client, Act(0, "resume", {}))
                    self._leave(client)
                    await self._settle(client)
                await sessions.drain(0.0)
                assert len(sessions) == 0, "streams were left after a drain"
                while self._pool.statistics().sessions:
                    await asyncio.sleep(0.002)
        finally:
            await sessions.close()
            logging.getLogger().removeHandler(handler)
        assert self._pool.running, "the pool has stopped"
        assert not complaints, complaints
        mine = asyncio.current_task()
        left = [task.get_name() for task in asyncio.all_tasks() if task is not mine and not task.done()]
        assert not left, f"tasks were left: {left}"

    async def _act(self, sessions: Sessions, act: Act) -> None:
        client = self._clients[act.client % CLIENTS]
        match act.kind:
            case "connect" | "resume":
                await self._connect(sessions, client, act)
            case "drop" if client.wire is not None:
                client.wire.drop()
                await self._settle(client)
            case "stall" if client.wire is not None:
                client.wire.flowing.clear()
            case "go_on" if client.wire is not None:
                client.wire.flowing.set()
            case "say" if client.wire is not None:
                client.wire.put(act.what)
            case "show" if client.wire is not None:
                self._show(client, *act.what)
            case "watch" if client.wire is not None:
                ticks, data = act.what
                for _ in range(ticks):
                    self._show(client, 1, "jpeg", data)
                    await asyncio.sleep(CLOCK.tick_s)
            case "hear" if (wire := client.wire) is not None:
                # (Its wire may go away meanwhile, or the server may end it.)
                while client.wire is wire and wire.closed is None and not _has_word(wire):
                    self._show(client, 1, "jpeg", act.what)
                    await asyncio.sleep(CLOCK.tick_s)
            case "wait":
                await asyncio.sleep(act.what / 1e3)
        await asyncio.sleep(0)

    def _show(self, client: _Client, ticks: int, codec: str, data: bytes) -> None:
        assert client.wire is not None
        client.tick, client.number = max(0, client.tick + ticks), client.number + 1
        t_s = client.tick * CLOCK.tick_s
        client.wire.put(frame_bytes(Frame(client.number, t_s, codec, client.number % 3 == 0, data)))

    async def _connect(self, sessions: Sessions, client: _Client, act: Act) -> None:
        """A new connection; the one before is dropped, or, where the stream is taken over, superseded."""
        before = client.task, client.wire
        taken_over = act.kind == "resume" and client.hello is not None
        if not taken_over:
            if client.wire is not None:
                client.wire.drop()
            await self._settle(client)
            client.hello, client.session, client.words, client.tick = None, None, [], 0
        client.wire = wire = MemoryWire()
        hello: dict[str, Any] = {"type": "hello", "version": 1, "config": act.what}
        if taken_over and client.hello is not None:
            # Words that the connection before is about to be told are not counted twice.
            if before[1] is not None:
                before[1].drop()
            if before[0] is not None:
                client.wire = before[1]
                await self._settle(client)
                client.wire = wire
            secret = {name: client.hello[name] for name in ("session", "token")}
            hello["resume"] = secret | {"last_seq": len(client.words)}
        wire.put(json.dumps(hello))

        def on_session(session: Session) -> None:
            client.session = session

        client.task = asyncio.create_task(converse(wire, sessions, on_session=on_session), name="connection")

    def _leave(self, client: _Client) -> None:
        if client.wire is not None:
            client.wire.flowing.set()
            client.wire.put(json.dumps({"type": "end"}))
            client.wire.put(json.dumps({"type": "end"}))
            if client.hello is None and not client.wire.received:
                client.wire.drop()

    async def _settle(self, client: _Client) -> None:
        """Waits for a connection's end, and checks what it was told."""
        wire, task, client.wire, client.task = client.wire, client.task, None, None
        if wire is None or task is None:
            return
        await task
        assert wire.closed is not None, "the wire was left open"
        for number, said in enumerate(wire.received):
            assert said["type"] in TYPES, said
            match said:
                case {"type": "hello"}:
                    assert number == 0, "a hello in the middle"
                    client.hello = said
                case {"type": "word"}:
                    assert said["seq"] == len(client.words) + 1, (said, len(client.words))
                    client.words.append(said["text"])
                case {"type": "error"}:
                    assert said["code"] != "internal", said
                case {"type": "bye"}:
                    assert number == len(wire.received) - 1, "something came after the bye"
                    assert said["reason"] not in ("internal", "too_slow"), said
                    if said["reason"] != "superseded":
                        assert said["seq"] == len(client.words), (said, len(client.words))
        if client.session is not None:
            said = [word.text for word in client.session.words.after(0)]
            assert client.words == said[: len(client.words)]


def _has_word(wire: MemoryWire) -> bool:
    return any(said["type"] == "word" for said in wire.received)


def run_program(pool: StreamPool, acts: Sequence[Act]) -> None:
    """Runs a program in a loop of its own."""
    asyncio.run(Program(pool).run(acts))


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
        if refused.code not in ("bad_message", "bad_version", "bad_config"):
            raise AssertionError(refused.code) from refused


def fuzz_pictures(pictures: Sequence[tuple[str, bytes]]) -> None:
    """Some pictures of one stream through its decoder."""
    decoder = PictureDecoder(_FRAME_PX, "crop", _PIXELS_MAX)
    for number, (codec, data) in enumerate(pictures):
        try:
            for shown in decoder.take(Frame(number, number * 0.16, codec, number % 2 == 0, data)):
                assert shown.frame().shape == (_FRAME_PX, _FRAME_PX, 3)
        except PictureRefused as refused:
            if not str(refused):
                raise AssertionError("a refusal without words") from refused


def acts(samples: Sequence[tuple[str, bytes]]) -> st.SearchStrategy[list[Act]]:
    """Programs for `run_program`."""
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
                quietly = settings(
                    max_examples=_ROUND[part], deadline=None, database=None, print_blob=False,
                    suppress_health_check=list(HealthCheck),
                )  # fmt: skip
                quietly(seed(first_seed + turn)(timed(part)))()
            turn += 1
            print(f"{cases}", file=sys.stderr, flush=True)
    finally:
        if pool is not None:
            pool.stop()
    return {"cases": cases, "slowest_s": {part: round(s, 3) for part, s in slowest_s.items()}, "turns": turn}


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzzes; 1 where something was found, 2 for wrong flags."""
    flags = command_parser("benchmarks.fuzz_protocol", __doc__)
    flags.add_argument("--minutes", type=float, default=10.0, help="(default: %(default)s)")
    flags.add_argument("--parts", type=listed(among=_ROUND), default=",".join(_ROUND), help="(default: %(default)s)")
    flags.add_argument("--seed", type=int, default=0, help="of the first turn (default: %(default)s)")
    add_json_flag(flags)
    args = parse_args(flags, argv)
    found = fuzz(args.parts, args.minutes, args.seed)
    show(args, found, str(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
