"""Speakers of known worth on a small commentary: which metric a speaker without eyes wins."""

import json
from pathlib import Path

import pytest

from benchmarks.timing import main
from mmduplex_jax.evals.timing.scores import ROWS, timing_rows, timing_scores, won_by
from mmduplex_jax.evals.timing.speakers import SPEAKERS, speakers
from mmduplex_jax.evals.timing.utterances import utterance_at

TEXTS = ("kick off for Arsenal", "long ball forward", "corner to Chelsea", "great save by the keeper", "he is offside")
DURATION_S = 60.0


@pytest.fixture(scope="module")
def found():
    """Two videos: something is said every 9 to 12 s, at the pace of people."""
    videos = [
        [utterance_at(text, start_s) for text, start_s in zip(texts, times_s)]
        for texts, times_s in ((TEXTS, (2.0, 11.0, 23.0, 34.0, 45.0)), (TEXTS[::-1], (5.0, 15.0, 26.0, 35.0, 47.0)))
    ]
    durations_s = [DURATION_S] * 2
    known = speakers(videos, durations_s, seed=1)
    return {name: timing_scores(said, videos, durations_s) for name, said in known.items()}, known


def test_every_speaker_speaks_as_it_is_described(found):
    _, known = found
    assert tuple(known) == SPEAKERS
    assert known["silent"] == [(), ()]
    talking = known["always_talking"][0]
    assert all(before.spoken_until_s == pytest.approx(after.start_s) for before, after in zip(talking, talking[1:]))
    assert talking[-1].end_s >= DURATION_S
    assert [one.start_s for one in known["oracle_late_3s"][0]] == [5.0, 14.0, 26.0, 37.0, 48.0]
    heard = [one for commentary in known["shuffled"] for one in commentary]
    assert sorted(one.text for one in heard) == sorted(TEXTS * 2)
    assert [one.start_s for one in heard] == [one.start_s for commentary in known["oracle"] for one in commentary]


def test_what_is_drawn_is_decided_by_the_seed():
    videos = [[utterance_at(text, 9.0 * number) for number, text in enumerate(TEXTS)]]
    assert speakers(videos, [60.0], seed=3) == speakers(videos, [60.0], seed=3)
    assert speakers(videos, [60.0], seed=3)["shuffled"] != speakers(videos, [60.0], seed=4)["shuffled"]
    assert speakers([[]], [60.0])["always_talking"] == [[]]


def test_trace_ranks_the_speakers(found):
    scores, _ = found
    trace = {name: one["trace"]["score"] for name, one in scores.items()}
    assert trace["oracle"] == pytest.approx(1.0)  # these utterances end when people's do
    assert trace["silent"] == 0.0
    assert max(trace["always_talking"], trace["shuffled"]) < trace["oracle_late_3s"] < 0.7


def test_what_speakers_without_eyes_win(found):
    """What docs/benchmarks.md marks. The oracle is as good as can be, so nobody is ahead of it but by a flaw."""
    scores, _ = found
    winners = {title: names for title, names in won_by(scores).items() if names}
    assert winners == {
        # An utterance is matched if one begins within 5 s: late, or about something else.
        "TRACE matching F1": ["oracle_late_3s", "shuffled"],
        # The right words, whenever they come.
        "TRACE accuracy": ["oracle_late_3s"],
        "PAUC, ω 1": ["oracle_late_3s"],
        "sentences skipped": ["always_talking", "oracle_late_3s"],
        # Something at the right time, whatever it is.
        "TimeDiff, s": ["shuffled"],
        # Who talks on, says a sentence's words before its time.
        "StreamLAAL, s": ["always_talking"],
    }


def test_talking_all_the_time_pays_in_time_diff_and_recall(found):
    scores, _ = found
    assert scores["always_talking"]["trigger"]["recall"] > 0.95
    assert scores["always_talking"]["trigger"]["f1"] > scores["oracle_late_3s"]["trigger"]["f1"]
    assert scores["always_talking"]["trigger"]["time_diff_s"] < scores["oracle_late_3s"]["trigger"]["time_diff_s"]
    assert scores["always_talking"]["trigger"]["kappa"] == pytest.approx(0.0, abs=0.1)
    assert scores["silent"]["pauc"]["omega_0.5"] == 0.125


def test_the_table_has_a_row_a_figure(found):
    scores, _ = found
    rows = timing_rows(scores)
    assert rows[0] == ["", *SPEAKERS]
    assert len(rows) == 1 + len(ROWS)
    by_title = {row[0]: row[1:] for row in rows}
    assert by_title["StreamLAAL, s"][0] == by_title["TimeDiff, s"][0] == "-"
    assert by_title["silence"][0] == "1.000"


def test_the_docs_show_what_the_command_shows(capsys):
    """The first table of docs/benchmarks.md, and so who is marked to fool which metric, is that of the command."""
    assert main([]) == 0
    page = (Path(__file__).parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.strip() in page


def test_the_command_reads_files(tmp_path, capsys):
    (tmp_path / "a.json").write_text('[{"start": 1, "text": "a goal"}, {"start": 9, "text": "offside"}]')
    assert main([f"--reference={tmp_path}", "--json=-"]) == 0
    assert json.loads(capsys.readouterr().out)["oracle"]["trigger"]["time_diff_s"] == 0.0
    assert main(["--clips=0"]) == 1
