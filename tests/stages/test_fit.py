"""Training, evaluation and live see the same: data of another fit than the model's are refused, by name."""

import pytest
from ml_collections import ConfigDict

from configs import quickstart
from data_pipelines.manifest import Manifest
from data_pipelines.shards import write_shards
from data_pipelines.sources.world import WorldSource
from data_pipelines.world import WorldConfig
from mmduplex_jax.clock import Clock
from mmduplex_jax.stages.evaluation import check_fit, open_clips
from mmduplex_jax.stages.training import train
from mmduplex_jax.train.feed import DataError


def manifest(**config):
    return Manifest(config, {}, Clock(), 1, 1)


@pytest.mark.parametrize(("data", "model"), [("pad", "pad"), ("crop", "crop"), (None, "pad"), (None, "crop")])
def test_the_same_fit_or_pictures_that_were_drawn(data, model):
    check_fit("data/a", manifest() if data is None else manifest(fit=data), ConfigDict({"fit": model}))


def test_models_from_before_were_trained_on_crops():
    check_fit("data/a", manifest(fit="crop"), ConfigDict({}))
    with pytest.raises(ValueError, match="data/a was prepared with fit=pad, the model has crop"):
        check_fit("data/a", manifest(fit="pad"), ConfigDict({}))


def test_training_and_evaluation_refuse_what_live_would_see_otherwise(tmp_path):
    world = WorldSource(WorldConfig(clip_s=5.0), 0, 2)
    write_shards(world, tmp_path / "data", config={"fit": "pad"}, units_per_shard=2)
    config = quickstart.get_config()
    config.data.update(dirs=str(tmp_path / "data"), clip_s=5.0)
    with pytest.raises(ValueError, match=r"fit=pad, .*train with --config\.fit=pad"):
        open_clips(str(tmp_path / "data"), config, clips=2, seed=0)
    with pytest.raises(DataError, match=r"fit=pad, .*train with --config\.fit=pad"):
        train(config, tmp_path / "run", log=lambda line: None)
    assert not (tmp_path / "run").exists()
