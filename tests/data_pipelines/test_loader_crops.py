"""Long records are seen in pieces, chosen by (seed, k); slots that nobody can know are not valid."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.loader import make_loader
from data_pipelines.packing import pack_spoken, pack_words
from data_pipelines.samples import NO_CODE, NO_RECORD, CodeShape, Pieces, SampleMaker, codes_of, survey_words, things_of
from data_pipelines.schema import Codes, Record, Thing, Word
from data_pipelines.shards import open_dataset, write_shards
from data_pipelines.sources import Item
from mmduplex_jax.clock import Clock
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests.data_pipelines.conftest import WORDS
from tests.data_pipelines.records_in_memory import Records
from tests.data_pipelines.small_records import SmallSource, make_record

TOKENIZER = TextTokenizer.word_level(WORDS)
PAD, WORD = TOKENIZER.pad_id, TOKENIZER.word_id


def numbered(ticks, words=(), **fields):
    """A record whose frame of tick t is t everywhere."""
    frames = np.broadcast_to(np.arange(ticks, dtype=np.uint8)[:, None, None, None], (ticks, 16, 16, 3))
    return Record(key="numbered", frames=frames, clock=Clock(), words=tuple(words), **fields)


def sample_of(record, num_ticks, position, seed=0, tokenizer=TOKENIZER, **fields):
    pieces = Pieces(Records([record]), num_ticks, flip=False, seed=seed, **fields)
    return SampleMaker(pieces, tokenizer, with_lag=True)(position, 0)


def test_every_piece_of_a_long_record_is_seen():
    record = numbered(9)
    begins = []
    for position in range(200):
        frames = sample_of(record, 6, position)["frames"][:, 0, 0, 0]
        assert frames.tolist() == list(range(frames[0], frames[0] + 6))
        begins.append(int(frames[0]))
    assert set(begins) == {0, 1, 2, 3}
    assert min(begins.count(begin) for begin in range(4)) > 25  # 50 each, give or take four deviations of 6
    # A function of seed and position, and of nothing before.
    assert int(sample_of(record, 6, 17)["frames"][0, 0, 0, 0]) == begins[17]
    others = [int(sample_of(record, 6, position, seed=1)["frames"][0, 0, 0, 0]) for position in range(200)]
    assert others != begins


def piece_beginning_at(record, num_ticks, tick):
    """The first sample that begins there."""
    samples = (sample_of(record, num_ticks, position) for position in range(500))
    return next(sample for sample in samples if sample["frames"][0, 0, 0, 0] == tick)


def test_a_word_that_has_begun_is_left_out_and_nobody_knows_its_slots():
    # Steps last 0.08 s, ticks two steps. At step 3 "red" (slots 3, 4); at 4 "circle", which waits (5, 6); at 8 "left".
    record = numbered(9, [Word("red", 0.24), Word("circle", 0.32), Word("left", 0.64)])
    whole = sample_of(record, 9, 0)
    assert whole["slots"].tolist() == [PAD, PAD, PAD, WORD, 0, WORD, 1, PAD, WORD, 3, *[PAD] * 8]
    assert whole["slot_valid"].all()
    assert whole["max_lag_s"] == pytest.approx(0.08)
    # Cut at step 4, in the middle of "red": "circle" begins at step 4 and is kept where it is.
    cut = piece_beginning_at(record, 6, 2)
    assert cut["slots"].tolist() == [PAD, WORD, 1, PAD, WORD, 3, *[PAD] * 6]
    assert cut["slot_valid"].tolist() == [False] + [True] * 11
    assert cut["max_lag_s"] == pytest.approx(0.08)
    # Cut at step 6: "circle" began before, its last slot is not valid.
    cut = piece_beginning_at(record, 6, 3)
    assert cut["slots"].tolist() == [PAD, PAD, WORD, 3, *[PAD] * 8]
    assert cut["slot_valid"].tolist() == [False] + [True] * 11
    assert cut["max_lag_s"] == 0


def test_a_word_that_waits_over_the_cut_began_before_it():
    # Five words at once take steps 0 to 9; the cut at step 6 falls before the mark of the fourth.
    record = numbered(9, [Word("red", 0.0) for _ in range(5)])
    cut = piece_beginning_at(record, 6, 3)
    assert (cut["slots"] == PAD).all()
    assert cut["slot_valid"].tolist() == [False] * 4 + [True] * 8


def test_what_an_earlier_window_says_is_not_valid():
    record = numbered(6, [Word("left", 0.5)], words_from_s=0.4)
    sample = sample_of(record, 6, 0)
    assert sample["slot_valid"].tolist() == [False] * 5 + [True] * 7
    assert sample["slots"].tolist() == [*[PAD] * 6, WORD, 3, *[PAD] * 4]
    # In a piece too, and together with what lies behind the end of a short record.
    cut = piece_beginning_at(numbered(9, [Word("left", 0.5)], words_from_s=0.4), 6, 1)
    assert cut["slot_valid"].tolist() == [False] * 3 + [True] * 9
    short = sample_of(record, 8, 0)
    assert short["slot_valid"].tolist() == [False] * 5 + [True] * 7 + [False] * 4
    assert not short["frames"][6:].any()
    # Of the step from 0.40 to 0.48 s the first half is an earlier window's: silence in it is not known, a word is.
    silent = sample_of(numbered(6, [Word("left", 0.5)], words_from_s=0.44), 6, 0)
    assert silent["slot_valid"].tolist() == [False] * 6 + [True] * 6
    spoken = sample_of(numbered(6, [Word("left", 0.45)], words_from_s=0.44), 6, 0)
    assert spoken["slot_valid"].tolist() == [False] * 5 + [True] * 7
    assert spoken["slots"].tolist() == [*[PAD] * 5, WORD, 3, *[PAD] * 5]


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 300)), max_size=30),
    st.integers(1, 25),
    st.integers(0, 1000),
)
def test_a_piece_is_the_whole_but_for_words_that_have_begun(words, num_ticks, position):
    """Invariant: where a slot of a piece is valid it holds what the packed record holds there; elsewhere PAD."""
    record = numbered(25, [Word(text, at / 100) for text, at in sorted(words, key=lambda word: word[1])])
    sample = sample_of(record, num_ticks, position)
    begin = 2 * int(sample["frames"][0, 0, 0, 0])
    spelled = [(TOKENIZER.encode_word(word.text), word.start_s) for word in record.words]
    packed = pack_words(spelled, Clock(), 50, PAD, WORD)
    whole, valid = packed.slots[begin : begin + 2 * num_ticks], sample["slot_valid"]
    np.testing.assert_array_equal(sample["slots"][valid], whole[valid])
    assert (sample["slots"][~valid] == PAD).all()
    assert (whole[~valid] != PAD).all()  # silence is known, wherever it is
    marks = [Clock().step_at(word.start_s) + lag for word, lag in zip(record.words, packed.lag_steps.tolist())]
    kept = [
        mark - begin
        for word, mark in zip(record.words, marks)
        if Clock().step_at(word.start_s) >= begin and mark < begin + 2 * num_ticks
    ]
    assert np.flatnonzero(sample["slots"] == WORD).tolist() == kept


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 300), st.booleans()), max_size=20),
    st.integers(1, 25),
    st.integers(0, 1000),
)
def test_a_sentence_end_is_known_where_its_word_is(words, num_ticks, position):
    ended = TOKENIZER.with_sentence_ends()
    words = [Word(text, at / 100, ends_sentence=end) for text, at, end in sorted(words, key=lambda word: word[1])]
    record = numbered(25, words)
    sample, without = (sample_of(record, num_ticks, position, tokenizer=t) for t in (ended, TOKENIZER))
    begin = 2 * int(sample["frames"][0, 0, 0, 0])
    whole = pack_spoken(words, ended, Clock(), 50).packed.slots[begin : begin + 2 * num_ticks]
    valid = sample["slot_valid"]
    np.testing.assert_array_equal(sample["slots"][valid], whole[valid])
    assert (sample["slots"][~valid] == PAD).all()
    np.testing.assert_array_equal(np.where(sample["slots"] == ended.end_id, PAD, sample["slots"]), without["slots"])
    # Besides what is not known without ends, only the ends of words that have begun before are not.
    more = without["slot_valid"] & ~valid
    assert (whole[more] == ended.end_id).all()
    assert more.sum() <= 1


class LongSource:
    """Three records of 20 numbered ticks with motion, of frames too large to share a sheet."""

    clock = Clock()
    flip_safe = True

    def __len__(self):
        return 3

    def describe(self):
        return {"kind": "long"}

    def items(self, begin, end):
        for number in range(begin, end):
            frames = np.repeat(np.repeat(numbered(20).frames * 8, 9, axis=1), 9, axis=2)
            motion = np.ones((20, 4, 4, 4), np.int8)
            yield Item(number, f"{number}", dataclasses.replace(
                numbered(20), key=f"{number}", frames=frames, motion=motion
            ))  # fmt: skip


def test_only_the_piece_is_decoded(tmp_path, monkeypatch):
    import simplejpeg

    write_shards(LongSource(), tmp_path, config={}, units_per_shard=3)
    decoded = []
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *given, **named: decoded.append(1) or decode(*given, **named))
    # Mirrored ones too, though the records have motion fields.
    loader = make_loader(tmp_path, TOKENIZER, batch_size=3, num_ticks=5, flip=True, threads=0)
    batch = next(loader)
    assert len(decoded) == 15
    assert batch["frames"].shape == (3, 5, 144, 144, 3)
    steps = np.diff(batch["frames"].mean(axis=(2, 3, 4)), axis=1)
    np.testing.assert_allclose(steps, 8, atol=1)  # each frame is 8 brighter than the one before; JPEG may round


def test_things_are_those_of_the_ticks_named_by_their_first_token():
    boxes = np.zeros((3, 8, 4), np.float32)
    boxes[0, 5:] = [0, 0, 1, 0.5]
    boxes[1, 2:] = [0, 0, 0.5, 0.5]
    boxes[2] = [0, 0, 0.1, 0.1]
    words = tuple(Thing(noun, box) for noun, box in zip(("left", "red", "zeppelin"), boxes))
    clip = Record("k", np.zeros((8, 4, 4, 3), np.uint8), Clock(), things=words)
    got = things_of(clip, range(4, 8), 6, TOKENIZER)
    spelled = [TOKENIZER.encode_word(noun)[0] for noun in ("red", "left")]
    assert got["things_known"]
    assert sorted(got["thing_ids"][:3].tolist()) == sorted([*spelled, -1])
    number = got["thing_ids"].tolist().index(spelled[1])
    np.testing.assert_array_equal(got["thing_boxes"][:, number], [[0] * 4, *[[0, 0, 1, 0.5]] * 3, [0] * 4, [0] * 4])
    unknown = things_of(None, range(0), 6, TOKENIZER)
    assert not unknown["things_known"]
    assert {name: (a.shape, a.dtype) for name, a in unknown.items()} == {
        name: (a.shape, a.dtype) for name, a in got.items()
    }


def test_codes_are_those_of_the_ticks_beside_the_slots_and_unknown_behind_them():
    values = np.arange(16 * 3, dtype=np.int16).reshape(16, 3)
    sounding = dataclasses.replace(make_record(0, 8), codes=Codes(values, "some codec"))
    records, shape = Records([sounding, make_record(1, 8)]), CodeShape(2, 48)
    sample = lambda number, ticks: SampleMaker(
        Pieces(records, ticks, flip=False, seed=0), TOKENIZER, with_lag=False, codes=shape
    )(number, number)
    longer = sample(0, 10)
    assert longer["codes"].dtype == np.int16
    assert longer["codes"].shape == (*longer["slots"].shape, 2) == (20, 2)
    np.testing.assert_array_equal(longer["codes"][:16], values[:, :2])
    assert (longer["codes"][16:] == NO_CODE).all()
    part = sample(0, 5)["codes"]
    begin = int(part[0, 0]) // 3
    np.testing.assert_array_equal(part, values[begin : begin + 10, :2])
    assert begin % 2 == 0
    assert (sample(1, 10)["codes"] == NO_CODE).all()
    nothing = SampleMaker(Pieces(records, 10, flip=False, seed=0), TOKENIZER, with_lag=False, codes=shape)(0, NO_RECORD)
    assert (nothing["codes"] == NO_CODE).all()
    assert nothing["codes"].shape == (20, 2)
    records.manifest = SimpleNamespace(shards=[SimpleNamespace(size_bytes=1)])
    assert survey_words([records], TOKENIZER).codecs == {"some codec": 1}
    for wrong in (CodeShape(4, 48), CodeShape(2, 47)):
        with pytest.raises(ValueError, match=r"3 codebooks with codes up to 47 .*config\.audio\.codebooks"):
            codes_of(sounding, range(8), 8, sounding.clock, wrong)


def test_words_that_cannot_be_spelled_are_not_learned():
    record = dataclasses.replace(make_record(0, 10), words=(Word("red", 0.0), Word("purple", 0.16), Word("left", 0.4)))
    sample = SampleMaker(Pieces(Records([record]), 10, flip=False, seed=0), TOKENIZER, with_lag=True)(0, 0)
    step = Clock().step_at
    assert np.flatnonzero(~sample["slot_valid"]).tolist() == [step(0.16), step(0.16) + 1]
    assert sample["slots"][step(0.16)] == TOKENIZER.word_id
    assert sample["slots"][step(0.4)] == TOKENIZER.word_id


def test_words_for_which_the_record_ends_too_early_are_counted(tmp_path):
    words = tuple(Word("red", 0.8) for _ in range(4))  # two steps each; the record ends at 0.96 s, step 12
    record = dataclasses.replace(make_record(0, 6), words=words)
    sample = SampleMaker(Pieces(Records([record]), 6, flip=False, seed=0), TOKENIZER, with_lag=True)(0, 0)
    assert (sample["words_cut"], Clock().step_at(0.8)) == (3, 10)

    class Hurried(SmallSource):
        def items(self, begin, end):
            for item in super().items(begin, end):
                yield item._replace(content=dataclasses.replace(item.content, words=(*words, Word("purple", 0.1))))

    write_shards(Hurried(4), tmp_path / "out", config={}, units_per_shard=2)
    survey = survey_words([open_dataset(tmp_path / "out")], TOKENIZER)
    assert (survey.clips, survey.of_clips, survey.words) == (4, 4, 20)
    assert (survey.unknown, survey.unknown_share) == ({"purple": 4}, 0.2)
    assert survey.cut == 4 * 4
    assert survey.max_lag_s > 0.4
    assert survey.lengths_s == [pytest.approx(0.96)] * 4
