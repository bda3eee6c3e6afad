"""Records become pairs of some frames and a text: which frames and words, the same by (seed, k) however loaded."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.loader import make_loader
from data_pipelines.pairs import PairFormat, PairMaker, end_of_text, middle_of, spell, spread_frames, text_of
from data_pipelines.samples import CORRUPT, Pieces
from data_pipelines.schema import Record, Word
from mmduplex_jax.clock import Clock
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests.data_pipelines.conftest import WORDS
from tests.data_pipelines.records_in_memory import Records

TOKENIZER = TextTokenizer.word_level(WORDS)
PAD, END = TOKENIZER.pad_id, end_of_text(TOKENIZER)
# Ticks last 0.16 s: these words begin in the ticks 0, 1, 3 and 5.
SAID = (Word("red", 0.0), Word("circle", 0.24), Word("enters", 0.48), Word("left", 0.9))


def numbered(ticks, words=SAID, **fields):
    """A record whose frame of tick t is t everywhere."""
    frames = np.broadcast_to(np.arange(ticks, dtype=np.uint8)[:, None, None, None], (ticks, 16, 16, 3))
    return Record(key="numbered", frames=frames, clock=Clock(), words=tuple(words), **fields)


def pair_of(record, num_ticks, position=0, frames=3, length=6, flip=False, form=None, **fields):
    form = form or PairFormat(frames, length)
    pieces = Pieces(Records([record]), num_ticks, flip, 0, **fields)
    return PairMaker(pieces, TOKENIZER, form)(position, 0)


@pytest.mark.parametrize(
    ("ticks", "number", "seen"),
    [
        (range(6), 3, [1, 3, 5]),
        (range(4, 10), 2, [5, 8]),
        (range(7), 1, [3]),
        (range(2), 4, [0, 0, 1, 1]),
        (range(5), 5, [0, 1, 2, 3, 4]),
    ],
)
def test_frames_are_spread_over_the_piece(ticks, number, seen):
    assert spread_frames(numbered(12), ticks, number)[:, 0, 0, 0].tolist() == seen


def test_larger_frames_are_shrunk():
    assert spread_frames(numbered(6), range(6), 2, frame_px=8).shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
    ("ticks", "words"),
    [
        (range(7), ["red", "circle", "enters", "left"]),
        (range(1, 5), ["circle", "enters"]),
        (range(4, 5), []),
    ],
)
def test_the_words_are_those_that_begin_in_the_piece(ticks, words):
    assert text_of(numbered(7), ticks, "words") == words
    assert text_of(numbered(7), ticks, "either") == words
    assert text_of(numbered(7), ticks, "caption") == []
    told = numbered(7, caption="right left")
    assert text_of(told, ticks, "either") == text_of(told, ticks, "caption") == ["right", "left"]
    assert text_of(told, ticks, "words") == words


def test_half_a_text_is_none():
    later = numbered(7, words_from_s=0.2)
    assert text_of(later, range(7), "words") == []
    assert text_of(later, range(2, 7), "words") == ["enters", "left"]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["red", "left"], [0, 3, END, PAD]),
        (["red", "left", "circle"], [0, 3, 1, END]),
        (["red", "left", "circle", "right"], [0, 3, 1, END]),
        ([], [PAD] * 4),
    ],
)
def test_a_text_ends_with_its_mark_and_is_padded(words, ids):
    spelled, valid = spell(words, TOKENIZER, 4)
    assert spelled.dtype == np.int32
    assert spelled.tolist() == ids
    assert valid.tolist() == [token != PAD for token in ids]
    assert TOKENIZER.vocab_size - 1 == END  # towers that look at the largest id find it


def test_a_pair_is_of_one_piece():
    record = numbered(9)
    begins = set()
    for position in range(100):
        pair = pair_of(record, 3, position)
        begin = int(pair["frames"][0, 0, 0, 0])
        begins.add(begin)
        assert pair["frames"][:, 0, 0, 0].tolist() == [begin, begin + 1, begin + 2]
        said = text_of(record, range(begin, begin + 3), "words")
        assert pair["ids"].tolist() == spell(said, TOKENIZER, 6)[0].tolist()
        assert pair["id_valid"].any() == bool(said)
        assert pair["index"] == 0
    assert begins == set(range(7))


def test_a_flipped_pair_says_the_other_side():
    columns = np.arange(16, dtype=np.uint8)[:, None]
    record = dataclasses.replace(numbered(6), frames=np.broadcast_to(columns, (6, 16, 16, 3)))
    seen = set()
    for position in range(20):
        pair = pair_of(record, 6, position, flip=True)
        flipped = bool(pair["frames"][0, 0, 0, 0])
        assert pair["ids"][3] == WORDS.index("right" if flipped else "left")
        seen.add(flipped)
    assert seen == {True, False}


# In the ticks 3, 5 and 13 of 20.
TWO_UTTERANCES = (Word("red", 0.5), Word("circle", 0.85), Word("left", 2.1, 2.3))
UTTERED = PairFormat(frames=5, length=4, text="utterance", pause_s=0.5)


@pytest.mark.parametrize(
    ("shift_s", "first", "second"),
    # Begun at 0.5 and 2.1 s; the first middle of a piece of five ticks is tick 2.
    [(0.0, {3}, {13}), (0.4, {2, 3, 4, 5}, {10, 11, 12, 13, 14, 15})],
)
def test_a_pair_is_of_an_utterance_and_what_lies_around_its_begin(shift_s, first, second):
    record = numbered(20, TWO_UTTERANCES)
    form = dataclasses.replace(UTTERED, shift_s=shift_s)
    seen = {("red", "circle"): set(), ("left",): set()}
    for position in range(200):
        pair = pair_of(record, 5, position, form=form)
        middle = int(pair["frames"][2, 0, 0, 0])
        assert pair["frames"][:, 0, 0, 0].tolist() == list(range(middle - 2, middle + 3))
        (said,) = [words for words in seen if pair["ids"].tolist() == spell(words, TOKENIZER, 4)[0].tolist()]
        seen[said].add(middle)
    assert (seen["red", "circle"], seen["left",]) == (first, second)


def test_a_record_without_an_utterance_is_no_pair():
    pair = pair_of(numbered(9, []), 5, form=UTTERED)
    assert pair["frames"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert not pair["id_valid"].any()


def test_frames_that_no_pair_needs_are_not_decoded():
    asked = []

    class Asked(Records):
        def read(self, index, ticks=None):
            asked.append(ticks(self.records[index].num_ticks))
            return super().read(index)

    pieces = Pieces(Asked([numbered(20, TWO_UTTERANCES[2:])]), 5, False, 0)
    PairMaker(pieces, TOKENIZER, UTTERED)(0, 0)
    assert asked == [range(0), range(11, 16)]


def test_the_middle_of_a_record_is_judged():
    record = numbered(20, (*TWO_UTTERANCES, Word("right", 2.85)))
    assert middle_of(record, 5, UTTERED) == (range(11, 16), ["left"])
    assert middle_of(record, 40, UTTERED) == (range(20), ["left"])
    assert middle_of(record, 7, PairFormat(1, 4)) == (range(7, 14), ["left"])
    assert middle_of(numbered(20, []), 5, UTTERED) == (range(8, 13), [])
    with pytest.raises(ValueError, match="one of caption, words, either, not 'utterance'"):
        text_of(record, range(5), "utterance")


def test_words_that_cannot_be_spelled_are_left_out():
    pair = pair_of(numbered(6, [Word("red", 0.1), Word("purple", 0.2), Word("left", 0.3)]), 6)
    assert pair["ids"][:2].tolist() == [WORDS.index("red"), WORDS.index("left")]
    assert not pair_of(numbered(6, [Word("purple", 0.1)]), 6)["id_valid"].any()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": "title"}, "one of caption, words, either, utterance, not 'title'"),
        ({"frames": 0}, "at least 1 frame"),
        ({"length": 1}, "2 tokens"),
        ({"pause_s": 0.0}, "pause_s must be positive"),
        ({"shift_s": -0.1}, "shift_s not negative"),
    ],
)
def test_formats_that_hold_nothing_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        PairFormat(**({"frames": 1, "length": 8} | fields))


FORM = PairFormat(frames=2, length=5)


def test_the_loader_gives_them_whatever_the_number_of_processes(shards, tokenizer):
    load = lambda **given: make_loader(shards, tokenizer, batch_size=4, seed=3, num_ticks=4, pairs=FORM, **given)
    loader = load(flip=True)
    whole = [next(loader) for _ in range(4)]
    assert {name: (array.shape, str(array.dtype)) for name, array in whole[0].items()} == {
        "frames": ((4, 2, 16, 16, 3), "uint8"),
        "ids": ((4, 5), "int32"),
        "id_valid": ((4, 5), "bool"),
        "index": ((4,), "int64"),
    }
    parts = [load(flip=True, process_index=process, process_count=2) for process in range(2)]
    for batch in whole:
        halves = [next(part) for part in parts]
        for name in batch:
            np.testing.assert_array_equal(batch[name], np.concatenate([half[name] for half in halves]))


def test_a_position_goes_on_only_with_the_same_pairs(shards, tokenizer):
    load = lambda pairs: make_loader(shards, tokenizer, batch_size=4, num_ticks=4, pairs=pairs)
    first, again = load(FORM), load(FORM)
    next(first)
    again.set_state(first.get_state())
    one, other = next(first), next(again)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    with pytest.raises(ValueError, match="pairs was"):
        load(PairFormat(frames=2, length=6)).set_state(first.get_state())
    with pytest.raises(ValueError, match="pairs was"):
        load(None).set_state(first.get_state())
    with pytest.raises(ValueError, match="with_lag is about timed words"):
        make_loader(shards, tokenizer, batch_size=4, pairs=FORM, with_lag=True)


def test_a_record_that_cannot_be_read_is_no_pair(shards, tokenizer):
    path = shards / "shard-00001-of-00004.arrayrecord"
    blob = bytearray(path.read_bytes())
    blob[blob.index(b"small/000004") + 60] ^= 1
    path.write_bytes(blob)
    loader = make_loader(
        shards, tokenizer, batch_size=5, shuffle=False, repeat=1, mark_corrupt=True, flip=True, pairs=FORM
    )
    batch = next(loader)
    assert batch["index"].tolist() == [0, 1, 2, 3, CORRUPT - 4]
    assert not batch["frames"][4].any()
    assert not batch["id_valid"][4].any()
    assert (batch["ids"][4] == tokenizer.pad_id).all()
    assert batch["id_valid"][:4].any(axis=1).all()
