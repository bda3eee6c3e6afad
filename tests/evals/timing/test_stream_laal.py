"""StreamLAAL against simulstream's published values, and by hand."""

import json

import pytest

from mmduplex_jax.evals.timing.stream_laal import (
    DelayedText,
    LogError,
    Sentence,
    commentary_lags_s,
    cut_stream,
    laal,
    lag_scores,
    read_log,
    sentence_lags_s,
    stream_laal,
    units_of,
)
from mmduplex_jax.evals.timing.utterances import moved, utterance_at


def test_simulstreams_golden_of_words():
    """hlt-mt/simulstream 86e0f1e, uts/metrics/test_stream_laal.py, whose values have four places."""
    sentences = [
        Sentence("A New York, sono a capo di un'associazione no profit, chiamata Robin Hood.", 12.61, 4.07),
        Sentence(
            "Quando non combatto la povertà, combatto gli incendi come assistente capitano di una brigata di pompieri "
            "volontari.",
            16.9,
            5.14,
        ),
    ]
    said = DelayedText(
        "Tornando a New York, sono il capo dello sviluppo per un non-profit chiamato Robin Hood. Quando non sto "
        "combattendo la povertà, sto combattendo i fuochi.",
        (14.0,) * 4 + (16.0,) * 9 + (18.0,) * 8 + (20.0,) * 4,
        (18.22,) * 4 + (19.93,) * 9 + (23.01,) * 8 + (27.30,) * 4,
    )
    assert stream_laal(said, sentences) == pytest.approx((0.868587, 5.86), abs=5e-5)


def test_simulstreams_golden_of_characters():
    """From the same test: four sentences, of which one is in Latin letters."""
    sentences = [
        Sentence("今天她看起很好，", 12.61, 3.07),
        Sentence("我们一起去公园散步吧。", 16.9, 3.14),
        Sentence("Amy", 21.0, 0.5),
        Sentence("今天心情很好", 21.5, 2.0),
    ]
    said = DelayedText(
        "今天她很漂亮，我们一起去花园跑步吧。Amy 今天心情很好",
        (14, 14, 14, 15, 15, 16, 17, 17, 17, 18, 18, 19, 19, 20, 20, 21, 21, 21, 22, 22, 22, 22, *[24] * 6),
        (14.5, 14.5, 14.5, 15.2, 15.2, 16.8, 17.5, 18.0, 18.5, 18.5, 18.5, 20.1, 20.1, 21.3, 21.3, 22.0, 22.0, 22.0,
         23.0, 23.0, 23.0, 23.0, 25.0, 25.0, 25.0, 25.0, 25.0, 25.0),
    )  # fmt: skip
    assert stream_laal(said, sentences, "char") == pytest.approx((1.333312, 2.074095), abs=5e-5)


@pytest.mark.parametrize(
    ("delays_s", "source_s", "target", "lag_s"),
    [
        # A word a second, each a second after its turn: lags 1, 1, 1.
        ([1.0, 2.0, 3.0], 3.0, 3, 1.0),
        # What comes after the sentence is over counts once: lags 1, 4 - 1.
        ([1.0, 4.0, 5.0], 3.0, 3, 2.0),
        # The first word too late: its delay.
        ([4.0, 5.0], 3.0, 3, 4.0),
        # Twice as many words as wanted have to come twice as fast: lags 1, 1 - 0.5, 2 - 1, 2 - 1.5, 3 - 2.
        ([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], 3.0, 3, 0.8),
        # Before its time: a negative lag, which nothing forbids.
        ([-2.0], 3.0, 1, -2.0),
    ],
)
def test_the_lag_of_a_sentence(delays_s, source_s, target, lag_s):
    assert laal(delays_s, source_s, target) == pytest.approx(lag_s)


def test_a_lag_needs_words_and_time():
    with pytest.raises(ValueError, match="0 words were said of 3 s"):
        laal([], 3.0, 2)
    with pytest.raises(ValueError, match="of 0 s"):
        laal([1.0], 0.0, 2)


@pytest.mark.parametrize(
    ("said", "sentences", "cuts"),
    [
        ("a b c d", ["a b", "c d"], ["a b", "c d"]),
        ("A B x C d", ["a b", "c d"], ["A B x", "C d"]),  # what is inserted between two belongs to the first
        ("a c d", ["a b", "c d"], ["a", "c d"]),
        ("c d", ["a b", "c d"], ["", "c d"]),  # mWERSegmenter gives the "c" to the first
        ("a b", ["a b", "c d"], ["a b", ""]),
        ("", ["a b", "c"], ["", ""]),
        ("a b", ["", "a b", ""], ["", "a b", ""]),
        ("x y", ["a", "b"], ["x", "y"]),
    ],
)
def test_what_was_said_is_cut_where_errors_are_fewest(said, sentences, cuts):
    words = said.split()
    found = cut_stream(words, [sentence.split() for sentence in sentences])
    assert [" ".join(words[cut.start : cut.stop]) for cut in found] == cuts


def test_delays_and_units_must_agree():
    with pytest.raises(ValueError, match="2 words, 1 and 2 delays"):
        sentence_lags_s(DelayedText("a b", (1.0,), (1.0, 2.0)), [])
    with pytest.raises(ValueError, match="not of a 'syllable'"):
        units_of("a", "syllable")
    assert stream_laal(DelayedText("", (), ()), [Sentence("a", 0.0, 1.0)]) is None


def test_commentary_that_is_three_seconds_late_lags_three_seconds_more():
    reference = [utterance_at("Goal for Arsenal!", 0.0, 3.0), utterance_at("Corner kick, Chelsea.", 10.0, 13.0)]
    on_time = lag_scores(commentary_lags_s(reference, reference))
    early = lag_scores(commentary_lags_s(moved(reference, -1.0), reference))
    assert early["lag_s"] == pytest.approx(on_time["lag_s"] - 1.0)
    # Of three words 3 s late the first is at the sentence's end, after which none counts.
    assert commentary_lags_s(moved(reference, 3.0), reference)[0] == pytest.approx(3.0)
    first = commentary_lags_s(reference, reference)[:1]
    half = lag_scores(commentary_lags_s(reference[:1], reference))
    assert half == {"lag_s": lag_scores(first)["lag_s"], "skipped": 0.5}
    assert lag_scores(commentary_lags_s([], reference)) == {"lag_s": None, "skipped": 1.0}
    assert lag_scores([]) == {"lag_s": None, "skipped": None}


def log_line(taken_in_s, generated, deleted=(), computing_s=0.5):
    return {
        "id": 1,
        "total_audio_processed": taken_in_s,
        "computation_time": computing_s,
        "generated_tokens": list(generated),
        "deleted_tokens": list(deleted),
    }


def write_log(path, lines):
    path.write_text("\n\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return path


START = [{"model_loading_time": 1.0}, {"id": 1, "metadata": {"wav_name": "test/talk.wav"}}]


def test_a_log_gives_each_word_its_last_change(tmp_path):
    lines = [
        log_line(2.0, ["▁the", "▁vid", "eo", "."]),
        log_line(4.0, [",", "▁yes", "▁so"], ["."]),  # "video." becomes "video,"
        log_line(6.0, ["▁no"], ["▁yes", "▁so"]),
        log_line(8.0, ["pe"]),  # "no" goes on
    ]
    found = read_log(write_log(tmp_path / "log.jsonl", START + lines))
    assert found == {"talk": DelayedText("the video, nope", (2.0, 4.0, 8.0), (2.5, 4.5, 8.5))}


def test_a_log_may_take_everything_back(tmp_path):
    lines = [log_line(2.0, ["▁a", "▁b"]), log_line(4.0, [], ["▁a", "▁b"]), log_line(6.0, ["▁c"])]
    assert read_log(write_log(tmp_path / "log.jsonl", START + lines))["talk"].ideal_s == (6.0,)
    characters = read_log(tmp_path / "log.jsonl", "char")
    assert characters["talk"] == DelayedText("c", (6.0,), (6.5,))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([log_line(2.0, ["▁a"])], r"log.jsonl:1: stream 1 has no line of metadata"),
        ([*START, log_line(2.0, ["▁a"]), log_line(4.0, [], ["▁b"])], r"log.jsonl:7: .*not the last tokens"),
        ([*START, {"id": 1, "generated_tokens": []}], r"log.jsonl:5: .*deleted_tokens"),
    ],
)
def test_a_damaged_log_is_refused_by_line(tmp_path, lines, message):
    with pytest.raises(LogError, match=message):
        read_log(write_log(tmp_path / "log.jsonl", lines))


def test_simulstreams_own_log(shared_dir):
    """Its uts/metrics/log_reader.py: the first seven words at 2 s, "video," at 4 s, and a delay for every word."""
    found = read_log(shared_dir / "fixtures" / "benchmarks" / "simulstream_test_metrics.jsonl")
    assert list(found) == ["ted_1096"]
    said = found["ted_1096"]
    assert said.ideal_s[:8] == (2.0,) * 7 + (4.0,)
    assert len(said.ideal_s) == len(said.computed_s) == len(units_of(said.text, "word"))
