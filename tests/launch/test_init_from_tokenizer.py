"""`config.init_from.tokenizer`: a video tokenizer that has learned is what another training begins with."""

import numpy as np
import pytest

from mmduplex_jax.weights.init_from import InitFromError
from mmduplex_jax.weights.portable import flatten
from mmduplex_jax.weights.trained import MODELS, load_trained
from tests.launch import imported
from tests.launch.conftest import small_config
from tests.launch.test_init_from import started


def test_a_learned_tokenizer_is_taken_as_a_whole(portable_dir, untrained):
    config = small_config()
    config.text.update(width=32, hidden=40)  # another language model, the same eyes
    config.init_from.tokenizer = str(portable_dir)
    params, told = started(config)
    before = flatten(untrained[2])
    taken = [name for name in params if name.startswith("tokenizer/")]
    assert taken
    for name in taken:
        np.testing.assert_array_equal(params[name], before[name])
    assert all((value == 7).all() for name, value in params.items() if name not in taken)
    assert any(line.endswith(f"tokenizer: taken from {portable_dir}: tokenizer ({len(taken)})") for line in told)
    assert any("tokenizer: left: " in line and "embedding (1)" in line and "video (" in line for line in told)


def test_the_tokenizer_of_a_model_that_comes_along_is_one(tmp_path):
    config = load_trained("world").config.copy_and_resolve_references().unlock()
    config.init_from = dict(text="", vision="", tokenizer=str(MODELS["world"]), strict=True)
    params, _ = started(config)
    np.testing.assert_array_equal(params["tokenizer/kinds"], load_trained("world").params["tokenizer"]["kinds"])


def test_a_model_is_trained_on(portable_dir, untrained):
    config = small_config()
    config.init_from.model = str(portable_dir)
    params, told = started(config)
    before = flatten(untrained[2])
    assert params.keys() == before.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(value, before[name])
    assert any(line.endswith("made anew: nothing") for line in told)
    config.init_from.tokenizer = str(portable_dir)
    with pytest.raises(InitFromError, match="brings all of a model, tokenizer too: name one or the other"):
        started(config)
    config.init_from.tokenizer = ""
    config.text.hidden += 8
    config.tokenizer.flow.width = 48
    with pytest.raises(InitFromError, match=r"width is 32, the model's is 48: set config\.tokenizer\.flow\.width=32"):
        started(config)


def test_everything_that_differs_is_named(portable_dir):
    config = small_config()
    config.clock.video_stride = 1
    config.tokenizer.budget.update(tokens_per_s_max=48, flow_token_levels=(0, 2, 4))
    config.tokenizer.motion.search_radius = 2
    config.tokenizer.anchor.mean = (0.4, 0.4, 0.4)
    config.tokenizer.anchor.tower.activation = "gelu"
    config.tokenizer.event.window_s = 4.0
    config.tokenizer.flow.width = 48
    config.tokenizer.baseline.grid_side = (3, 3)  # of no use to this kind
    config.init_from.tokenizer = str(portable_dir)
    with pytest.raises(InitFromError) as error:
        started(config)
    said = str(error.value)
    for line in (
        "video_stride is 2, the model's is 1: set config.clock.video_stride=2",
        "tokens_per_s_max is 32, the model's is 48: set config.tokenizer.budget.tokens_per_s_max=32",
        "flow_token_levels is (0, 1, 2, 4), the model's is (0, 2, 4): "
        "set config.tokenizer.budget.flow_token_levels=(0, 1, 2, 4)",
        "search_radius is 3, the model's is 2: set config.tokenizer.motion.search_radius=3",
        "mean is (0.5, 0.5, 0.5), the model's is (0.4, 0.4, 0.4): set config.tokenizer.anchor.mean=(0.5, 0.5, 0.5)",
        "activation is gelu_tanh, the model's is gelu: set config.tokenizer.anchor.tower.activation=gelu_tanh",
        "event.window_steps is 25, the model's is 50: set config.tokenizer.event.window_s=2",
        "width is 32, the model's is 48: set config.tokenizer.flow.width=32",
        "its tokenizer/flows/out/kernel is [32, 128], tokenizer/flows/out/kernel needs [48, 128]",
    ):
        assert f"tokenizer: {line}" in said
    assert "baseline" not in said
    config.init_from.strict = False
    params, _ = started(config)
    assert (params["tokenizer/flows/out/kernel"] == 7).all()
    assert not (params["tokenizer/projector/kernel"] == 7).all()


def test_stages_and_folders_without_a_tokenizer_are_told(tmp_path):
    config = small_config()
    config.init_from.tokenizer = str(imported.import_tower(imported.siglip(), tmp_path))
    with pytest.raises(
        InitFromError, match="holds imported weights, wanted is a training of stage 'bflow' or 'duplex'"
    ):
        started(config)
