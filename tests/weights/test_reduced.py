"""Parameters in fewer bits: how far they are off, which ones, and that they stay what they are."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mmduplex_jax.commentator import Commentator
from mmduplex_jax.layers.reduced import Reduced
from mmduplex_jax.weights import portable
from mmduplex_jax.weights import reduced as module
from mmduplex_jax.weights.reduced import KINDS, expanded, reduced, rounded
from tests.weights.test_portable import METADATA

FEWER = ("bfloat16", "int8")
numbers = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
tables = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6), elements=numbers)


@pytest.fixture(autouse=True, scope="module")
def small_tables_count():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUMBERS_MIN", 1)
        yield


@given(tables, st.sampled_from(["kernel", "embedding"]))
def test_int8_is_off_by_half_a_step_of_its_channel(values, name):
    found = reduced({name: values}, "int8")[name]
    axis = 0 if name == "kernel" else 1
    largest = np.abs(values).max(axis=axis, keepdims=True).astype(np.float64)
    assert found.values.dtype == np.int8
    assert found.scale.shape == largest.shape
    assert (found.scale <= np.maximum(largest / 127 * (1 + 2**-15), 2.0**-119)).all()
    off = np.abs(np.asarray(found.values, np.float64) * found.scale - values)
    # (The quotient is rounded to float32 before it is rounded to a whole number.)
    assert (off <= found.scale * (0.5 + 1e-4)).all()


@given(tables)
def test_bfloat16_keeps_eight_digits(values):
    found = np.asarray(reduced({"kernel": values}, "bfloat16")["kernel"].expanded())
    assert (np.abs(found - values) <= np.abs(values) / 256).all()


@given(tables, st.sampled_from(FEWER), st.sampled_from(["kernel", "embedding"]))
def test_what_was_reduced_once_stays(values, kind, name):
    once = reduced({name: values}, kind)
    again = reduced(rounded({name: values}, kind), kind)
    assert jax.tree.structure(once) == jax.tree.structure(again)
    assert all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(once), jax.tree.leaves(again)))


def test_a_stream_moves_only_between_servers_of_the_same_weights():
    table = {"kernel": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)}
    held = [reduced(table, kind) for kind in KINDS] + [rounded(table, kind) for kind in FEWER]
    # (What servers compare; see `serving.handover`.)
    models = [Commentator("tiny", None, params, None, None) for params in held]
    assert len({model.fingerprint for model in models}) == len(held)


@pytest.mark.parametrize("kind", FEWER)
def test_stacked_layers_are_reduced_as_each_is(kind):
    stack = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    found = reduced({"text": {"groups": {"query": {"kernel": stack}}}}, kind)["text"]["groups"]["query"]["kernel"]
    for i in range(3):
        alone = reduced({"kernel": stack[i]}, kind)["kernel"]
        np.testing.assert_array_equal(alone.expanded(), found.expanded()[i])


def test_large_tables_are_reduced_and_nothing_else(monkeypatch):
    monkeypatch.setattr(module, "NUMBERS_MIN", 16)
    ones = lambda *shape: np.ones(shape, np.float32)
    params = {
        "embedding": ones(5, 4),
        "head": ones(5, 4),
        "delays": ones(9, 4),
        "text": {"groups": {"mlp": {"kernel": ones(2, 4, 4), "bias": ones(2, 16)}, "gate": {"kernel": ones(9, 2, 2)}}},
        "tokenizer": {"positions": ones(16, 4), "conv": {"kernel": ones(3, 3, 4, 4)}, "w": {"embedding": ones(8, 8)}},
        "depth": {"in": {"kernel": ones(8, 4, 4)}},
    }
    found = portable.flatten(reduced(params, "int8"))
    fewer = {name for name, leaf in found.items() if isinstance(leaf, Reduced)}
    assert fewer == {"embedding", "head", "text/groups/mlp/kernel"}
    assert all(found[name] is leaf for name, leaf in portable.flatten(params).items() if name not in fewer)
    assert [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(found["embedding"])] == [
        ((5, 4), "int8"), ((5, 1), "float32"),
    ]  # fmt: skip


def test_float32_is_what_it_was():
    params = {"kernel": np.ones((4, 4), np.float32)}
    assert reduced(params, "float32") is params
    assert rounded(params, "float32") is params


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="is one of float32, bfloat16, int8, not 'int4'"):
        reduced({}, "int4")


@pytest.mark.parametrize("kind", FEWER)
def test_a_portable_checkpoint_keeps_the_kind_and_the_values(tmp_path, kind):
    rng = np.random.default_rng(0)
    kernel, scale = rng.normal(size=(64, 64)).astype(np.float32), np.float32([1.5])
    params = {"mlp": {"kernel": kernel}, "norm": {"scale": scale}}
    plain = portable.save(tmp_path / "plain", params, METADATA)
    size = portable.save(tmp_path / "fewer", params, METADATA, weights=kind)
    assert size < 0.8 * plain if kind == "int8" else size == pytest.approx(plain, rel=0.05)
    found, metadata = portable.load(tmp_path / "fewer")
    assert (metadata["weights"], metadata["layout_version"]) == (kind, portable.REDUCED_VERSION)
    # A file that code from before can read says nothing of it.
    plain_metadata = portable.load(tmp_path / "plain")[1]
    assert ("weights" in plain_metadata, plain_metadata["layout_version"]) == (False, portable.LAYOUT_VERSION)
    wanted = expanded(reduced(params, kind))
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert all(np.array_equal(*pair) for pair in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)))


def test_a_model_that_has_diverged_is_not_made_whole_numbers():
    kernel = np.ones((2, 2), np.float32)
    for wrong in (np.nan, np.inf):
        kernel[1, 0] = wrong
        with pytest.raises(ValueError, match="parameter mlp/kernel is not finite"):
            reduced({"mlp": {"kernel": kernel}}, "int8")


def test_the_kind_is_not_the_caller_s_to_say(tmp_path):
    with pytest.raises(portable.PortableError, match=r"must not bring \['weights'\]"):
        portable.save(tmp_path, {"kernel": np.ones((2, 2), np.float32)}, {**METADATA, "weights": "int8"})


def test_weights_of_newer_code_are_refused(tmp_path):
    portable.save(tmp_path, {"kernel": np.ones((2, 2), np.float32)}, METADATA, weights="int8")
    file = tmp_path / portable.METADATA_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"weights": "int4"}))
    with pytest.raises(portable.PortableError, match="has weights 'int4', this code reads float32, bfloat16, int8"):
        portable.load(tmp_path)
