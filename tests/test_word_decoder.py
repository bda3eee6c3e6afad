"""Slots become words with their times, the same for a viewer and for a score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_pipelines.packing import pack_spoken, pack_words
from data_pipelines.schema import Word
from data_pipelines.world import split_phrases
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.evaluation import phrases_in
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.word_decoder import TimedWord, WordDecoder, decode_words
from tests.streaming.scripted_stream import TOKENIZER, script, session

CLOCK = Clock()
PAD, WORD = TOKENIZER.pad_id, TOKENIZER.word_id
RED, CIRCLE, ENTERS, LEFT = range(4)


def byte_pieces() -> TextTokenizer:
    """One token a byte, the space before a word among them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TextTokenizer(tokenizer)


def decoded(slots, delay_steps: int = 0, tokenizer: TextTokenizer = TOKENIZER) -> list[TimedWord]:
    return decode_words(slots, tokenizer, CLOCK, delay_steps)


def test_a_word_is_about_its_mark_less_the_delay_and_said_at_its_last_token():
    assert decoded([PAD] * 6 + [WORD, RED, PAD], delay_steps=4) == [
        TimedWord("red", pytest.approx(0.16), pytest.approx(0.56))
    ]
    assert decoded([WORD, RED], delay_steps=4) == [TimedWord("red", 0.0, pytest.approx(0.08))]  # none before the start


def test_a_word_is_known_at_the_next_pad_or_mark_and_not_before():
    assert not TOKENIZER.whole_words
    decoder = WordDecoder(TOKENIZER, 0.0)
    pushed = [decoder.push(slot, 0.0) for slot in [WORD, RED, WORD, CIRCLE, PAD, PAD]]
    assert [word and word.text for word in pushed] == [None, None, "red", None, "circle", None]
    assert decoder.flush() is None


def test_a_word_is_known_at_its_token_where_no_token_can_go_on():
    words = TextTokenizer.word_level(["red", "circle", "enters", "left"])
    assert words.whole_words
    assert not byte_pieces().whole_words
    decoder = WordDecoder(words, 0.0)
    slots = [words.word_id, RED, words.word_id, CIRCLE, words.pad_id, LEFT]
    pushed = [decoder.push(slot, 0.0) for slot in slots]
    assert [word and word.text for word in pushed] == [None, "red", None, "circle", None, "left"]
    assert decoder.flush() is None


def test_what_only_a_model_says():
    assert decoded([WORD, WORD, PAD, WORD, PAD]) == []
    assert [w.text for w in decoded([RED, CIRCLE, LEFT, PAD, LEFT])] == ["red", "circle", "left", "left"]
    assert [w.text for w in decoded([TOKENIZER.start_id, WORD, PAD, RED])] == ["red"]
    bytes_only = byte_pieces()
    endless = decoded([bytes_only.word_id] + bytes_only.encode_word("x")[-1:] * 200, tokenizer=bytes_only)
    assert "".join(word.text for word in endless) == "x" * 200
    assert max(len(word.text) for word in endless) <= 32


@given(st.lists(st.tuples(st.text("abß€", min_size=1, max_size=4), st.floats(0, 20)), max_size=12), st.integers(0, 4))
def test_what_was_packed_comes_back_word_by_word(said: list[tuple[str, float]], delay_steps: int):
    tokenizer = byte_pieces()
    said = sorted(said, key=lambda word: word[1])
    encoded = [(tokenizer.encode_word(text), start_s) for text, start_s in said]
    packed = pack_words(encoded, CLOCK, 1000, tokenizer.pad_id, tokenizer.word_id)
    late = np.concatenate([np.full(delay_steps, tokenizer.pad_id), packed.slots])
    words = decoded(late, delay_steps, tokenizer)
    marks = np.flatnonzero(packed.slots == tokenizer.word_id).tolist()
    assert [w.text for w in words] == [text for text, _ in said]
    assert [w.t_video_s for w in words] == pytest.approx([CLOCK.step_time_s(mark) for mark in marks])
    last = [CLOCK.step_time_s(mark + len(ids) + delay_steps) for mark, (ids, _) in zip(marks, encoded)]
    assert [w.t_emit_s for w in words] == pytest.approx(last)


@pytest.mark.parametrize("left_out", range(4))
def test_a_score_is_of_what_a_viewer_sees_where_a_mark_is_missing(left_out: int):
    slots = script({2: "red", 4: "circle", 6: "enters", 8: "left", 20: "red", 22: "circle", 24: "left"}, 32)
    slots[2 + 2 * left_out] = PAD
    live = session(slots)
    frame = np.zeros((*live.frame_px, 3), np.uint8)
    viewer = [word for k in range(16) for word in live.tick(CLOCK.tick_time_s(k), frame).words] + live.finish()
    scored = []
    phrases = phrases_in(slots, TOKENIZER, CLOCK, lambda words: scored.extend(words) or split_phrases(words))
    assert scored == [(word.text, pytest.approx(word.t_emit_s)) for word in viewer]
    assert [word.text for word in viewer[:4]] == ["red", "circle", "enters", "left"]
    assert phrases[0].attributes == ("enters", "red circle", "left")


def test_an_end_closes_the_sentence_of_the_word_before_it():
    ended = TOKENIZER.with_sentence_ends()
    end = ended.end_id
    words = decoded([WORD, RED, WORD, CIRCLE, end, WORD, LEFT, PAD, end, end, WORD, RED], tokenizer=ended)
    # One that comes late, or twice, or with nothing before it, says nothing.
    assert [(word.text, word.ends_sentence) for word in words] == [
        ("red", False), ("circle", True), ("left", False), ("red", False)
    ]  # fmt: skip
    assert [word.ends_sentence for word in decoded([WORD, RED, WORD, CIRCLE])] == [None, None]


@pytest.mark.parametrize("words", [TextTokenizer.word_level(["red", "circle", "enters", "left"]), byte_pieces()])
@given(data=st.data())
def test_words_and_their_times_are_the_same_with_and_without_sentence_ends(words, data):
    times_s = sorted(data.draw(st.lists(st.floats(0, 20), max_size=12)))
    said = [
        Word(
            data.draw(st.sampled_from(["red", "circle", "enters", "left"])), t_s, ends_sentence=data.draw(st.booleans())
        )
        for t_s in times_s
    ]
    ended = words.with_sentence_ends()
    slots = {t: pack_spoken(said, t, CLOCK, 400).packed.slots for t in (words, ended)}
    without, with_ends = (decode_words(slots[t], t, CLOCK, 3) for t in (words, ended))
    assert [word[:3] for word in with_ends] == [word[:3] for word in without]
    assert all(word.ends_sentence is None for word in without)
    for word, told in zip(with_ends, said, strict=True):
        assert not word.ends_sentence or told.ends_sentence
    # Only where the next word stood at once behind it does a sentence's end give way.
    marks = np.flatnonzero(slots[ended] == ended.word_id).tolist()
    for k, told in enumerate(said):
        after = marks[k] + 1 + len(words.encode_word(told.text))
        assert with_ends[k].ends_sentence == (told.ends_sentence and after not in marks)


def test_with_ends_a_word_is_known_at_the_next_slot():
    """As in every vocabulary whose tokens may go on: a viewer sees it then, with the time of its last token."""
    words = TextTokenizer.word_level(["red", "circle", "enters", "left"]).with_sentence_ends()
    assert words.whole_words
    decoder = WordDecoder(words, 0.0)
    slots = [words.word_id, RED, words.end_id, CIRCLE, LEFT, words.pad_id]
    pushed = [decoder.push(slot, 0.08 * step) for step, slot in enumerate(slots)]
    assert [word and word.text for word in pushed] == [None, None, "red", None, "circle", "left"]
    assert pushed[2].t_emit_s == pytest.approx(0.08)
