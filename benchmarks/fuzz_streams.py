"""Programs of what clients do, and a server's sessions that must live through any of them."""

import asyncio
import atexit
import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmduplex_jax.clock import Clock
from mmduplex_jax.models.live import StepOutput, TokenReport
from mmduplex_jax.serving.connection import WireGone, converse
from mmduplex_jax.serving.decoding import DecoderProcesses
from mmduplex_jax.serving.limits import Limits
from mmduplex_jax.serving.metrics import Counters
from mmduplex_jax.serving.protocol import Frame, frame_bytes
from mmduplex_jax.serving.seats import ModelFacts
from mmduplex_jax.serving.session import Session
from mmduplex_jax.serving.sessions import Sessions
from mmduplex_jax.serving.sources import Sources
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.streaming.pool import StreamPool
from mmduplex_jax.text_tokenizer import TextTokenizer

# Fast, so that a program takes a fraction of a second.
CLOCK = Clock(step_hz=250.0, video_stride=2)
FRAME_PX, SLOTS, CLIENTS = 32, 3, 4
WORDS = ("red", "circle", "enters", "left")
FACTS = ModelFacts("counts", CLOCK, FRAME_PX, 64, delay_min=0, delay_max=4, delay_steps=1)
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
      client: which one.
      kind: "connect", "resume", "drop", "stall", "go_on", "say" (`what` is sent as it is), "show" (`what` are the ticks
        since its last picture, and the codec and data of another one), "watch" (`what` are how many ticks are shown, by
        the clock, and the JPEG) or "wait" (`what` are milliseconds).
      what: as `kind` says.
    """

    client: int
    kind: str
    what: Any = None


class MemoryWire:
    """A wire whose other end is a list."""

    def __init__(self) -> None:
        self._incoming: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.heard: list[dict[str, Any]] = []
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

    async def send(self, text: str) -> None:
        assert self.closed is None, "something was sent after the end"
        await self.flowing.wait()
        if self.gone:
            raise WireGone("dropped")
        self.heard.append(json.loads(text))

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
        handler = _Complaints(complaints)
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
            if client.hello is None and not client.wire.heard:
                client.wire.drop()

    async def _settle(self, client: _Client) -> None:
        """Waits for a connection's end, and checks what it was told."""
        wire, task, client.wire, client.task = client.wire, client.task, None, None
        if wire is None or task is None:
            return
        await task
        assert wire.closed is not None, "the wire was left open"
        for number, said in enumerate(wire.heard):
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
                    assert number == len(wire.heard) - 1, "something came after the bye"
                    assert said["reason"] not in ("internal", "too_slow"), said
                    if said["reason"] != "superseded":
                        assert said["seq"] == len(client.words), (said, len(client.words))
        if client.session is not None:
            told = [word.text for word in client.session.words.after(0)]
            assert client.words == told[: len(client.words)]


class _Complaints(logging.Handler):
    """Collects what is logged as an error."""

    def __init__(self, complaints: list[str]):
        super().__init__(logging.ERROR)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        self._complaints.append(self.format(record))


def run_program(pool: StreamPool, acts: Sequence[Act]) -> None:
    """Runs a program in a loop of its own."""
    asyncio.run(Program(pool).run(acts))
