"""Text ids, the marks behind them, and a real byte-level BPE."""

import json
import pickle

import pytest
from tokenizers import Tokenizer

from mmduplex_jax.text_tokenizer import TextTokenizer

WORDS = ["a", "red", "circle", "enters"]


@pytest.fixture(scope="module")
def qwen(shared_dir):
    path = shared_dir / "tokenizers/qwen3/tokenizer.json"
    if not path.is_file():
        pytest.skip("no tokenizers/qwen3/tokenizer.json in `shared`: this test needs a real byte-level BPE")
    return path


def test_word_level_ids_are_the_order_given_and_marks_follow():
    tokenizer = TextTokenizer.word_level(WORDS)
    assert [tokenizer.encode_word(word) for word in WORDS] == [[0], [1], [2], [3]]
    assert (tokenizer.pad_id, tokenizer.word_id, tokenizer.start_id, tokenizer.vocab_size) == (4, 5, 6, 7)
    assert tokenizer.decode_word([1]) == "red"
    assert tokenizer.encode_word("  red ") == [1]


def test_saved_file_is_an_ordinary_tokenizer_json(tmp_path):
    tokenizer = TextTokenizer.word_level(WORDS)
    tokenizer.save(tmp_path / "tokenizer.json")
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a red circle").ids == [0, 1, 2]
    assert TextTokenizer.from_file(tmp_path / "tokenizer.json") == tokenizer
    assert TextTokenizer.from_json(tokenizer.to_json()).to_json() == tokenizer.to_json()
    assert TextTokenizer.word_level(WORDS[:2]) != tokenizer


def test_survives_pickling():
    tokenizer = pickle.loads(pickle.dumps(TextTokenizer.word_level(WORDS)))
    assert tokenizer.encode_word("circle") == [2]
    assert tokenizer.vocab_size == 7


def test_unknown_word_is_named():
    with pytest.raises(ValueError, match="'blue'"):
        TextTokenizer.word_level(WORDS).encode_word("blue")


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_blank_word_is_refused(text):
    with pytest.raises(ValueError, match="visible"):
        TextTokenizer.word_level(WORDS).encode_word(text)


@pytest.mark.parametrize("token", [4, 5, 6, 7, -1])
def test_marks_are_no_text(token):
    with pytest.raises(ValueError, match=f"id {token} is no text"):
        TextTokenizer.word_level(WORDS).decode_word([0, token])


@pytest.mark.parametrize(("words", "message"), [(["a", "a"], "twice"), (["two words"], "one run"), ([""], "one run")])
def test_bad_vocabulary(words, message):
    with pytest.raises(ValueError, match=message):
        TextTokenizer.word_level(words)


def test_empty_vocabulary():
    with pytest.raises(ValueError, match="at least one token"):
        TextTokenizer.word_level([])


def test_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        TextTokenizer.from_file(tmp_path / "nothing.json")
    for name, text in {"text.json": "hello", "other.json": '{"model": 3}'}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            TextTokenizer.from_file(tmp_path / name)


def test_truncation_and_padding_of_the_file_do_not_apply(tmp_path):
    plain = Tokenizer.from_str(TextTokenizer.word_level(["red"]).to_json())
    plain.enable_truncation(1)
    plain.enable_padding(length=5)
    tokenizer = TextTokenizer(plain)
    assert tokenizer.encode_word("red red red") == [0, 0, 0]
    assert plain.truncation is not None  # the caller's own keeps its setting


def test_bpe_marks_come_after_added_tokens(qwen):
    tokenizer = TextTokenizer.from_file(qwen)
    added = max(token["id"] for token in json.loads(qwen.read_text(encoding="utf-8"))["added_tokens"])
    assert tokenizer.base_vocab_size == added + 1 == 151669
    assert (tokenizer.pad_id, tokenizer.word_id, tokenizer.start_id) == (151669, 151670, 151671)


def test_bpe_words_are_encoded_after_a_space(qwen):
    tokenizer = TextTokenizer.from_file(qwen)
    plain = Tokenizer.from_file(str(qwen))
    sentence = ["The", "car", "leaves", "naïvely,", "at", "12:30", "日本語", "🙂!"]
    ids = [token for word in sentence for token in tokenizer.encode_word(word)]
    assert ids == plain.encode(" " + " ".join(sentence)).ids
    assert [tokenizer.decode_word(tokenizer.encode_word(word)) for word in sentence] == sentence


def test_bpe_quoted_control_token_is_text(qwen):
    tokenizer = TextTokenizer.from_file(qwen)
    ids = tokenizer.encode_word("<|im_end|>")
    assert len(ids) > 1
    assert max(ids) < 151643  # the first control token
    assert tokenizer.decode_word(ids) == "<|im_end|>"
