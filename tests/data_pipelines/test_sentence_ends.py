"""Where sentences end: in real transcripts, in the world, in records and in samples."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.flip import flip_record
from data_pipelines.packing import pack_spoken
from data_pipelines.schema import Record, Word, decode_record, encode_record
from data_pipelines.sources.world import WorldSource
from data_pipelines.windows import Window, words_of
from data_pipelines.words import spread, with_sentence_ends
from data_pipelines.world import WorldConfig, split_phrases
from data_pipelines.world.commentator import lexicon
from mmduplex_jax.clock import Clock
from mmduplex_jax.text_tokenizer import TextTokenizer


def ended(text: str) -> list[str]:
    """The last words of the sentences in a text that is said without a pause."""
    return [word.text for word in with_sentence_ends(spread(text.split(), 0.0, 10.0)) if word.ends_sentence]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("A man walks in. He sits down! Does he? Yes…", ["in.", "down!", "he?", "Yes…"]),
        ('He said "Stop." Then "Go!" and left', ['"Stop."']),  # "Go!" goes on
        ("Dr. Who and J. Smith, e.g. in the U.S. army.", ["army."]),
        ("we meet Dr. Who", ["Who"]),  # no sentence is closed, so its end does
        ("well... I mean... then 3.5 of them.", ["well...", "them."]),
        ("走了。 他 来。", ["走了。", "来。"]),
        ("no stop at all", ["all"]),
        ("It ends (at last). Then", ["last)."]),
        ("all in lower case. as some write. it", ["case.", "write."]),
    ],
)
def test_punctuation_ends_sentences(text, ends):
    assert ended(text) == ends


def test_where_there_is_no_punctuation_a_second_of_silence_does():
    words = [Word("so", 0.0, 0.3), Word("then", 0.5, 0.8), Word("we", 1.8, 2.0), Word("go", 2.2), Word("on", 3.5)]
    assert [word.ends_sentence for word in with_sentence_ends(words)] == [False, True, False, True, True]
    # (Of "go" only the begin is known: it is taken to last 0.3 s.)
    punctuated = [*words[:1], dataclasses.replace(words[1], text="then."), *words[2:]]  # and "we" in lower case
    assert [word.ends_sentence for word in with_sentence_ends(punctuated)] == [False, True, False, False, False]
    assert with_sentence_ends([]) == ()
    # What a source knows (a teacher that narrates) is not guessed again.
    known = tuple(dataclasses.replace(word, ends_sentence=word.text == "so") for word in words)
    assert with_sentence_ends(known) == known


def test_a_subtitle_line_ends_a_sentence_only_where_it_is_closed():
    lines = spread(["a", "man", "walks"], 0.0, 1.0) + spread(["into", "the", "yard.", "Then"], 1.0, 2.0)
    assert [word.text for word in with_sentence_ends(lines) if word.ends_sentence] == ["yard."]


def test_ends_stay_with_their_words():
    words = (Word("left", 1.0, 1.2), Word("out.", 1.5, None, ends_sentence=True))
    record = Record("k", np.zeros((25, 16, 16, 3), np.uint8), Clock(), words)
    back = decode_record(encode_record(record))
    assert back.words == words
    assert [word.ends_sentence for word in flip_record(record).words] == [False, True]
    assert [word.ends_sentence for word in words_of(words, Window(0, 0.5, 4.0))] == [False, True]
    # Records without ends are the bytes that they were before there were any.
    plain = dataclasses.replace(record, words=(words[0],))
    assert b"\x93\xa4left" in encode_record(plain)  # a list of three


def test_the_worlds_phrases_are_sentences():
    (item,) = WorldSource(WorldConfig(look="rich"), 3, 1).items(0, 1)
    words = item.content.words
    ends = [k for k, word in enumerate(words) if word.ends_sentence]
    lengths = [len(text.split()) for _, _, text in split_phrases([(word.text, word.start_s) for word in words])]
    assert ends == (np.cumsum(lengths) - 1).tolist()
    tokenizer = TextTokenizer.word_level(lexicon()).with_sentence_ends()
    slots = pack_spoken(words, tokenizer, item.content.clock, 150).packed.slots
    assert (slots == tokenizer.end_id).sum() == len(ends)  # words are unhurried, so that none has to give way
