"""The models that come with the library are found by name, before folders of that name; a checkout's codec fits."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from configs import codec_quickstart
from mmduplex_jax.codec.codec import Codec
from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.weights import trained
from mmduplex_jax.weights.codec import load_codec
from mmduplex_jax.weights.trained import DEFAULT, MODELS, load_trained


@pytest.fixture(scope="module")
def world():
    return load_trained("world")


def test_a_name_goes_before_a_folder_of_that_name(world, tmp_path, monkeypatch):
    (tmp_path / "world").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_trained("world").folder == MODELS["world"]
    with pytest.raises(FileNotFoundError, match="no checkpoint in world: neither a portable one"):
        load_trained("./world")


def test_none_is_the_default(world, monkeypatch):
    assert DEFAULT in MODELS
    monkeypatch.setattr(trained, "DEFAULT", "world")
    assert load_trained(None).folder == world.folder


def test_it_has_its_name_however_it_was_named(world, repository, tmp_path):
    assert (world.name, world.title) == ("world", "model world")
    # The folder `checkpoints` of a checkout leads to the same files.
    linked = load_trained(repository / "checkpoints" / "world")
    assert (linked.name, linked.title) == ("world", "model world")
    for file in MODELS["world"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    copied = load_trained(str(tmp_path))
    assert (copied.name, copied.title) == (str(tmp_path), f"the model in {tmp_path}")


def test_a_checkout_leads_to_every_model_that_comes_along(repository):
    assert {path.name: path.resolve() for path in (repository / "checkpoints").iterdir() if path.is_symlink()} == MODELS


@pytest.mark.parametrize("name", MODELS)
def test_models_that_come_along_fit_this_code(repository, name):
    """By a path they are checked against it; by their names they are not, as tracing takes seconds."""
    checked = load_trained(repository / "checkpoints" / name)
    assert jax.tree.structure(checked.params) == jax.tree.structure(load_trained(name).params)


def test_the_codec_in_a_checkout_fits_this_code(repository):
    """docs/speech.md has trainings go on from it: it is the quick start's, array by array."""
    codec = load_codec(repository / "checkpoints" / "voice_codec")
    assert codec.config == CodecConfig.from_mapping(codec_quickstart.get_config().codec)
    samples = np.zeros((1, codec.config.step_samples), np.float32)
    drawn = nn.unbox(jax.eval_shape(lambda key: Codec(codec.config).init(key, samples)["params"], jax.random.key(0)))
    assert jax.tree.map(np.shape, codec.params) == jax.tree.map(np.shape, drawn)
