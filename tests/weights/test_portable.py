import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mmduplex_jax.weights import portable
from mmduplex_jax.weights.trained import load_trained
from tests import tiny

METADATA = {
    "config": {"frame_px": 64},
    "tokenizer": {"model": {"type": "WordLevel"}},
    "steps": 3600,
    "data": {"look": "plain"},
    "scores": {"f1": 0.7},
}


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {
        "embed": {"table": rng.normal(size=(7, 4)).astype(np.float32)},
        "layer_0": {"mlp": {"up": rng.normal(size=(4, 8)).astype(np.float32), "bias": np.zeros(8, np.float32)}},
        "gate": np.float32(0.25),
    }


def assert_same(found, wanted, atol=0.0):
    found, wanted = portable.flatten(found), portable.flatten(wanted)
    assert list(found) == list(wanted)
    for name in wanted:
        assert (found[name].dtype, found[name].shape) == (np.float32, np.shape(wanted[name]))
        np.testing.assert_allclose(found[name], wanted[name], rtol=atol, atol=atol)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 1e-3)])
def test_what_is_saved_is_loaded(tmp_path, params, dtype, tolerance):
    size = portable.save(tmp_path / "new", params, METADATA, dtype=dtype)
    assert size == sum(file.stat().st_size for file in (tmp_path / "new").iterdir())
    assert portable.is_portable(tmp_path / "new")
    found, metadata = portable.load(tmp_path / "new")
    assert_same(found, params, tolerance)
    assert {key: metadata[key] for key in METADATA} == METADATA
    assert metadata["layout_version"] == portable.LAYOUT_VERSION
    assert metadata["dtype"] == dtype


def test_bfloat16_of_jax_is_stored(tmp_path):
    import jax.numpy as jnp

    portable.save(tmp_path, {"w": jnp.asarray([1.5, -2.0], jnp.bfloat16)}, METADATA)
    assert portable.load(tmp_path)[0]["w"].tolist() == [1.5, -2.0]


def test_saving_again_replaces(tmp_path, params):
    portable.save(tmp_path, params, METADATA)
    portable.save(tmp_path, {"w": np.ones(2, np.float32)}, METADATA)
    assert list(portable.load(tmp_path)[0]) == ["w"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metadata.json", "params.safetensors"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([1.0, np.nan], np.float32), "layer/w is not finite"),
        (np.array([1e5], np.float32), "too large for float16: store float32"),
        (np.array([1]), "layer/w is int64: only floating-point"),
    ],
)
def test_numbers_that_cannot_be_stored(tmp_path, value, said):
    with pytest.raises(portable.PortableError, match=said):
        portable.save(tmp_path / "x", {"layer": {"w": value}}, METADATA)
    assert not (tmp_path / "x").exists()


def test_incomplete_metadata_is_refused(tmp_path, params):
    with pytest.raises(portable.PortableError, match=r"lacks \['scores'\]"):
        portable.save(tmp_path, params, {key: METADATA[key] for key in METADATA if key != "scores"})


def test_too_large_is_refused(tmp_path, params):
    with pytest.raises(portable.PortableError, match="more than 100"):
        portable.save(tmp_path / "x", params, METADATA, max_bytes=100)
    assert not (tmp_path / "x").exists()


def change_metadata(folder, **changes):
    path = folder / portable.METADATA_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_another_layout_is_refused(tmp_path, params):
    portable.save(tmp_path, params, METADATA)
    change_metadata(tmp_path, layout_version=99)
    with pytest.raises(portable.PortableError, match=r"layout version 99, this code reads 2 and 3.*launch.export"):
        portable.load(tmp_path)


def test_damage_is_found(tmp_path, params):
    portable.save(tmp_path, params, METADATA)
    path = tmp_path / portable.PARAMS_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    with pytest.raises(portable.PortableError, match="SHA-256 differs"):
        portable.load(tmp_path)
    path.unlink()
    assert not portable.is_portable(tmp_path)
    with pytest.raises(portable.PortableError, match="no params.safetensors"):
        portable.load(tmp_path)


def test_every_tensor_that_does_not_fit_is_named(params):
    expected = {
        "embed": {"table": np.zeros((9, 4))},
        "layer_0": {"mlp": {"up": np.zeros((4, 8))}},
        "layer_1": {"mlp": {"up": np.zeros((4, 8))}},
        "gate": np.zeros(()),
    }
    with pytest.raises(portable.PortableError) as caught:
        portable.check(params, expected, "here against there")
    message = str(caught.value)
    assert "here against there: 3 tensors" in message
    assert "missing: layer_1/mlp/up [4, 8]" in message
    assert "unexpected: layer_0/mlp/bias [8]" in message
    assert "misshapen: embed/table is [7, 4], should be [9, 4]" in message
    portable.check(params, params, "the same")


def test_a_tensor_list_that_differs_is_named(tmp_path, params):
    portable.save(tmp_path, params, METADATA)
    listed = json.loads((tmp_path / portable.METADATA_FILE).read_text())["tensors"]
    del listed["gate"]
    change_metadata(tmp_path, tensors={**listed, "layer_9/w": [3]})
    with pytest.raises(portable.PortableError, match=r"missing: layer_9/w \[3\]\n  unexpected: gate"):
        portable.load(tmp_path)


LAYOUT_2 = Path(__file__).parent / "layout_2"


def test_a_checkpoint_of_the_layout_before_scores_the_same():
    """Made by the code before layout 3, with what its loss was then (`expected.json`)."""
    trained = load_trained(LAYOUT_2)
    expected = json.loads((LAYOUT_2 / "expected.json").read_text())
    frames, rng = tiny.clips(2, 25), np.random.default_rng(1)
    slots = rng.integers(0, trained.task.config.vocab_size, (2, 50)).astype(np.int32)
    batch = {"frames": frames, "slots": slots, "slot_valid": np.ones_like(slots, bool)}
    loss, metrics = tiny.jit(trained.task.loss)(trained.params, batch, jax.random.key(0))
    metrics["ahead_nll"] = metrics.pop("future_word_nll")
    assert metrics["video_tokens"] == expected["metrics"]["video_tokens"]
    # float32, in another order of sums.
    assert float(loss) == pytest.approx(expected["loss"], rel=1e-5)
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(expected["metrics"], rel=1e-5)


def test_names_of_layout_2_are_converted_and_those_of_today_kept():
    old = {
        "loss": {"ahead_weight": 0.3, "ahead_s": 1.6, "drop_anchor_tail": 0.25, "pad_weight": 1.0},
        "prediction": {"ahead_s": [0.0, 0.64]},
        "tokenizer": {"budget": {"flow_ladder": [0, 1], "refresh_s": 4.0}, "motion": {"uncovered_cost": 20}},
    }
    new = {
        "loss": {"future_word_weight": 0.3, "future_word_horizon_s": 1.6, "nested_dropout": 0.25, "pad_weight": 1.0},
        "prediction": {"horizon_s": [0.0, 0.64]},
        "tokenizer": {
            "budget": {"flow_token_levels": [0, 1], "anchor_interval_max_s": 4.0},
            "motion": {"disocclusion_cost": 20},
        },
    }
    assert portable.converted_config(old) == portable.converted_config(new) == new
    assert portable.converted_parameter("ahead/kernel") == "future_word_head/kernel"
    assert portable.converted_parameter("tokenizer/flows/told/bias") == "tokenizer/flows/features/bias"
    assert portable.converted_parameter("text/ahead/kernel") == "text/ahead/kernel"
