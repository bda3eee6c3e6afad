"""Text tokens and the three marks of a text stream: PAD, WORD and START.

Any `tokenizer.json` of the Hugging Face `tokenizers` library serves. The marks take the ids right after the base
vocabulary, so no id of an imported language model moves and its embedding table only grows at the end.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

MARKS = 3


class TextTokenizer:
    """Words to token ids and back, with marks after the base vocabulary.

    Attributes:
      base_vocab_size: one more than the largest id of the wrapped tokenizer, its added tokens included (an id may be
        unused in between; the embedding table of a language model counts the same way).
      pad_id: the slot in which nothing is said.
      word_id: the slot before a word's tokens.
      start_id: what the text stream is fed before its first slot.
      vocab_size: ids that an embedding table needs.
      whole_words: every token is a word: none can go on.
    """

    def __init__(self, tokenizer: Tokenizer):
        # Through JSON: a truncation or padding that the caller keeps for other uses must not cut or pad words here.
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
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
        self.vocab_size = self.base_vocab_size + MARKS
        # (Another splitter may cut a word before the vocabulary is asked.)
        splits = isinstance(self._tokenizer.pre_tokenizer, WhitespaceSplit)
        self.whole_words = splits and isinstance(self._tokenizer.model, WordLevel)

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
            return cls.from_json(path.read_text(encoding="utf-8"))
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

    def to_json(self) -> str:
        """The base tokenizer as the text of a `tokenizer.json`."""
        return self._tokenizer.to_str()

    def save(self, path: str | Path) -> None:
        """Writes a `tokenizer.json` that `from_file`, and any other user of the library, reads."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    def encode_word(self, text: str) -> list[int]:
        """The ids of one word, as it stands in running text (after a space).

        Raises:
          ValueError: the word is blank, or the vocabulary cannot spell it.
        """
        stripped = text.strip()
        if not stripped:
            raise ValueError(f"a word needs a visible character, got {text!r}")
        try:
            ids = self._tokenizer.encode(" " + stripped, add_special_tokens=False).ids
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"the tokenizer cannot spell {text!r}: {error}") from error
        if not ids:
            raise ValueError(f"the tokenizer turns {text!r} into no token at all, it would be lost")
        return ids

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
