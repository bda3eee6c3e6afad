"""Small records by number, for the tests of shards and loading."""

import pytest

from data_pipelines.shards import write_shards
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests.data_pipelines.small_records import SmallSource, make_record

WORDS = ["red", "circle", "enters", "left", "right"]


@pytest.fixture
def record():
    return make_record


@pytest.fixture
def small_source():
    return SmallSource


@pytest.fixture
def tokenizer():
    return TextTokenizer.word_level(WORDS)


@pytest.fixture
def shards(tmp_path):
    """A directory with 10 records in 4 shards."""
    directory = tmp_path / "shards"
    write_shards(SmallSource(), directory, config={"clips": 10}, units_per_shard=3)
    return directory
