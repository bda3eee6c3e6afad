"""Tokenizers of GGUF files: the same ids as the tokenizer that went in."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.weights.huggingface.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, text_tokenizer
from mmduplex_jax.weights.huggingface.reader import WeightsError

QWEN3 = Path(__file__).resolve().parents[3].parent / "shared" / "tokenizers" / "qwen3" / "tokenizer.json"
TEXT = "The  dog's 1234 toys — naïve, 日本語\n\n  don't_x \t🙂 end."
COUNTS = {"dog": 30, "dogs": 20, "the": 40, "then": 9, "house": 12, "1234": 15, "naïve": 8}


def fields_of(tokenizer_json: str, pre: str) -> dict:
    """Of a GGUF file, as llama.cpp's converter writes a byte-level BPE."""
    given = json.loads(tokenizer_json)
    rows = {number: (token, NORMAL) for token, number in given["model"]["vocab"].items()}
    rows |= {token["id"]: (token["content"], CONTROL) for token in given["added_tokens"]}
    last = max(rows) + 3  # the embedding has more rows than there are tokens
    filled = [rows.get(number, (f"[PAD{number}]", UNUSED)) for number in range(last + 1)]
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in given["model"]["merges"]]
    made = {"model": "gpt2", "pre": pre, "merges": merges}
    made |= {"tokens": [token for token, _ in filled], "token_type": [kind for _, kind in filled]}
    return {f"tokenizer.ggml.{key}": value for key, value in made.items()}


def ids(tokenizer: TextTokenizer, words: str = TEXT) -> list[int]:
    return Tokenizer.from_str(tokenizer.to_json()).encode(words, add_special_tokens=False).ids


def test_a_byte_level_bpe_is_the_same():
    there = json.loads(TextTokenizer.train_bpe(COUNTS, 300).to_json())
    end = len(there["model"]["vocab"])
    there["added_tokens"] = [
        dict(id=end, content="<|end|>", special=True, normalized=False, single_word=False, lstrip=False, rstrip=False)
    ]
    there["pre_tokenizer"] = {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True
    }  # fmt: skip
    original = TextTokenizer.from_json(json.dumps(there))
    found = text_tokenizer(fields_of(json.dumps(there), "gpt-2"), "file")
    assert found is not None
    assert ids(found) == ids(original)
    assert found.base_vocab_size == original.base_vocab_size == end + 1
    assert found.decode_word(found.encode_word("naïve")) == "naïve"
    # What is a mark of the model is none in a subtitle.
    assert end not in found.encode_word("<|end|>")
    # SmolLM's splits digits, whatever merges there are.
    digits = text_tokenizer(fields_of(json.dumps(there), "smollm"), "file")
    assert len(ids(found, "1234")) < len(ids(digits, "1234")) == 4


@pytest.mark.slow
def test_qwens_tokenizer_is_the_same():
    if not QWEN3.is_file():
        pytest.skip("shared/tokenizers/qwen3/tokenizer.json is not there")
    text = QWEN3.read_text(encoding="utf-8")
    found, original = text_tokenizer(fields_of(text, "qwen2"), "file"), TextTokenizer.from_json(text)
    for word in TEXT.split():
        assert found.encode_word(word) == original.encode_word(word)
    assert found.base_vocab_size == original.base_vocab_size


def test_a_sentencepiece_bpe_merges_by_its_scores():
    tokens = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [UNKNOWN, CONTROL, *[BYTE] * 256]
    pieces = ["▁a", "bc", "▁ab", "▁abc", "a", "b", "c", "▁"]
    tokens += pieces
    kinds += [NORMAL] * len(pieces)
    scores = [0.0] * 258 + [-float(i) for i in range(len(pieces))]
    made = {"model": "llama", "tokens": tokens, "token_type": kinds, "scores": scores}
    found = text_tokenizer({f"tokenizer.ggml.{key}": value for key, value in made.items()}, "file")
    at = lambda text: [tokens[number] for number in ids(found, text)]
    # `▁a` goes before `bc`, which goes before `▁ab`; then there is `▁abc`.
    assert at("abc abb") == ["▁abc", "▁ab", "b"]
    assert at("é") == ["▁", "<0xC3>", "<0xA9>"]
    assert found.decode_word(ids(found, "abc é")) == "abc é"
    with pytest.raises(WeightsError, match="a score for each token"):
        text_tokenizer({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens}, "file")


def test_what_is_not_known_is_refused():
    tokens = {"tokenizer.ggml.tokens": ["a"]}
    assert text_tokenizer({}, "file") is None
    with pytest.raises(WeightsError, match="its tokenizer is damaged"):
        text_tokenizer(tokens | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a b"]}, "file")
    with pytest.raises(WeightsError, match="model is 'bert'; read are 'gpt2' and 'llama'"):
        text_tokenizer(tokens | {"tokenizer.ggml.model": "bert"}, "file")
    with pytest.raises(WeightsError, match=r"pre is 'tekken'; known .* gpt-2, smollm, .*tokenizer\.json beside"):
        text_tokenizer(tokens | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "tekken"}, "file")
