"""The benchmark `timing`: files in, scores out, damaged files named."""

import json

import pytest

from mmduplex_jax.evals.benchmarks import timing
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Prediction, TimedText, interval
from mmduplex_jax.evals.benchmarks.registry import find_benchmark
from mmduplex_jax.evals.timing.files import CommentaryError, read_commentary
from mmduplex_jax.evals.timing.speakers import SPEAKERS

VTT = """WEBVTT

00:01.000 --> 00:03.000
Arsenal score a goal.

00:10.000 --> 00:12.000
Corner for Chelsea.
"""
SRT = "1\n00:00:02,000 --> 00:00:03,600\nArsenal score a goal.\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "reference").mkdir()
    (tmp_path / "said").mkdir()
    (tmp_path / "reference" / "half1.vtt").write_text(VTT)
    (tmp_path / "reference" / "half1.mp4").write_bytes(b"")
    (tmp_path / "reference" / "half2.json").write_text(json.dumps([{"start": 4.0, "content": "Offside."}]))
    (tmp_path / "said" / "half1.srt").write_text(SRT)
    return tmp_path


def test_the_registry_finds_it():
    assert find_benchmark("timing") is timing
    assert tuple(timing.CONTROLS) == SPEAKERS


def test_a_pair_of_files_is_scored(files):
    found = timing.score_files(files / "said" / "half1.srt", files / "reference" / "half1.vtt")
    assert (found["rule"], found["items"]) == ("lexical", 1)
    # One of two is said, rightly: F1 2/3. It begins 1 s late, is over (four words, 1.6 s) at 3.6 s, 0.6 s late.
    assert found["timing"]["trace"]["f1"] == pytest.approx(2 / 3)
    timed = 0.4 * 0.367879 + 0.4 * 0.548812 + 0.2
    assert found["score"] == found["timing"]["trace"]["score"] == pytest.approx((1 + timed) / 2 * 2 / 3, abs=1e-6)
    assert found["timing"]["trigger"]["time_diff_s"] == pytest.approx((1.0 + 8.0) / 2)
    assert found["timing"]["pace"]["words_per_s"] == pytest.approx(4 / 12)
    assert tuple(found["speakers"]) == SPEAKERS
    assert found["speakers"]["oracle"]["trigger"]["time_diff_s"] == 0.0


def test_a_folder_is_scored_by_names(files):
    items = timing.load_items(files / "reference")
    assert [(item.key, item.duration_s) for item in items] == [("half1", 12.0), ("half2", 4.4)]
    assert items[0].video == files / "reference" / "half1.mp4"
    assert items[1].video is None
    predictions = timing.read_predictions(files / "said", items)
    scores = timing.score(items, predictions, "lexical")
    assert [one.value for one in scores] == [pytest.approx(0.522226, abs=1e-6), 0.0]
    # Pooled: one of three is said.
    assert scores[0].shown["matched"] == 1
    together = timing.aggregate(scores, "lexical")
    assert together == pytest.approx(0.522226 / (2 / 3) * 0.5, abs=1e-6)
    low, high = interval(scores, timing.aggregate_draws)
    assert low <= together <= high
    figures = timing.figures(items, predictions, scores, "lexical")
    assert figures["timing"]["stream_laal"]["skipped"] == pytest.approx(2 / 3)
    assert timing.score_files(files / "said", files / "reference")["score"] == together


def test_an_item_in_which_nothing_should_be_said_is_left_out(tmp_path):
    (tmp_path / "quiet.json").write_text("[]")
    (tmp_path / "a.vtt").write_text(VTT)
    items = timing.load_items(tmp_path)
    scores = timing.score(items, {}, "lexical")
    assert [(one.key, one.value) for one in scores] == [("a", 0.0), ("quiet", None)]
    assert timing.aggregate(scores[1:], "lexical") is None


@pytest.mark.parametrize(
    ("name", "text"), [("half1.vtt", "WEBVTT\n"), ("half1.srt", ""), ("half1.json", '{"words": []}')]
)
def test_where_nothing_is_said_nothing_is_compared(files, name, text):
    empty = files / "empty"
    empty.mkdir()
    (empty / name).write_text(text)
    with pytest.raises(BenchmarkError, match="empty: nothing is said in it, so that nothing can be compared"):
        timing.load_items(empty)
    if name.endswith(".json"):
        return
    items = timing.load_items(files / "reference")
    for path in (empty, empty / name):
        with pytest.raises(BenchmarkError, match="nothing is said in it; what silence earns is --control=silent"):
            timing.read_predictions(path, items[: 1 if path.is_file() else 2])
    # One silent video among others is silence.
    (empty / "half2.srt").write_text(SRT)
    assert timing.read_predictions(empty, items)["half1"] == Prediction(facts={"words_each": []})


def test_predictions_are_written_and_read_with_every_word(files):
    items = timing.load_items(files / "reference")
    for control in timing.CONTROLS.values():
        predictions = dict(control(items))
        timing.write_predictions(files / "again", items, predictions)
        assert timing.read_predictions(files / "again", items) == predictions


def test_words_of_a_model_are_cut_into_utterances():
    said = (TimedText(1.0, "goal."), TimedText(1.4, "Offside"), TimedText(1.8, "now"), TimedText(5.0, "corner"))
    found = timing.commentary_of(Prediction(said=said))
    assert [one.text for one in found] == ["goal.", "Offside now", "corner"]


def test_the_official_rule_says_what_it_needs(files, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match="sentence-transformers"):
        timing.score_files(files / "said", files / "reference", "official")
    with pytest.raises(ValueError, match="rules lexical, official, not 'exact'"):
        timing.score_files(files / "said", files / "reference", "exact")


def test_files_of_tglg(tmp_path):
    """A ground truth and a table of results as scripts/eval.py of yukw777/tglg reads them."""
    truth = {
        "match/1": [
            {"content": "Goal!", "start": 1.0, "end": 2.0, "eval": True},
            {"content": "Good evening.", "start": 0.0, "end": 1.0, "eval": False},
        ],
        "match/2": [{"content": "Corner.", "start": 3.0, "end": 4.0, "eval": True}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "said.csv").write_text('video_id,content,start\nmatch/1,"goal",1.0\nmatch/1,corner,20.5\n')
    items = timing.load_items(tmp_path / "truth.json")
    assert [(item.key, len(item.facts["reference"])) for item in items] == [("match/1", 1), ("match/2", 1)]
    found = timing.score_files(tmp_path / "said.csv", tmp_path / "truth.json")
    assert found["timing"]["trace"]["f1"] == 0.5
    (tmp_path / "said.csv").write_text("video_id,content,start\nmatch/1,goal,soon\n")
    with pytest.raises(BenchmarkError, match=r"said.csv:2: the column start should be seconds: 'soon'"):
        timing.read_predictions(tmp_path / "said.csv", items)
    for content, said in (
        (b"", "csv:1: the columns video_id"),
        (b"video_id,start\nmatch/1,1\n", "csv:1: the columns video_id"),
        (b"video_id,content,start\nmatch/1,\xe9,1\n", "csv: not UTF-8 text"),
    ):
        (tmp_path / "said.csv").write_bytes(content)
        with pytest.raises(BenchmarkError, match=said):
            timing.read_predictions(tmp_path / "said.csv", items)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "hello", r"a.txt: commentary is read from"),
        ("a.json", "{", r"a.json:1: is no JSON"),
        ("a.json", '{"caption": "a dog"}', r"a.json: holds a text without times"),
        ("a.json", '[{"start": 1}]', r"a.json\[0\]: the field text"),
        ("a.json", '[{"text": "a", "start": "1"}]', r"a.json\[0\]: the field start should be seconds"),
        ("a.json", '[{"text": "a", "start": 2, "end": 1}]', r"ends at 1 s, before it starts at 2 s"),
        ("a.json", '[{"text": "a", "start": 2, "score": 6}]', r"from 1 to 5, got 6"),
        ("a.json", '[{"words": [{"start": 2}]}]', r"a.json\[0\]: words\[0\] should be an object"),
        ("a.json", '{"words": [{"text": "a", "t_emit_s": -1}]}', r"words\[0\]: the field t_emit_s"),
        ("a.vtt", "WEBVTT\n\n00:05.000 --> 00:01.000\nhello\n\n00:06.000 --> 00:07.000\nhi\n", r"a.vtt:3: ends before"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(CommentaryError, match=message):
        read_commentary(tmp_path / name)
    with pytest.raises(BenchmarkError, match=message):
        timing.load_items(tmp_path / name)


def test_files_that_do_not_belong_together_are_refused(files):
    items = timing.load_items(files / "reference")
    with pytest.raises(BenchmarkError, match="is one file, and there are 2 references"):
        timing.read_predictions(files / "said" / "half1.srt", items)
    (files / "said" / "half3.srt").write_text(SRT)
    with pytest.raises(BenchmarkError, match=r"'half3' has no reference \(1 such\)"):
        timing.read_predictions(files / "said", items)
    (files / "said" / "half3.json").write_text("[]")
    with pytest.raises(BenchmarkError, match="two commentaries of one name"):
        timing.read_predictions(files / "said", items)
    (files / "empty").mkdir()
    with pytest.raises(BenchmarkError, match="holds no commentary"):
        timing.load_items(files / "empty")
    with pytest.raises(BenchmarkError, match="no reference"):
        timing.load_items(files / "nowhere.vtt")


def test_a_report_of_commentate_is_commentary(tmp_path):
    words = [
        {"text": "red", "t_video_s": 0.9, "t_emit_s": 1.2, "ends_sentence": False},
        {"text": "circle", "t_video_s": 0.9, "t_emit_s": 1.5, "ends_sentence": True},
        {"text": "blue", "t_video_s": 1.0, "t_emit_s": 1.6, "ends_sentence": True},
    ]
    (tmp_path / "report.json").write_text(json.dumps({"words": words}))
    found = read_commentary(tmp_path / "report.json")
    assert [(one.text, one.start_s) for one in found] == [("red circle", 1.2), ("blue", 1.6)]


def test_real_commentary(shared_dir, tmp_path):
    """The begin of a match, of TGLG: the oracle has all, and being late costs."""
    match = shared_dir / "fixtures" / "soccer_commentary" / "liverpool_watford_half1.json"
    segments = json.loads(match.read_text(encoding="utf-8"))["segments"][:80]
    path = tmp_path / "begin.json"
    path.write_text(json.dumps({"segments": segments}))
    reference = read_commentary(path)
    assert sum(len(one.words) for one in reference) == sum(len(segment["text"].split()) for segment in segments)
    assert 60 < len(reference) < 120  # segments are sentences, parts of them, or two
    found = timing.score_files(path, path)
    assert found["timing"]["trace"]["accuracy"] == 1.0
    known = {name: one["trace"]["score"] for name, one in found["speakers"].items()}
    assert 0 == known["silent"] < known["always_talking"] < known["shuffled"]
    assert known["shuffled"] < known["oracle_late_3s"] < known["oracle"] == found["score"]
