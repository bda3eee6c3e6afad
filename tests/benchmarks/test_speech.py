"""The benchmark of speech judges what was said where it was said, and reads what it wrote."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import speech
from benchmarks.speech import Speech, joined, judged, read_speech, save, table, through, watch
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Delays
from mmduplex_jax.evals.speech import HeardWord, SaidWord
from mmduplex_jax.streaming.sound import SoundPiece
from mmduplex_jax.word_decoder import TimedWord
from tests.codec import tiny_codec

RATE_HZ = 1000
CLOCK = Clock()


class Judge:
    """Hears "dog" wherever there is sound after silence."""

    name, version, unknown = "judge", "1", ()

    def hear(self, samples, rate_hz):
        begins = np.flatnonzero(np.diff((np.abs(samples) > 0.1).astype(int), prepend=0) == 1)
        return [HeardWord("dog", begin / rate_hz, begin / rate_hz + 0.1) for begin in begins]


def sound(*begins_s: float) -> np.ndarray:
    samples = np.zeros(2 * RATE_HZ, np.float32)
    for begin_s in begins_s:
        samples[round(begin_s * RATE_HZ) :][:100] = 0.5
    return samples


def test_a_line_counts_errors_and_onsets_behind_text_and_picture():
    pytest.importorskip("jiwer", reason="jiwer is not installed (extra `recognise`)")
    said = (SaidWord("dog", 0.2), SaidWord("cat", 0.8), SaidWord("dog", 1.2))
    one = Speech("a", said, sound(0.4, 1.0, 1.52), RATE_HZ, seen_s=(0.1, 0.7, 1.1))
    line = judged("model", Judge(), [one], seed=0)
    assert (line["word_error"], line["substitutions"], line["onsets"]) == (pytest.approx(1 / 3), 1, 2)
    assert line["onset_p50_s"] == pytest.approx(0.26)
    assert line["after_picture"]["onset_p50_s"]["value"] == pytest.approx(0.36)
    assert json.dumps(line)
    (row,) = table([line]).splitlines()[2:]
    assert row == "| model | judge | 33.3% (33.3% to 33.3%) | 1 + 0 + 0 | 3 | 1 | +0.26 | +0.31 |"
    assert "after_picture" not in judged("voice", Judge(), [one._replace(seen_s=None)], seed=0)


def test_what_was_saved_is_read_again(tmp_path):
    clips = [Speech(key, (SaidWord("red", 0.1), SaidWord("dog")), sound(0.5), RATE_HZ) for key in "ab"]
    save(tmp_path / "heard", clips)
    found = read_speech(tmp_path / "heard", RATE_HZ, limit=5)
    assert [one.key for one in found] == ["0000", "0001"]
    assert [one.said for one in found] == [(SaidWord("red"), SaidWord("dog"))] * 2
    np.testing.assert_allclose(found[1].samples, clips[1].samples, atol=1 / 32768)
    assert len(read_speech(tmp_path / "heard", RATE_HZ, limit=1)) == 1


def test_texts_that_say_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds neither manifest.json .* nor texts.json"):
        read_speech(tmp_path, RATE_HZ, 1)
    for content, message in (('["red dog"]', "must say what is said in each file"), ("{", "is no JSON")):
        (tmp_path / "texts.json").write_text(content)
        with pytest.raises(ValueError, match=rf"texts.json.* {message}"):
            read_speech(tmp_path, RATE_HZ, 1)
    (tmp_path / "texts.json").write_text("{}")
    with pytest.raises(ValueError, match="no clip has both sound and words"):
        read_speech(tmp_path, RATE_HZ, 1)


class SpeakingSession:
    """Says "dog" at the third tick, heard two steps later; its sound begins a step after the picture."""

    def __init__(self):
        self.frames = []

    def tick(self, t_s, frame):
        self.frames.append(frame)
        number = len(self.frames) - 1
        words = [TimedWord("dog", 0.25, 0.5)] if number == 2 else []
        loud = np.full(80, 0.5 if number == 3 else 0.0, np.float32)
        steps = (2 * number, 2 * number + 1)
        pieces = tuple(SoundPiece(CLOCK.step_time_s(step + 1), step, loud) for step in steps)
        return SimpleNamespace(words=words, sound=pieces)

    def finish(self):
        return []


def test_a_model_is_heard_to_its_end_at_the_times_of_its_text():
    session = SpeakingSession()
    model = SimpleNamespace(clock=CLOCK, sample_rate_hz=RATE_HZ, session=lambda delay, speaking: session)
    clip = np.arange(5, dtype=np.uint8)[:, None, None, None]
    said = watch(model, clip, "a", None)
    # Two seconds more of the last picture.
    assert [int(frame.item()) for frame in session.frames] == [*range(5), *[4] * CLOCK.ticks_in(2.0)]
    assert len(said.samples) == 2 * 80 * len(session.frames)
    # The stream's time less that of the first piece.
    assert said.said == (SaidWord("dog", 0.5 - 0.08),)
    assert said.seen_s == (0.25 - 0.08,)
    assert np.flatnonzero(said.samples)[[0, -1]].tolist() == [480, 639]


def test_pieces_are_joined_at_their_times():
    pieces = [SoundPiece(t_s, step, np.full(80, step, np.float32)) for t_s, step in ((1.0, 1), (1.08, 2), (1.24, 4))]
    found = joined(pieces, RATE_HZ)
    assert found.tolist() == [1.0] * 80 + [2.0] * 80 + [0.0] * 80 + [4.0] * 80


def test_a_round_trip_is_as_long_as_the_speech_and_clips_do_not_mix():
    codec = SimpleNamespace(config=tiny_codec.CONFIG, params=tiny_codec.random_params())
    rate_hz = tiny_codec.CONFIG.sample_rate_hz
    rng = np.random.default_rng(0)
    clips = [Speech(str(n), (), rng.normal(0, 0.1, 30 + n).astype(np.float32), rate_hz) for n in range(9)]
    clips.append(clips[2])
    rounded, exact = through(codec, clips)
    assert [len(one.samples) for one in rounded] == [len(one.samples) for one in exact] == [*range(30, 39), 32]
    assert [one.key for one in rounded] == [one.key for one in clips]
    # Once among seven others, once beside one.
    np.testing.assert_allclose(rounded[2].samples, rounded[9].samples, atol=1e-5)
    assert np.abs(rounded[0].samples - exact[0].samples).max() > 1e-3


class PoolAtOnce:
    """Answers each frame at once with the pieces of its two steps."""

    def join(self, *, on_output, **settings):
        self.settings = settings

        def offer(t_s, frame):
            for step in (CLOCK.step_at(t_s), CLOCK.step_at(t_s) + 1):
                piece = SoundPiece(CLOCK.step_time_s(step + 1), step, np.zeros(80, np.float32))
                on_output(SimpleNamespace(dropped_frames=0, sound=(piece,)))

        return SimpleNamespace(offer=offer, leave=lambda: None)

    start = stop = lambda self, **_: None


def test_the_first_sound_after_a_picture_is_that_of_all_delays(monkeypatch):
    pool = PoolAtOnce()
    monkeypatch.setattr(speech, "pool_of", lambda *_, **__: pool)
    monkeypatch.setattr(speech, "world_frames", lambda model, clips: np.zeros((1, 3, 8, 8, 3), np.uint8))
    audio = SimpleNamespace(audio_delay=2, acoustic_delays=(0, 1, 1))
    config = SimpleNamespace(audio=audio)
    model = SimpleNamespace(clock=CLOCK, live=SimpleNamespace(config=config), delays=Delays(1, 6, 4))
    found = speech.live(model, 0.8, 1, warm_s=0.2)
    assert pool.settings == {"delay_steps": 1, "speaking": True}
    # A step of the words' delay, three of the sound's behind them, and its own length.
    assert found["planned_s"] == pytest.approx(5 * 0.08)
    assert found["first_sound_p50_s"] == pytest.approx(0.4, abs=1e-6)
    assert (found["late"], found["dropped_frames"]) == (0, 0)
    assert 0 < found["pictures"] < CLOCK.ticks_in(1.0)


@pytest.mark.parametrize(("flags", "expects_more"), [([], True), (["--vocabulary=said"], False)])
def test_a_judge_expects_the_words_of_the_world_or_those_that_are_said(tmp_path, monkeypatch, flags, expects_more):
    pytest.importorskip("jiwer", reason="jiwer is not installed (extra `recognise`)")
    save(tmp_path / "heard", [Speech("a", (SaidWord("red"), SaidWord("dog")), sound(0.5), RATE_HZ)])
    expected = []

    def judge(words):
        expected.extend(words)
        return Judge()

    monkeypatch.setitem(speech.RECOGNISERS, "whisper", judge)
    assert speech.main([f"--data={tmp_path / 'heard'}", "--rows=voice", "--judges=whisper", *flags]) == 0
    assert {"red", "dog"} <= set(expected)
    assert ("vanishes" in expected) == expects_more


def test_flags_that_do_not_fit_are_refused(capsys):
    for flags, message in (([], "nothing to judge"), (["--data=nowhere", "--live_s=1"], "--live_s is of a model")):
        assert speech.main(flags) == 2
        assert message in capsys.readouterr().err
