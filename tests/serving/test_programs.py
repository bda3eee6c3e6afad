"""Whole sessions over a real pool, whatever clients do: what `benchmarks.fuzz_protocol` runs for longer."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fuzz_protocol
from benchmarks.fuzz_protocol import Act, Program, acts, counting_pool, fuzz_pictures, run_program, spoiled
from mmduplex_jax.serving.sessions import Sessions
from mmduplex_jax.streaming.pool import StreamPool

SAMPLES = fuzz_protocol.samples()
JPEG = SAMPLES[0][1]


@pytest.fixture(scope="module")
def pool() -> Iterator[StreamPool]:
    pool = counting_pool()
    yield pool
    pool.stop()


def test_a_stream_that_is_dropped_taken_over_and_stalled_tells_every_word(pool: StreamPool):
    program = [Act(0, "connect", {"mode": "live"}), Act(1, "connect", {"mode": "file"})]
    for client in (0, 1):
        program += [
            Act(client, "watch", (6, JPEG)), Act(client, "drop"), Act(client, "resume", {}),
            Act(client, "stall"), Act(client, "watch", (6, JPEG)), Act(client, "go_on"),
            Act(client, "watch", (3, JPEG)), Act(client, "resume", {}), Act(client, "watch", (6, JPEG)),
        ]  # fmt: skip
    run_program(pool, program)


def test_it_would_notice_a_doubled_word(pool: StreamPool, monkeypatch):
    honest = Sessions._resume

    async def doubling(self, resume, config):
        opened = await honest(self, resume, config)
        return opened._replace(seq=max(0, opened.seq - 1))

    monkeypatch.setattr(Sessions, "_resume", doubling)
    program = [Act(0, "connect", {"mode": "live"}), Act(0, "hear", JPEG), Act(0, "drop")]
    with pytest.raises(AssertionError, match="'seq'"):
        run_program(pool, program)


def test_who_waits_for_a_word_waits_no_longer_than_its_wire_is_there(pool: StreamPool, monkeypatch):
    monkeypatch.setattr(fuzz_protocol, "PATIENCE_S", 5.0)
    # The server ends it, before a word was said.
    run_program(pool, [Act(0, "connect", {"mode": "live"}), Act(0, "say", "[]"), Act(0, "hear", JPEG)])


def test_who_waits_for_a_word_may_be_dropped_meanwhile():
    async def test():
        program = Program(pool=None)
        (client, *_) = program._clients
        client.wire = wire = fuzz_protocol.MemoryWire()
        hearing = asyncio.create_task(program._act(None, Act(0, "hear", JPEG)))
        await asyncio.sleep(0.01)
        await program._act(None, Act(0, "drop"))
        await asyncio.wait_for(hearing, 5.0)
        assert wire.gone

    asyncio.run(test())


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_any_program_keeps_the_servers_word(pool: StreamPool, data: st.DataObject):
    run_program(pool, data.draw(acts(SAMPLES)))


@settings(deadline=None)
@given(st.lists(spoiled(SAMPLES), min_size=1, max_size=4))
def test_spoiled_pictures_are_decoded_or_refused(pictures):
    fuzz_pictures(pictures)


def test_the_command_writes_what_it_did(tmp_path):
    path = tmp_path / "fuzz.json"
    assert fuzz_protocol.main(["--minutes=0.001", "--parts=parser", f"--json={path}"]) == 0
    assert json.loads(path.read_text())["cases"]["parser"] > 0
    with pytest.raises(SystemExit, match="2"):
        fuzz_protocol.main(["--parts=nothing"])
