"""Our training steps and their twins in PyTorch compute the same; small ones, with what the full-size ones have."""

import dataclasses
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import training
from tests import tiny


def small_streams(tmp_path):
    """The streams of the quick start, whose text sees a whole clip."""
    return training.streams(written(tmp_path, text_window_s=13.0), "float32", 2)


def written(tmp_path, text_window_s: float):
    file = tmp_path / "small.py"
    file.write_text(
        "from configs import quickstart\n\n\ndef get_config():\n    c = quickstart.get_config()\n"
        f"    c.text.update(layers=2, cross_every=2, window_s={text_window_s})\n    c.data.clip_s = 4.0\n    return c\n"
    )
    return file


def test_a_twin_needs_all_of_the_clip(tmp_path):
    with pytest.raises(ValueError, match="the twin sees all 50 steps"):
        training.streams(written(tmp_path, text_window_s=2.0), "float32", 2)


def losses(task, config, torch_training):
    """The first three losses, ours and the twin's, with the same learning rate."""
    config.train.update(warmup_steps=0, learning_rate=1e-3, weight_decay=0.0, end_lr_ratio=1.0)
    ours, params, _ = training.our_arm(task, config)
    twin = task.twin(params)
    config.train.learning_rate = 1.0  # the twin takes a thousandth of it
    theirs = torch_training.make_step(
        twin, task.twin_batch(), config.train, dtype="float32", compiled=False, device="cpu"
    )
    return [ours.step() for _ in range(3)], [theirs() for _ in range(3)]


def test_the_twin_takes_parameters_of_layers_in_a_loop(tmp_path, monkeypatch):
    taken = []
    fake = SimpleNamespace(Streams=lambda *shape: SimpleNamespace(load=taken.append))
    monkeypatch.setitem(sys.modules, "benchmarks.torch_training", fake)
    file = written(tmp_path, text_window_s=13.0)
    for scan in (False, True):
        task, _ = training.streams(file, "float32", 2, {"text.scan": scan, "video_stream.scan": scan})
        task.twin(tiny.random_params(task.init))
    plain, looped = (jax.tree.map(np.shape, params) for params in taken)
    assert plain == looped


@pytest.mark.parametrize("part", ["streams", "events", "anchors", "pictures"])
def test_the_twin_trains_as_ours(part, tmp_path):
    torch_training = pytest.importorskip("benchmarks.torch_training", reason="needs PyTorch", exc_type=ImportError)
    if part == "streams":
        task, config = small_streams(tmp_path)
    elif part == "pictures":
        task, config = training.pictures("configs/clip_s16.py", "float32", 1)
        tower = dataclasses.replace(task.tower, layers=2, width=96, hidden=128)
        task = dataclasses.replace(task, tower=tower, grid=(5, 5))
    else:
        task, config = getattr(training, part)("configs/quickstart.py", "float32", 2)
    mine, theirs = losses(task, config, torch_training)
    # Sums in another order; AdamW divides by the gradient's size, so small differences of small gradients are seen.
    np.testing.assert_allclose(mine, theirs, rtol=2e-4)
    assert mine[2] < mine[0]


def test_the_measures_are_of_one_loss(tmp_path):
    made = training.variants(str(written(tmp_path, text_window_s=13.0)), 2)
    first_task, _ = made["float32, all kept"]
    params = tiny.random_params(first_task.init)
    together = "remat, bfloat16, chunks"  # changes nothing that the others do not change one by one
    found = {
        name: float(jax.jit(task.loss)(params, task.batch(), None)[0])
        for name, (task, _) in made.items()
        if name != together
    }
    first = found["float32, all kept"]
    assert found["loss in chunks"] == pytest.approx(first, rel=1e-6)
    assert found["fused attention"] == pytest.approx(first, rel=1e-6)
    assert made["fused attention"][0].config.video.attention == "fused"
    assert found["remat"] == pytest.approx(first, rel=1e-6)
    assert found["bfloat16"] == pytest.approx(first, rel=2e-2)  # 8 bits
    assert found["bfloat16"] != first
    text = made[together][0].config.text
    assert (text.remat, text.dtype, text.scan) == (True, "bfloat16", True)


def test_turns_go_there_and_back():
    order = []
    arms = [training.Arm(name, lambda name=name: order.append(name) or 0.0) for name in "ab"]
    training.take_turns(arms, rounds=2, steps=1)
    assert order == ["a", "a", "b", "b", "b", "b", "a", "a"]
    assert all(len(arm.rounds_s) == 2 for arm in arms)
