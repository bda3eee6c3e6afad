"""A session says, step by step, what the model says free-running over the whole clip."""

import numpy as np
import pytest

from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.free_running import make_decoder
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.streaming.pool import Session
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.word_decoder import TimedWord, WordDecoder
from tests import tiny
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, TOKENIZER, ScriptedLive, script, session

TICKS = 40


def test_ticks_one_by_one_equal_the_clip_at_once():
    config = tiny.dual_stream()
    tokenizer = TextTokenizer.word_level([f"w{i}" for i in range(tiny.PAD)])
    assert (tokenizer.pad_id, tokenizer.word_id, tokenizer.start_id) == (tiny.PAD, tiny.WORD, tiny.START)
    params, frames, live = tiny.init(config), tiny.clips(1, TICKS), LiveModel(config)
    whole = make_decoder(live, Clock())(params, frames, 3, pad_bias=-1.0)
    stream = Session(live, params, tokenizer, Clock(), frames.shape[2], delay_steps=3, pad_bias=-1.0)
    results = [stream.tick(Clock().tick_time_s(k), frame) for k, frame in enumerate(frames[0])]

    assembler = WordDecoder(tokenizer, 3 * Clock().step_s)
    pushed = [assembler.push(int(slot), Clock().step_time_s(step)) for step, slot in enumerate(whole.slots[0])]
    said, want = [w for r in results for w in r.words], [w for w in pushed if w is not None]
    said += stream.finish()
    want += [w for w in [assembler.flush()] if w is not None]
    assert [w.text for w in said] == [w.text for w in want]
    assert [w[1:3] for w in said] == [pytest.approx(w[1:3]) for w in want]
    assert [r.tokens.number for r in results] == whole.video_tokens[0].tolist()
    for result in results:
        assert len(result.step_ms) == Clock().video_stride
        assert len(result.tokens.centre_px) == len(result.tokens.size_px) == result.tokens.number
    assert any(w for r in results for w in r.words)


def test_words_and_tokens_of_a_script():
    stream = session(script({2: "red", 4: "circle"}, 12), delay_steps=2)
    results = [stream.tick(0.16 * k, np.full((FRAME_PX, FRAME_PX, 3), k, np.uint8)) for k in range(4)]
    assert [[w.text for w in r.words] for r in results] == [[], [], ["red"], ["circle"]]
    assert results[2].words[0] == TimedWord("red", pytest.approx(0.0), pytest.approx(0.24))
    assert results[3].words[0] == TimedWord("circle", pytest.approx(0.16), pytest.approx(0.40))
    assert [r.tokens.number for r in results] == [0, 1, 2, 3]
    assert stream.compile_s > 0


def test_a_stream_that_follows_is_a_new_one():
    stream = session(script({1: "red", 3: "circle"}, 12), delay_steps=2)
    frames = np.zeros((4, FRAME_PX, FRAME_PX, 3), np.uint8)
    stream.tick(0.0, frames[0])
    stream.tick(0.16, frames[1])  # its last slot is the mark of "circle", which nobody finishes
    assert stream.finish() == []
    assert [w.text for k in range(4) for w in stream.tick(0.16 * k, frames[k]).words] == ["red", "circle"]


def test_frames_of_another_shape_are_refused():
    stream = session(script({}, 4))
    with pytest.raises(ValueError, match=r"uint8 \[32, 32, 3\], got uint8 \[16, 16, 3\]"):
        stream.tick(0.0, np.zeros((16, 16, 3), np.uint8))


def test_sentence_ends_reach_whoever_listens():
    """The same words at the same times as without, each with whether a sentence ends with it."""
    ended = TOKENIZER.with_sentence_ends()
    slots = script({3: "red", 5: "circle", 9: "left"}, 24)
    with_ends = slots.copy()
    with_ends[[7, 11]] = ended.end_id
    words = []
    for tokenizer, said in ((TOKENIZER, slots), (ended, with_ends)):
        stream = Session(ScriptedLive(said), {}, tokenizer, CLOCK, FRAME_PX, delay_steps=2)
        frame = np.zeros((FRAME_PX, FRAME_PX, 3), np.uint8)
        ticks = [stream.tick(CLOCK.tick_time_s(k), frame).words for k in range(12)]
        words.append([word for tick in ticks for word in tick] + stream.finish())
    assert [word[:3] for word in words[1]] == [word[:3] for word in words[0]]
    assert [(word.text, word.ends_sentence) for word in words[1]] == [("red", False), ("circle", True), ("left", True)]
    assert all(word.ends_sentence is None for word in words[0])
