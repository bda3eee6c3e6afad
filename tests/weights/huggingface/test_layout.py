"""Layouts: fused, cut, stacked and optional tensors, there and back; what does not fit is named whole."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmduplex_jax.weights.huggingface.layout import (
    Entry,
    Layout,
    check_fits,
    iterate_params,
    read_params,
    reshaped,
    same,
    stacked,
    theirs_expected,
    transposed,
    write_params,
)
from mmduplex_jax.weights.huggingface.reader import CONFIG_FILE, SINGLE_FILE, TensorFiles, WeightsError
from mmduplex_jax.weights.portable import flatten

LAYOUT = Layout(
    (
        same("norm/scale", "ln.weight"),
        transposed("mlp/kernel", "fc.weight"),
        reshaped("table", "positions", (4, 3), (1, 4, 3)),
        Entry(
            ("query/kernel", "key/kernel"),
            "in_proj",
            lambda a: (a[:2].T, a[2:].T),
            lambda q, k: np.concatenate([q.T, k.T]),
        ),
        stacked([transposed("layers/kernel", f"h.{i}.weight") for i in range(3)]),
        same("extra", "bonus", optional=True),
    ),
    ignored=(r".*\.position_ids",),
)
SHAPES = {
    "norm": {"scale": (5,)},
    "mlp": {"kernel": (5, 7)},
    "table": (4, 3),
    "query": {"kernel": (6, 2)},
    "key": {"kernel": (6, 4)},
    "layers": {"kernel": (3, 2, 5)},
    "extra": (2,),
}


def params(seed=0, without=()):
    rng = np.random.default_rng(seed)
    draw = lambda value: (
        {name: draw(inner) for name, inner in value.items() if name not in without}
        if isinstance(value, dict)
        else rng.standard_normal(value).astype(np.float32)
    )
    return draw(SHAPES)


def test_shapes_of_theirs_follow_from_ours():
    assert theirs_expected(LAYOUT, SHAPES) == {
        "ln.weight": (5,),
        "fc.weight": (7, 5),
        "positions": (1, 4, 3),
        "in_proj": (6, 6),
        "h.0.weight": (5, 2),
        "h.1.weight": (5, 2),
        "h.2.weight": (5, 2),
        "bonus": (2,),
    }


@pytest.mark.parametrize("without", [(), ("extra",)])
def test_there_and_back_is_bit_equal(without, tmp_path):
    ours = params(without=without)
    size = write_params(ours, LAYOUT, tmp_path, {"model_type": "x"})
    assert json.loads((tmp_path / CONFIG_FILE).read_text()) == {"model_type": "x"}
    files = TensorFiles(tmp_path)
    assert size == files.num_bytes
    found = flatten(read_params(files, LAYOUT, SHAPES))
    assert found.keys() == flatten(ours).keys()
    for name, array in flatten(ours).items():
        assert np.ascontiguousarray(found[name]).tobytes() == array.tobytes()
    # The library that others read with agrees on what was written.
    theirs = load_file(tmp_path / SINGLE_FILE)
    np.testing.assert_array_equal(theirs["fc.weight"], ours["mlp"]["kernel"].T)
    np.testing.assert_array_equal(theirs["h.2.weight"], ours["layers"]["kernel"][2].T)
    assert set(theirs) == set(files.names)


def test_one_entry_is_read_at_a_time(tmp_path):
    write_params(params(), LAYOUT, tmp_path, {})
    files = TensorFiles(tmp_path)
    read = []
    original = files.read
    files.read = lambda name: read.append(name) or original(name)  # type: ignore[method-assign]
    walk = iterate_params(files, LAYOUT, SHAPES)
    assert next(walk)[0] == "norm/scale"
    assert read == ["ln.weight"]
    assert [name for name, _ in walk] == ["mlp/kernel", "table", "query/kernel", "key/kernel", "layers/kernel", "extra"]


def test_everything_that_does_not_fit_is_named_at_once(tmp_path):
    write_params(params(), LAYOUT, tmp_path, {})
    theirs = dict(load_file(tmp_path / SINGLE_FILE))
    theirs["embeddings.position_ids"] = np.arange(4)
    save_file(theirs, tmp_path / SINGLE_FILE)
    check_fits(TensorFiles(tmp_path), LAYOUT, SHAPES)
    del theirs["h.1.weight"], theirs["ln.weight"]
    theirs["fc.weight"] = theirs["fc.weight"].T.copy()
    theirs["stray"] = np.zeros(3, np.float32)
    theirs["in_proj"] = np.zeros((6, 6), np.int32)
    save_file(theirs, tmp_path / SINGLE_FILE)
    with pytest.raises(WeightsError) as error:
        read_params(TensorFiles(tmp_path), LAYOUT, SHAPES)
    lines = str(error.value).splitlines()
    assert "5 tensors do not fit" in lines[0]
    assert [line.strip() for line in lines[1:-1]] == [
        "missing: ln.weight [5]",
        "missing: h.1.weight [5, 2]",
        "unexpected: stray [3]",
        "misshapen: fc.weight is [5, 7], should be [7, 5]",
        "no weight: in_proj is I32, should be floating-point",
    ]


def test_a_layout_and_a_model_that_do_not_belong_together_are_a_mistake():
    with pytest.raises(ValueError, match=r"(?s)no entry for more.*an entry for norm/scale, which the model has not"):
        theirs_expected(LAYOUT, {**SHAPES, "norm": {}, "more": (1,)})
    twice = Layout((same("a", "x"), same("b", "x")))
    with pytest.raises(ValueError, match="two entries for their tensor x"):
        theirs_expected(twice, {"a": (1,), "b": (1,)})
    with pytest.raises(ValueError, match="2 entries for a"):
        theirs_expected(Layout((same("a", "x"), same("a", "y"))), {"a": (1,)})


def test_nothing_is_overwritten_and_what_does_not_fit_a_dtype_leaves_nothing(tmp_path):
    ours = params()
    ours["table"] = ours["table"] * np.float32(1e6)
    with pytest.raises(WeightsError, match=r"positions reaches .* too large for float16"):
        write_params(ours, LAYOUT, tmp_path, {}, dtype="float16")
    assert not list(tmp_path.iterdir())
    with pytest.raises(WeightsError, match="dtype is one of"):
        write_params(ours, LAYOUT, tmp_path, {}, dtype="int8")
    write_params(ours, LAYOUT, tmp_path, {})
    with pytest.raises(WeightsError, match="already has"):
        write_params(ours, LAYOUT, tmp_path, {})


def test_a_part_of_something_has_prefixes():
    inner = LAYOUT.prefixed("vision/", "vision_model.")
    assert (inner.entries[0].ours, inner.entries[0].theirs) == ("vision/norm/scale", "vision_model.ln.weight")
    assert inner.entries[3].ours == ("vision/query/kernel", "vision/key/kernel")
    assert inner.entries[4].theirs == tuple(f"vision_model.h.{i}.weight" for i in range(3))
    assert inner.ignores("vision_model.embeddings.position_ids")
    assert not inner.ignores("embeddings.position_ids")
    assert len((inner + LAYOUT).entries) == 2 * len(LAYOUT.entries)
