"""Programs from kept traces: what they compute is what is traced, to the bit, and the second one is not traced."""

from pathlib import Path
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax import commentator, trace_cache
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.streaming import programs
from mmduplex_jax.streaming.batch import StreamBatch
from mmduplex_jax.streaming.programs import compiled, recalled
from tests import tiny
from tests.models.latest_fusion import Latest


class State(flax.struct.PyTreeNode):
    total: jax.Array
    stacked: bool = flax.struct.field(pytree_node=False, default=False)


class Output(NamedTuple):
    sound: jax.Array | None
    token: jax.Array


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Where programs are kept, of this test alone."""
    for module in (trace_cache, programs):
        monkeypatch.setattr(module, "kept_folder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def traced():
    """A function that says how often it was traced."""
    times = []

    def step(params: dict[str, jax.Array], state: State, by: jax.Array) -> tuple[State, Output]:
        times.append(1)
        return state.replace(total=state.total + params["w"] * by), Output(None, jnp.argmax(state.total))

    return step, times


def test_the_second_one_is_not_traced_and_gives_the_same_trees(folder: Path, traced):
    step, times = traced
    made = []
    for _ in range(2):
        args = ({"w": np.arange(3, dtype=np.float32)}, State(jnp.ones(3), stacked=True), np.float32(2))
        program = recalled(step, *args, facts=("a",), donate=(1,))
        state, output = program(*args)
        assert args[1].total.is_deleted()  # its memory was taken
        made.append((state, output))
    assert len(times) == 1
    assert jax.tree.structure(made[0]) == jax.tree.structure(made[1])
    for state, output in made:
        assert (state.total.tolist(), state.stacked) == ([1, 3, 5], True)
        assert (output.sound, int(output.token)) == (None, 0)


@pytest.mark.parametrize("changed", ["facts", "shapes", "donate"])
def test_another_function_is_traced(folder: Path, traced, changed: str):
    step, times = traced

    def make(length: int, **more):
        return recalled(step, {"w": np.ones(length)}, State(jnp.ones(length)), np.float32(2), **more)

    make(3, facts=("a",))
    make(
        4 if changed == "shapes" else 3,
        facts=("b" if changed == "facts" else "a",),
        donate=(1,) * (changed == "donate"),
    )
    assert len(times) == 2


def test_what_does_not_say_all_of_itself_is_not_kept(folder: Path, traced):
    recalled(traced[0], {"w": np.ones(3)}, State(jnp.ones(3)), np.float32(2), facts=(object(),))
    assert list(folder.iterdir()) == []


def test_an_error_of_the_function_comes_through(folder: Path):
    def step(x: jax.Array) -> jax.Array:
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        recalled(step, np.ones(3), facts=())


def test_a_model_of_somebody_elses_code_is_traced(monkeypatch):
    live = LiveModel(tiny.dual_stream())
    assert commentator.compile_of(live) is recalled
    monkeypatch.setitem(commentator.fusion_of.__globals__["FUSIONS"], live.config.fusion, Latest)
    assert commentator.compile_of(live) is compiled


def test_a_stream_from_a_kept_trace_is_the_stream_to_the_bit(folder: Path):
    config = tiny.dual_stream()
    live, params = LiveModel(config), tiny.init(config)
    frames = tiny.clips(1, 6, busy=True)[0]
    everybody = np.ones(1, bool)
    logits = []
    for compile in (compiled, recalled, recalled):
        rows = StreamBatch(live, params, config.tokenizer.frame_px, count=1, compile=compile)
        said = [rows.step(rows.send(frames[i // 2][None]), everybody).output.logits for i in range(12)]
        logits.append(np.stack(said))
    assert len(list((folder / "traces").glob("step-*"))) == 1
    np.testing.assert_array_equal(logits[1], logits[0])
    np.testing.assert_array_equal(logits[2], logits[0])
