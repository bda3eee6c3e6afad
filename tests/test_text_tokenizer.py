"""Text ids, the marks behind them, and a real byte-level BPE."""

import json
import pickle

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mmduplex_jax.text_tokenizer import END_TOKEN, TextTokenizer, UnknownWordError

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


# Words as they stand in running text, with every kind of tokenizer

SENTENCE = ["the", "Red", "block", "moves,", "right!", "naïve", "again"]
CORPUS = [" ".join(SENTENCE), "the red blocks move right again and again", "a b c d e f g", "naive x y z ? ."] * 3
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
GPT_SPLIT = Regex(r"'s|[\p{L}]+| ?[\p{L}]+| ?[^\s\p{L}]+|\s+")


def trained(model, trainer, normalizer=None, pre_tokenizer=None, decoder=None):
    tokenizer = Tokenizer(model)
    for name, value in (("normalizer", normalizer), ("pre_tokenizer", pre_tokenizer), ("decoder", decoder)):
        if value is not None:
            setattr(tokenizer, name, value)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def bpe(*, unk=None, alphabet=(), trainer=None, **parts):
    model = models.BPE(unk_token=unk, **(trainer or {}))
    special = [unk] if unk else []
    options = {"initial_alphabet": list(alphabet), "show_progress": False, "special_tokens": special, **(trainer or {})}
    return trained(model, trainers.BpeTrainer(vocab_size=400, **options), **parts)


def llama():
    """Words are cut at spaces only while the merges are learned; later all of a text is one piece."""
    fields = json.loads(bpe(unk="<unk>", pre_tokenizer=pre_tokenizers.Metaspace()).to_str())
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Prepend", "prepend": "▁"}
    fields |= {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": [prepend, spaces]}}
    return Tokenizer.from_str(json.dumps(fields))


KINDS = {
    "Llama 2: Prepend": llama,
    "Metaspace always": lambda: bpe(unk="<unk>", pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always")),
    "Metaspace first": lambda: bpe(unk="<unk>", pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first")),
    "Metaspace never": lambda: bpe(unk="<unk>", pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="never")),
    "ByteLevel": lambda: bpe(alphabet=BYTES, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "ByteLevel with a space before": lambda: bpe(
        alphabet=BYTES, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)
    ),
    "ByteLevel behind a split": lambda: bpe(
        alphabet=BYTES,
        normalizer=normalizers.NFC(),
        pre_tokenizer=pre_tokenizers.Sequence(
            [pre_tokenizers.Split(GPT_SPLIT, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        ),
    ),
    "CLIP: ends of words": lambda: bpe(
        unk="<unk>",
        trainer={"end_of_word_suffix": "</w>"},
        normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]),
        pre_tokenizer=pre_tokenizers.Whitespace(),
    ),
    "BERT: WordPiece": lambda: trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]"], show_progress=False),
        normalizer=normalizers.BertNormalizer(),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
    ),
    "T5: Unigram": lambda: trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=80, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False),
        normalizer=normalizers.NFKC(),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    ),
    "WordLevel": lambda: trained(
        models.WordLevel(unk_token="[UNK]"),
        trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False),
        pre_tokenizer=pre_tokenizers.Whitespace(),
    ),
    "Strip": lambda: bpe(
        unk="<unk>",
        normalizer=normalizers.Strip(),
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_of_a_sentence_have_the_sentences_ids(kind):
    plain = KINDS[kind]()
    tokenizer = TextTokenizer(plain)
    ids = [token for word in SENTENCE for token in tokenizer.encode_word(word)]
    first = plain.encode("again", add_special_tokens=False).ids
    assert ids == plain.encode(" ".join(["again", *SENTENCE]), add_special_tokens=False).ids[len(first) :]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_vocabulary_lacks_is_an_error_and_never_an_unknown_token(kind):
    tokenizer = TextTokenizer(KINDS[kind]())
    if kind.startswith("ByteLevel"):
        assert tokenizer.encode_word("Ωmega")
        return
    for word in ("Ωmega", "redΩ", "🙂"):
        with pytest.raises(UnknownWordError, match=word):
            tokenizer.encode_word(word)


def test_characters_that_a_tokenizer_would_drop_are_unknown():
    tokenizer = TextTokenizer(bpe(pre_tokenizer=pre_tokenizers.Metaspace(), decoder=decoders.Metaspace()))
    assert tokenizer.decode_word(tokenizer.encode_word("again")) == "again"
    with pytest.raises(UnknownWordError, match="cannot spell 'aΩgain': it leaves characters out"):
        tokenizer.encode_word("aΩgain")


def test_a_mark_of_byte_order_and_a_pointer_of_git_lfs(tmp_path):
    (tmp_path / "tokenizer.json").write_text("\ufeff" + TextTokenizer.word_level(WORDS).to_json(), encoding="utf-8")
    assert TextTokenizer.from_file(tmp_path / "tokenizer.json") == TextTokenizer.word_level(WORDS)
    (tmp_path / "pointer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(ValueError, match=r"pointer.json: is a Git-LFS pointer, not the file itself.*git lfs pull"):
        TextTokenizer.from_file(tmp_path / "pointer.json")


def test_a_small_bpe_of_words_spells_everything():
    counts = {"red": 500, "circle": 400, "enters": 300, "naïve": 1}
    tokenizer = TextTokenizer.train_bpe(counts, 300)
    assert [len(tokenizer.encode_word(word)) for word in ("red", "circle", "enters")] == [1, 1, 1]
    assert tokenizer.base_vocab_size <= 300
    for word in ("naïve", "Ωmega🙂", "日本"):
        assert tokenizer.decode_word(tokenizer.encode_word(word)) == word
    assert TextTokenizer.train_bpe(dict(reversed(counts.items())), 300) == tokenizer
    with pytest.raises(ValueError, match="at least 256 tokens"):
        TextTokenizer.train_bpe(counts, 255)


@pytest.mark.parametrize(
    "words", [TextTokenizer.word_level(["red", "circle"]), TextTokenizer.train_bpe({"red": 3, "circle": 2}, 280)]
)
def test_a_mark_of_sentence_ends_moves_no_other_id(words: TextTokenizer, tmp_path):
    assert words.end_id is None
    ended = words.with_sentence_ends()
    assert (ended.base_vocab_size, ended.pad_id, ended.word_id, ended.start_id) == (
        words.base_vocab_size, words.pad_id, words.word_id, words.start_id
    )  # fmt: skip
    assert ended.end_id == words.vocab_size
    assert ended.vocab_size == words.vocab_size + 1
    assert ended.marks == words.marks | {ended.end_id}
    assert ended.encode_word("circle") == words.encode_word("circle")
    assert ended.whole_words == words.whole_words
    # It is in the file, for every reader.
    ended.save(tmp_path / "tokenizer.json")
    assert END_TOKEN in (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    for copy in (TextTokenizer.from_file(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(ended))):
        assert copy == ended
        assert copy.end_id == ended.end_id
    assert ended.with_sentence_ends() is ended
    assert ended.without_sentence_ends() == words
    assert words.without_sentence_ends() is words


def test_a_text_that_quotes_the_mark_is_text():
    words = TextTokenizer.train_bpe({"red": 3}, 280).with_sentence_ends()
    ids = words.encode_word(END_TOKEN)
    assert words.marks.isdisjoint(ids)
    assert words.decode_word(ids) == END_TOKEN
    with pytest.raises(ValueError, match="is no text"):
        words.decode_word([words.end_id])
