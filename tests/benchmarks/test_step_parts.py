"""The parts of a live step are told apart, and what each reads and computes is counted."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import step_parts
from benchmarks.step_parts import MEMORY, PRODUCTS, Arm, arms_of, summary, timed
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.tokenizer.config import FlowConfig
from tests import tiny

TRUNK = FlowConfig(crop_px=8, patch_px=4, width=16, layers=1, heads=2)


def size_of(*trees):
    """Bytes of the floats in trees."""
    leaves = [leaf for leaf in jax.tree.leaves(trees) if np.issubdtype(leaf.dtype, np.floating)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def test_a_part_reads_its_weights_and_caches_and_no_others():
    live = LiveModel(dataclasses.replace(tiny.dual_stream(), tokenizer=tiny.tokenizer(flow=TRUNK)))
    params = tiny.init(live.config)
    arms = {arm.name: arm for arm in arms_of(live, params, step_parts.PARTS)}
    state, tokenizer = live.init_state(params, 1), params["tokenizer"]
    mb = {name: arm.read_bytes for name, arm in arms.items()}
    events = [tokenizer[name] for name in ("events", "event_in", "projector")]
    assert mb["events"] == mb["events, no anchor"] == size_of(*events, state.tokenizer.cache)
    assert mb["keys"] == size_of(params["projector"], params["projector_norm"])
    assert mb["video"] == size_of(params["video"], params["video_in"], state.fusion.video)
    assert mb["crops"] == mb["crops, 1 spent"] == size_of(tokenizer["flows"])
    assert mb["crops, 0 spent"] == arms["crops, 0 spent"].flops == mb["plan"] == 0
    flops = {name: arm.flops for name, arm in arms.items()}
    slots, flow = live.config.tokenizer.slots, live.config.tokenizer.flow_slots
    assert flops["keys, no anchor"] / flops["keys"] == pytest.approx(flow / slots)
    assert flops["crops, 2 spent"] == flops["crops"] > 0
    assert not any("spent" in arm.name for arm in arms_of(*_without_a_trunk(), ["crops"]))
    arms["keys"].run()
    arms["keys"].run()  # its state is taken again and again


def _without_a_trunk():
    live = LiveModel(tiny.dual_stream())
    return live, tiny.init(live.config)


def test_what_bounds_a_part():
    """Of a part that reads, one that multiplies, and one of neither, in two rounds of which one is slower."""
    names = {MEMORY: (100.0, 0.0), PRODUCTS: (0.0, 50.0), "text": (200.0, 10.0), "anchor": (1.0, 100.0), "plan": (0, 0)}
    arms = [Arm(name, lambda: None, *counts) for name, counts in names.items()]
    times_ms = {MEMORY: [1.0, 2.0], PRODUCTS: [1.0, 2.0], "text": [3.0, 6.0], "anchor": [2.0, 8.0], "plan": [1.0, 1.0]}
    rows = {row["part"]: row for row in summary(arms, times_ms)}
    assert rows["text"]["off"] == [1.5, 1.5]
    assert rows["anchor"]["off"] == [1.0, 2.0]
    assert rows["plan"]["off"] is None
    assert rows["text"]["reading_ms"] == 3.0
    assert rows["anchor"]["computing_ms"] == 3.0


def test_arms_take_turns():
    ran = []
    arms = [Arm(name, lambda name=name: ran.append(name), 0, 0) for name in "ab"]
    clock = iter(range(100)).__next__
    assert timed(arms, 2, 3, clock) == {"a": [1e3, 1e3], "b": [1e3, 1e3]}
    assert "".join(ran) == "ab" + "aaabbb" + "bbbaaa"


def test_a_model_without_a_live_step_is_refused(capsys):
    assert step_parts.main(["--config=configs/clip_quickstart.py"]) == 2
    assert "stage 'clip'" in capsys.readouterr().err
