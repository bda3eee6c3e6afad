"""Text tokens and the marks of a text stream: PAD, WORD and START, and END of a sentence where a vocabulary has it.

Any `tokenizer.json` of the Hugging Face `tokenizers` library serves. The marks take the ids right after the base
vocabulary, so no id of an imported language model moves and its embedding table only grows at the end. A file whose
added tokens hold `END_TOKEN` has the mark END, the last one, so that it moves none of the others.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Encoding, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

MARKS = 3  # that every vocabulary has
# What stands for END in a tokenizer.json, among its added tokens.
END_TOKEN = "<|sentence_end|>"
_GIT_LFS_HEAD = "version https://git-lfs"
# Words that may stand before another one to see how that is written in running text.
_ANCHORS = ("a", "the", "1", ".", "x")
_MOST_ANCHORS = 4
_WORDS_CACHED = 1 << 16
# More occurrences of words than these do not change which pairs of bytes are merged first, and cost time.
_MOST_OCCURRENCES = 1_000_000
_SMALLEST_BPE, _LARGEST_BPE = 512, 16_384
# Tokens a word of ordinary commentary. The text stream has 12.5 steps a second, of which a word takes one more.
_FEW_TOKENS = 1.3


class UnknownWordError(ValueError):
    """A word that the vocabulary cannot spell."""


class TextTokenizer:
    """Words to token ids and back, with marks after the base vocabulary.

    Attributes:
      base_vocab_size: one more than the largest id of the wrapped tokenizer, its added tokens included (an id may be
        unused in between; the embedding table of a language model counts the same way).
      pad_id: the slot in which nothing is said.
      word_id: the slot before a word's tokens.
      start_id: what the text stream is fed before its first slot.
      end_id: the slot after the last token of a sentence; None in a vocabulary without the mark.
      vocab_size: ids that an embedding table needs.
      whole_words: every token is a word: none can go on.
    """

    def __init__(self, tokenizer: Tokenizer):
        # Through JSON: a truncation or padding that the caller keeps for other uses must not cut or pad words here.
        self._tokenizer, has_end = _without_end(tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # A subtitle that quotes "<|im_end|>" is text, not a command to the language model.
        self._tokenizer.encode_special_tokens = True
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise ValueError("a text tokenizer needs at least one token, this one's vocabulary is empty")
        self.base_vocab_size = max(vocabulary.values()) + 1
        self.pad_id = self.base_vocab_size
        self.word_id = self.base_vocab_size + 1
        self.start_id = self.base_vocab_size + 2
        self.end_id = self.base_vocab_size + MARKS if has_end else None
        self.vocab_size = self.base_vocab_size + MARKS + has_end
        # (Another splitter may cut a word before the vocabulary is asked.)
        splits = isinstance(self._tokenizer.pre_tokenizer, WhitespaceSplit)
        self.whole_words = splits and isinstance(self._tokenizer.model, WordLevel)
        self._unknown_id = self._find_unknown_id()
        # What comes out with characters missing is unknown too, in models that drop them for want of such a token.
        model = self._tokenizer.model
        self._drops = isinstance(model, BPE) and self._unknown_id is None and not model.byte_fallback
        self._anchors = () if self.whole_words else self._find_anchors(vocabulary)
        self._ids_of = functools.lru_cache(maxsize=_WORDS_CACHED)(self._encode_word)

    @classmethod
    def from_file(cls, path: str | Path) -> "TextTokenizer":
        """Reads a `tokenizer.json`.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is not a tokenizer.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer file at {path}: name a tokenizer.json of the tokenizers library")
        try:
            text = path.read_text(encoding="utf-8-sig")
            if text.startswith(_GIT_LFS_HEAD):
                raise ValueError("is a Git-LFS pointer, not the file itself: fetch it with `git lfs pull`")
            return cls.from_json(text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> "TextTokenizer":
        """Reads what `to_json` wrote, or the text of any `tokenizer.json`; ValueError where it is neither."""
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a tokenizer: no JSON ({error})") from error
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"not a tokenizer that the tokenizers library reads: {error}") from error
        return cls(tokenizer)

    @classmethod
    def word_level(cls, words: Sequence[str]) -> "TextTokenizer":
        """One token a word, ids in the order given.

        Raises:
          ValueError: a word is empty, holds white space or comes twice.
        """
        vocabulary: dict[str, int] = {}
        for word in words:
            if not word or word.split() != [word]:
                raise ValueError(f"a word of a word-level vocabulary is one run of visible characters, got {word!r}")
            if word in vocabulary:
                raise ValueError(f"the word {word!r} comes twice in the vocabulary")
            vocabulary[word] = len(vocabulary)
        # `unk_token` must name something; a name that is not in the vocabulary makes an unknown word an error.
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unknown word>"))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        return cls(tokenizer)

    @classmethod
    def train_bpe(cls, counts: Mapping[str, int], size: int) -> "TextTokenizer":
        """A byte-level BPE of words: it spells any text, and what is frequent in few tokens.

        Args:
          counts: how often each word comes.
          size: of the vocabulary at most: 256 bytes, and a merge for each further token that the words have need of.

        Raises:
          ValueError: there are no words, or no room for the bytes.
        """
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        if size < len(alphabet) or not counts:
            raise ValueError(f"a byte-level BPE has at least {len(alphabet)} tokens and needs words, got size={size}")
        share = min(1.0, _MOST_OCCURRENCES / sum(counts.values()))
        tokenizer = Tokenizer(BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=sorted(alphabet), show_progress=False, min_frequency=2
        )
        words = (f" {word}" for word, count in sorted(counts.items()) for _ in range(max(1, round(count * share))))
        tokenizer.train_from_iterator(words, trainer)
        return cls(tokenizer)

    @property
    def marks(self) -> frozenset[int]:
        """Every id that is no text."""
        return frozenset(range(self.base_vocab_size, self.vocab_size))

    def with_sentence_ends(self) -> "TextTokenizer":
        """The same with the mark END."""
        return self if self.end_id is not None else TextTokenizer(_with_end(self._tokenizer))

    def without_sentence_ends(self) -> "TextTokenizer":
        """The same without the mark END; all ids that are left are what they were."""
        return self if self.end_id is None else TextTokenizer(self._tokenizer)

    def to_json(self) -> str:
        """The base tokenizer as the text of a `tokenizer.json`, with `END_TOKEN` where it has that mark."""
        return (self._tokenizer if self.end_id is None else _with_end(self._tokenizer)).to_str()

    def save(self, path: str | Path) -> None:
        """Writes a `tokenizer.json` that `from_file`, and any other user of the library, reads."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def encode_word(self, text: str) -> list[int]:
        """The ids of one word, as it stands in running text, behind another word.

        Raises:
          ValueError: the word is blank.
          UnknownWordError: the vocabulary cannot spell it, or only with its token for what is unknown.
        """
        stripped = text.strip()
        if not stripped:
            raise ValueError(f"a word needs a visible character, got {text!r}")
        return list(self._ids_of(stripped))

    def _encode_word(self, word: str) -> tuple[int, ...]:
        ids = self._in_running_text(word)
        if not ids:
            raise UnknownWordError(f"the tokenizer turns {word!r} into no token at all, it would be lost")
        if self._unknown_id in ids:
            raise UnknownWordError(f"the tokenizer cannot spell {word!r}: a part of it is unknown to the vocabulary")
        if self._drops and self._drops_of(word):
            raise UnknownWordError(f"the tokenizer cannot spell {word!r}: it leaves characters out")
        return ids

    def _in_running_text(self, word: str) -> tuple[int, ...]:
        """The ids of a word behind another one.

        Behind a word, because what a beginning looks like differs: some tokenizers put a space before a text, some
        normalise its spaces away, some mark words that have none before them.
        """
        if not self._anchors:
            return tuple(self._encode(word).ids)
        for anchor, ids in self._anchors:
            both = tuple(self._encode(f"{anchor} {word}").ids)
            if both[: len(ids)] == ids:
                return both[len(ids) :]
        raise UnknownWordError(f"the tokenizer joins {word!r} with the word before it: it has no ids of its own")

    def _encode(self, text: str) -> Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise UnknownWordError(f"the tokenizer cannot spell {text!r}: {error}") from error

    def _drops_of(self, text: str) -> bool:
        """Whether the tokens of a text hold fewer characters than the pieces that they are made of."""
        normalizer, splitter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        shown = text if normalizer is None else normalizer.normalize_str(text)
        pieces = [shown] if splitter is None else [piece for piece, _ in splitter.pre_tokenize_str(shown)]
        model: Any = self._tokenizer.model
        prefix, suffix = model.continuing_subword_prefix or "", model.end_of_word_suffix or ""
        tokens = [token.removeprefix(prefix).removesuffix(suffix) for token in self._encode(text).tokens]
        return sum(map(len, tokens)) < sum(map(len, pieces))

    def _find_unknown_id(self) -> int | None:
        model = json.loads(self._tokenizer.to_str())["model"]
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        return self._tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None

    def _find_anchors(self, vocabulary: Mapping[str, int]) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Words with their ids, behind which another word leaves these as they are."""
        found: list[tuple[str, tuple[int, ...]]] = []
        texts = (self._tokenizer.decode([token]).strip() for _, token in sorted(vocabulary.items()))
        for anchor in (*_ANCHORS, *(text for text in texts if text.isalnum())):
            try:
                ids = tuple(self._encode(anchor).ids)
                twice = tuple(self._encode(f"{anchor} {anchor}").ids)
            except UnknownWordError:
                continue
            if ids and self._unknown_id not in ids and twice[: len(ids)] == ids and len(twice) > len(ids):
                found.append((anchor, ids))
                if len(found) == _MOST_ANCHORS:
                    break
        if not found:
            raise ValueError("the tokenizer has no word that stays as it is when another one follows it")
        return tuple(found)

    def decode_word(self, ids: Sequence[int]) -> str:
        """The text of one word's ids, stripped.

        Raises:
          ValueError: an id is a mark or lies outside the base vocabulary.
        """
        for token in ids:
            if not 0 <= token < self.base_vocab_size:
                raise ValueError(f"id {token} is no text: text ids are 0..{self.base_vocab_size - 1}, marks follow")
        return self._tokenizer.decode([int(token) for token in ids], skip_special_tokens=False).strip()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextTokenizer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes of the loader get it by pickle.
        return (TextTokenizer.from_json, (self.to_json(),))


def _with_end(tokenizer: Tokenizer) -> Tokenizer:
    """A copy with `END_TOKEN` among its added tokens."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.add_special_tokens([AddedToken(END_TOKEN, special=True, normalized=False)])
    return copy


def _without_end(tokenizer: Tokenizer) -> tuple[Tokenizer, bool]:
    """A copy without `END_TOKEN`, and whether it was there."""
    text = tokenizer.to_str()
    if tokenizer.token_to_id(END_TOKEN) is None:
        return Tokenizer.from_str(text), False
    fields = json.loads(text)
    fields["added_tokens"] = [token for token in fields["added_tokens"] if token["content"] != END_TOKEN]
    return Tokenizer.from_str(json.dumps(fields)), True


class BpeSize(NamedTuple):
    """A byte-level BPE that could be made of some words, and how many of its tokens a word takes on average."""

    size: int
    tokens_a_word: float


def bpe_sizes(counts: Mapping[str, int]) -> list[BpeSize]:
    """What vocabularies of twice and twice the size would bring, until the words ask for no more."""
    fields = json.loads(TextTokenizer.train_bpe(counts, _LARGEST_BPE).to_json())
    vocabulary, merges = fields["model"]["vocab"], fields["model"]["merges"]
    sizes: list[BpeSize] = []
    size = _SMALLEST_BPE
    while True:
        size = min(size, len(vocabulary))
        fields["model"]["vocab"] = {token: number for token, number in vocabulary.items() if number < size}
        fields["model"]["merges"] = [pair for pair in merges if vocabulary["".join(pair)] < size]
        tokenizer = TextTokenizer.from_json(json.dumps(fields))
        tokens = sum(count * len(tokenizer.encode_word(word)) for word, count in counts.items())
        sizes.append(BpeSize(size, tokens / sum(counts.values())))
        if size == len(vocabulary):
            return sizes
        size *= 2


def advised_size(sizes: Sequence[BpeSize]) -> int:
    """The smallest with which a word takes few tokens: every token more is a step that speech falls behind."""
    return next((one.size for one in sizes if one.tokens_a_word <= _FEW_TOKENS), sizes[-1].size)
