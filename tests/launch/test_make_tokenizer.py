"""A tokenizer made from prepared data spells its words, and any other."""

import json

import pytest

from data_pipelines.schema import Word
from data_pipelines.shards import write_shards
from launch import make_tokenizer
from mmduplex_jax.text_tokenizer import BpeSize, TextTokenizer, advised_size, bpe_sizes
from tests.data_pipelines.small_records import SmallSource

TEXT = [
    *("the", "goalkeeper", "dives", "left", "and", "the", "striker", "shoots", "over", "the", "crossbar"),
    *("while", "supporters", "are", "singing"),
]


class Commented(SmallSource):
    def items(self, begin, end):
        for item in super().items(begin, end):
            words = tuple(Word(word, 0.05 * number) for number, word in enumerate(TEXT))
            object.__setattr__(item.content, "words", words)
            yield item


@pytest.fixture
def data(tmp_path):
    write_shards(Commented(), tmp_path / "data", config={}, units_per_shard=5)
    return tmp_path / "data"


def test_a_tokenizer_of_own_data(data, tmp_path, capsys):
    out, report = tmp_path / "new" / "tokenizer.json", tmp_path / "report.json"
    assert make_tokenizer.main([f"--data={data}", f"--out={out}", f"--json={report}"]) == 0
    tokenizer = TextTokenizer.from_file(out)
    assert tokenizer.end_id is not None
    tokens = [tokenizer.encode_word(word) for word in TEXT]
    assert sum(map(len, tokens)) <= 1.3 * len(TEXT)
    assert [tokenizer.decode_word(ids) for ids in tokens] == TEXT
    assert tokenizer.decode_word(tokenizer.encode_word("Ωmega🙂")) == "Ωmega🙂"
    found = json.loads(report.read_text())
    assert (found["clips"], found["words"], found["different_words"]) == (10, 10 * len(TEXT), len(set(TEXT)))
    assert found["advised"] >= tokenizer.base_vocab_size == found["tokens"]
    assert f"pass --config.text_tokenizer={out}" in capsys.readouterr().out
    assert make_tokenizer.main([f"--data={data}", f"--out={out}", "--size=300"]) == 0
    assert TextTokenizer.from_file(out).base_vocab_size == 300


def test_what_each_size_brings():
    counts = {f"{first}{second}{third}": 3 for first in "abcdefgh" for second in "ijklmnop" for third in "qrstuvwx"}
    sizes = bpe_sizes(counts)
    assert [one.size for one in sizes[:2]] == [512, 1024 if len(sizes) > 2 else sizes[1].size]
    assert all(after.tokens_a_word < before.tokens_a_word for before, after in zip(sizes, sizes[1:]))
    for one in sizes:
        tokenizer = TextTokenizer.train_bpe(counts, one.size)
        average = sum(len(tokenizer.encode_word(word)) for word in counts) / len(counts)
        assert one.tokens_a_word == pytest.approx(average)
    assert advised_size([BpeSize(512, 2.0), BpeSize(1024, 1.2), BpeSize(2048, 1.0)]) == 1024
    assert advised_size([BpeSize(512, 2.0), BpeSize(700, 1.9)]) == 700


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--data=nowhere"], "there is no folder nowhere"), (["--size=10"], "at least 256 tokens")],
)
def test_mistakes_are_one_line(data, tmp_path, capsys, flags, said):
    assert make_tokenizer.main([f"--data={data}", f"--out={tmp_path / 'a.json'}", *flags]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
