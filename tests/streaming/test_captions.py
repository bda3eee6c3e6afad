"""Slots become words with their times, and words captions that can be read back."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_pipelines.packing import pack_words, unpack_slots
from mmduplex_jax.clock import Clock
from mmduplex_jax.streaming.captions import CaptionFile, TimedWord, WordAssembler, read_captions
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests.streaming.scripted_stream import TOKENIZER

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


def assembled(slots, delay_s: float = 0.0, tokenizer: TextTokenizer = TOKENIZER) -> list[TimedWord]:
    assembler = WordAssembler(tokenizer, delay_s)
    words = [assembler.push(int(slot), CLOCK.step_time_s(step)) for step, slot in enumerate(slots)]
    return [word for word in [*words, assembler.flush()] if word is not None]


def test_a_word_is_about_its_mark_less_the_delay_and_said_at_its_last_token():
    assert assembled([PAD] * 6 + [WORD, RED, PAD], delay_s=0.32) == [
        TimedWord("red", pytest.approx(0.16), pytest.approx(0.56))
    ]
    assert assembled([WORD, RED], delay_s=0.32) == [TimedWord("red", 0.0, pytest.approx(0.08))]  # none before the start


def test_a_word_is_known_at_the_next_pad_or_mark_and_not_before():
    assert not TOKENIZER.whole_words
    assembler = WordAssembler(TOKENIZER, 0.0)
    pushed = [assembler.push(slot, 0.0) for slot in [WORD, RED, WORD, CIRCLE, PAD, PAD]]
    assert [word and word.text for word in pushed] == [None, None, "red", None, "circle", None]
    assert assembler.flush() is None


def test_a_word_is_known_at_its_token_where_no_token_can_go_on():
    words = TextTokenizer.word_level(["red", "circle", "enters", "left"])
    assert words.whole_words
    assert not byte_pieces().whole_words
    assembler = WordAssembler(words, 0.0)
    slots = [words.word_id, RED, words.word_id, CIRCLE, words.pad_id, LEFT]
    pushed = [assembler.push(slot, 0.0) for slot in slots]
    assert [word and word.text for word in pushed] == [None, "red", None, "circle", None, "left"]
    assert assembler.flush() is None


def test_what_only_a_model_says():
    assert assembled([WORD, WORD, PAD, WORD, PAD]) == []
    assert [w.text for w in assembled([RED, CIRCLE, LEFT, PAD, LEFT])] == ["red", "circle", "left", "left"]
    assert [w.text for w in assembled([TOKENIZER.start_id, WORD, PAD, RED])] == ["red"]
    bytes_only = byte_pieces()
    endless = assembled([bytes_only.word_id] + bytes_only.encode_word("x")[-1:] * 200, tokenizer=bytes_only)
    assert "".join(word.text for word in endless) == "x" * 200
    assert max(len(word.text) for word in endless) <= 32


@given(st.lists(st.tuples(st.text("abß€", min_size=1, max_size=4), st.floats(0, 20)), max_size=12), st.integers(0, 4))
def test_what_was_packed_comes_back_word_by_word(said: list[tuple[str, float]], delay_steps: int):
    tokenizer = byte_pieces()
    said = sorted(said, key=lambda word: word[1])
    encoded = [(tokenizer.encode_word(text), start_s) for text, start_s in said]
    packed = pack_words(encoded, CLOCK, 1000, tokenizer.pad_id, tokenizer.word_id)
    late = np.concatenate([np.full(delay_steps, tokenizer.pad_id), packed.slots])
    words = assembled(late, delay_steps * CLOCK.step_s, tokenizer)
    placed = unpack_slots(packed.slots, tokenizer)
    assert [w.text for w in words] == [text for text, _ in said]
    assert [w.t_video_s for w in words] == pytest.approx([CLOCK.step_time_s(p.step) for p in placed])
    last = [CLOCK.step_time_s(p.step + len(p.token_ids) + delay_steps) for p in placed]
    assert [w.t_emit_s for w in words] == pytest.approx(last)


times_ms = st.lists(st.integers(80, 4000), min_size=1, max_size=40)


@given(times_ms, st.sampled_from(["red", "circle", "<&>", "über-long-word-of-many-letters", "-->"]))
def test_a_vtt_gives_every_word_back_with_its_time(tmp_path_factory, gaps_ms: list[int], text: str):
    path = tmp_path_factory.mktemp("vtt") / "words.vtt"
    words = [TimedWord(text, 0.0, t / 1000) for t in np.cumsum(gaps_ms).tolist()]
    file = CaptionFile(path)
    for word in words:
        file.add([word], word.t_emit_s)
    file.close()
    cues = read_captions(path.read_text(encoding="utf-8"))
    back = [word for cue in cues for word in cue.words]
    assert back == [(text, pytest.approx(word.t_emit_s)) for word in words]
    assert all(cue.start_s < cue.end_s for cue in cues)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in zip(cues, cues[1:]))
    for cue in cues:
        said = [t for _, t in cue.words]
        assert all(b - a < 1.0 for a, b in zip(said, said[1:]))


def test_an_srt_gives_the_lines_back(tmp_path: Path):
    path = tmp_path / "words.srt"
    file = CaptionFile(path)
    file.add([TimedWord("red", 0, 1.0), TimedWord("circle", 0, 1.2), TimedWord("left", 0, 3725.5)], 3725.5)
    file.close()
    assert path.read_text() == (
        "1\n00:00:01,000 --> 00:00:02,200\nred circle\n\n2\n01:02:05,500 --> 01:02:06,500\nleft\n"
    )
    assert [(c.start_s, c.text) for c in read_captions(path.read_text())] == [(1.0, "red circle"), (3725.5, "left")]


def test_a_caption_is_in_the_file_as_soon_as_it_is_complete(tmp_path: Path):
    path = tmp_path / "words.vtt"
    file = CaptionFile(path)
    assert path.read_text() == "WEBVTT\n"
    file.add([TimedWord("red", 0, 1.0)], 1.0)
    file.add([], 2.9)
    assert read_captions(path.read_text()) == []
    file.add([], 3.1)
    assert [cue.text for cue in read_captions(path.read_text())] == ["red"]
    file.close()
    file.close()


def test_only_formats_that_are_known(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\.vtt or \.srt"):
        CaptionFile(tmp_path / "words.txt")
