"""Steps in turns with those of others: the clocking, the protocol of the processes, the order, and the ratios."""

import subprocess
import sys
from contextlib import contextmanager

import jax
import numpy as np
import pytest

from benchmarks import streaming
from benchmarks.stepper import Arms, Stepper, step_cost_ms, step_percentile_ms, timed
from benchmarks.streaming import Arm, Worker, pairs, plan, ratios, summary, take_turns
from mmduplex_jax.models.live import LiveModel
from tests import tiny


class Counting:
    """A stepper of two kinds, every fifth step a `slow` one, that knows what it was told to do."""

    def __init__(self):
        self.opened = self.steps = 0

    @contextmanager
    def session(self):
        self.opened += 1
        yield self.step

    def step(self) -> str:
        self.steps += 1
        return "slow" if self.steps % 5 == 0 else "quick"

    @property
    def stepper(self) -> Stepper:
        return Stepper({"slow": 0.2, "quick": 0.8}, self.session)


def test_every_step_is_timed_by_its_kind():
    counting = Counting()
    times_s = timed(counting.stepper, 20, warm_steps=3)
    assert (counting.opened, counting.steps) == (1, 23)
    assert {kind: len(times) for kind, times in times_s.items()} == {"slow": 4, "quick": 16}
    assert min(times_s["quick"]) >= 0


def test_a_limit_waits_for_every_kind():
    counting = Counting()
    times_s = timed(counting.stepper, 100, limit_s=0.0)
    assert {kind: len(times) for kind, times in times_s.items()} == {"slow": 1, "quick": 4}


def test_costs_and_percentiles_go_by_shares_not_by_counts():
    times_ms, shares = {"slow": [100.0, 110.0, 120.0], "quick": [1.0, 2.0, 3.0, 4.0]}, {"slow": 0.1, "quick": 0.9}
    assert step_cost_ms(times_ms, shares) == pytest.approx(0.1 * 110 + 0.9 * 2.5)
    # A slow step is one in ten: nine tenths take 4 ms or less, though three of the seven that were timed do not.
    assert step_percentile_ms(times_ms, shares, 50) == 3.0
    assert step_percentile_ms(times_ms, shares, 89) == 4.0
    assert step_percentile_ms(times_ms, shares, 99) == 120.0


def test_an_arm_is_made_once():
    made = []

    def arms(**given):
        made.append(given)
        return Counting().stepper

    request = {"arm": {"batch": 2, "part": "text"}, "steps": 5, "warm_steps": 0, "limit_s": 9.0}
    family = Arms(arms)
    first, second = family.ask(request), family.ask(request)
    assert made == [{"batch": 2, "part": "text"}]
    assert first["shares"] == {"slow": 0.2, "quick": 0.8}
    assert [len(first["ms"]["quick"]), len(second["ms"]["slow"])] == [4, 1]


def test_a_process_that_ends_is_an_error(capfd):
    worker = Worker(sys.executable, {"family": "nobody"})
    with pytest.raises(ChildProcessError, match="nobody ended with 1"):
        worker.ask({"arm": {}, "steps": 1})
    worker.close()
    assert "KeyError: 'nobody'" in capfd.readouterr().err


def test_versions_are_those_of_the_other_python():
    assert streaming.versions(sys.executable, ["numpy"]) == {"numpy": np.__version__}
    with pytest.raises(subprocess.CalledProcessError):
        streaming.versions(sys.executable, ["no-such-package"])


class Scripted:
    """A worker that costs what it is told to, and writes down in whose turn."""

    def __init__(self, turns: list, costs_ms: list[float]):
        self.turns, self.costs_ms = turns, iter(costs_ms)

    def ask(self, request):
        self.turns.append((request["arm"]["batch"], request["steps"]))
        return {"shares": {"all": 1.0}, "ms": {"all": [next(self.costs_ms)] * request["steps"]}, "compile_s": 0.0}


def test_arms_take_turns_there_and_back_and_ratios_are_of_rounds():
    arms = [Arm("ours, text", "ours", 8, {"part": "text"}), Arm("moshi", "moshi", 8, {"dtype": "float32"})]
    turns: list = []
    # The machine is twice as slow in the second round: the ratio does not see it.
    started = {"ours": Scripted(turns, [99, 10, 20, 12]), "moshi": Scripted(turns, [99, 20, 40, 20])}
    answers = take_turns(arms, started, rounds=3, steps=4, limit_s=1.0)
    assert [steps for _, steps in turns] == [1, 1] + [4] * 6
    rows = [summary(arm, given) for arm, given in zip(arms, answers)]
    assert (rows[0]["mean_ms"], rows[0]["per_stream_ms"], rows[0]["steps"]) == (12.0, 1.5, 12)
    assert ratios(arms, rows) == [
        {"one": "ours, text", "other": "moshi", "batch": 8, "ratio": 0.5, "least": 0.5, "most": 0.6}
    ]


def test_the_order_turns_around():
    order: list = []

    class Named:
        def __init__(self, name):
            self.name = name

        def ask(self, request):
            order.append(self.name)
            return {"shares": {"all": 1.0}, "ms": {"all": [1.0]}}

    arms = [Arm(name, name, 1, {}) for name in "abc"]
    take_turns(arms, {name: Named(name) for name in "abc"}, rounds=2, steps=1, limit_s=1.0)
    assert "".join(order) == "abc" + "abc" + "cba"


def test_what_is_compared_with_what():
    arms = plan(["text", "whole"], [1, 8], ["moshi", "interleaved"], ["float32"], [0.0, 60.0])
    # SmolLM2-360M's shape, and a minute of steps.
    assert streaming.text_shape("configs/duplex_300m.py") == (960, 32, 15, 5, 2560, 49280, 750, 12.5)
    named = [(arms[i].name, arms[j].name, arms[i].batch) for i, j in pairs(arms)]
    assert ("ours, text", "moshi LMGen float32, text and speech", 8) in named
    assert ("ours, text, after 60 s", "ours, text", 1) in named
    assert ("interleaved float32, after 60 s", "interleaved float32, after 0 s", 1) in named
    assert ("ours, text, after 60 s", "interleaved float32, after 60 s", 1) in named
    assert ("ours, whole", "interleaved float32, after 60 s", 1) in named
    assert ("ours, text", "interleaved float32, after 60 s", 1) not in named
    assert not [pair for pair in named if not pair[0].startswith("ours") and pair[1].startswith("ours")]


@pytest.mark.parametrize("flags", [["--peers", "--checkpoint=x"], ["--peers", "--rounds=0"]])
def test_flags_that_do_not_go_together(flags, capsys):
    assert streaming.main(flags) == 2
    assert "streaming: --" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        streaming.main(["--peers=nobody"])
    assert "--peers: 'nobody' is none of moshi,interleaved" in capsys.readouterr().err


def test_a_config_that_does_not_speak_is_refused():
    with pytest.raises(ValueError, match="clip"):
        streaming.text_shape("configs/clip_quickstart.py")


def test_rings_of_streams_that_have_watched_hold_the_steps_that_real_ones_hold():
    config, steps = tiny.dual_stream(), 60
    live, params, idle = LiveModel(config), jax.device_put(tiny.init(config)), np.zeros(2, np.int32)
    fresh = live.init_state(params, 2)
    step = jax.jit(lambda state: live.module.apply({"params": params}, state, idle, idle == 0, method="text_step")[0])
    state = fresh
    for _ in range(steps):
        state = step(state)
    made = streaming.watched(live, fresh, steps * config.clock.step_s)
    assert made.step.tolist() == state.step.tolist() == [steps, steps]
    for row in range(2):
        assert sorted(made.fusion.text.step[row].tolist()) == sorted(state.fusion.text.step[row].tolist())
    # As much video in the window as the budget allows.
    video, window_s = np.asarray(made.fusion.projected.step), config.video.window_steps * config.clock.step_s
    in_window = (steps - 1 - video < config.video.window_steps).sum(axis=1)
    assert video.max() == steps - 1
    assert in_window.tolist() == pytest.approx([config.tokenizer.cap * window_s] * 2, abs=1)
    filled = jax.tree.leaves((made.fusion.projected.layers, made.fusion.text.layers))
    assert all(float(abs(buffer).min()) > 0 for buffer in filled)
