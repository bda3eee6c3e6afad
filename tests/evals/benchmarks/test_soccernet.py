"""SoccerNet dense captioning: pairs by windows, scores of words, the official files in and out, blind speakers."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmduplex_jax.evals import captions
from mmduplex_jax.evals.benchmarks import soccernet
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Item, Prediction, TimedText

for package in ("nltk", "rouge_score", "sacrebleu"):
    pytest.importorskip(package, reason="the extra `captions` is not installed")

KICK_OFF = "The referee blows his whistle and we are underway"
GAMES = {
    "league/2014-2015/A 1 - 0 B": {
        1: [(0, KICK_OFF), (100, "[PLAYER] ([TEAM]) takes the corner"), (120, "[PLAYER] scores with a header")],
        2: [(60, "A foul by [PLAYER]"), (600, "[PLAYER] is shown a yellow card")],
    },
    "league/2014-2015/C 2 - 2 D": {
        1: [(2, KICK_OFF), (300, "[PLAYER] ([TEAM]) takes the corner"), (400, "[PLAYER] ([TEAM]) takes the corner")],
        2: [],
    },
}
A, C = (f"{game}/1" for game in GAMES)


def game_time(half: int, t_s: int) -> str:
    return f"{half} - {t_s // 60:02d}:{t_s % 60:02d}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for game, halves in GAMES.items():
        rows = [
            {"gameTime": game_time(half, t_s), "label": "comments", "anonymized": text, "position": str(1000 * t_s)}
            for half, said in halves.items()
            for t_s, text in reversed(said)
        ]
        # Neither a line-up before the match nor an event that the official script does not know.
        rows += [{"gameTime": "3 - 00:00", "label": "comments", "anonymized": "extra time"}]
        rows += [{"gameTime": "1 - 00:10", "label": "time", "anonymized": "it is late"}]
        (tmp_path / game).mkdir(parents=True)
        (tmp_path / game / "Labels-caption.json").write_text(json.dumps({"UrlLocal": game, "annotations": rows}))
    return tmp_path


@pytest.fixture
def items(folder: Path) -> list[Item]:
    return soccernet.load_items(folder)


def said(*pairs: tuple[float, str]) -> Prediction:
    return Prediction(said=tuple(TimedText(t_s, text) for t_s, text in pairs))


def shown(items: list[Item], prediction: Prediction, rule: str = "unmatched_zero", key: str = A) -> dict:
    scores = soccernet.score(items, {key: prediction}, rule)
    return next({**score.shown, "value": score.value} for score in scores if score.key == key)


def test_halves_with_their_captions_in_order(folder, items):
    assert [item.key for item in items] == [f"{game}/{half}" for game in GAMES for half in (1, 2)]
    assert items[0].facts["captions"] == [[t_s, text] for t_s, text in GAMES["league/2014-2015/A 1 - 0 B"][1]]
    assert items[0].groups == {"league": "league", "half": "1"}
    assert (items[0].video, items[0].question, items[0].listens_until_s) == (None, "", None)
    video = folder / "league/2014-2015/A 1 - 0 B/1_224p.mkv"
    video.touch()
    assert soccernet.load_items(folder)[0].video == video


# There are captions at 0, 100 and 120 s.
@pytest.mark.parametrize(
    ("t_s", "covered"), [(29, 1), (30, 0), (70, 0), (70.9, 0), (71, 1), (129, 2), (130, 1), (150, 0)]
)
def test_windows_of_15_s_around_both_overlap_up_to_30_s(items, t_s, covered):
    half = shown(items[:1], said((t_s, "[PLAYER] ([TEAM]) takes the corner")))
    assert half["recall"] == pytest.approx(covered / 3)
    assert half["precision"] == (covered > 0)


def test_every_pair_is_scored_and_what_is_in_none_scores_zero(items):
    corner = "[PLAYER] ([TEAM]) takes the corner"
    half = shown(items, said((95, corner), (2000, corner)))
    # In reach of 95 s are the corner at 100 s and the header at 120 s; of 2,000 s nothing.
    words = captions.words_of(corner)
    exact = captions.meteor(words, [words])
    near = captions.meteor(words, [captions.words_of("[PLAYER] scores with a header")])
    assert half["meteor_exact_stem"] == half["value"] == pytest.approx((exact + near + 0) / 3)
    assert half["rouge_l"] == pytest.approx(
        (1 + captions.rouge_l(words, [["player", "scores", "with", "a", "header"]])) / 3
    )
    assert (half["precision"], half["recall"]) == (1 / 2, pytest.approx(2 / 3))
    assert half["cider"] > 0
    assert 0 < half["bleu_4"] < 1


def test_random_letters_of_the_official_rule_change_nothing(items):
    prediction = said((2, KICK_OFF), (101, "takes the corner kick"), (1000, "far away"), (2000, "and again"))
    official = shown(items, prediction, "official")
    assert official == shown(items, prediction, "official")  # a seed decides them
    assert official == shown(items, prediction, "unmatched_zero")


def test_one_sure_thing_leads_but_not_one_to_one(items):
    sure, all_of_it = said((0, KICK_OFF)), said(*GAMES["league/2014-2015/A 1 - 0 B"][1])
    value = lambda prediction, rule: shown(items, prediction, rule)["value"]
    assert value(sure, "unmatched_zero") > value(all_of_it, "unmatched_zero")
    assert value(sure, "one_to_one") == pytest.approx(2 * value(sure, "unmatched_zero") / (1 + 3))
    assert value(all_of_it, "one_to_one") > 0.9
    # The same caption twice is paired once.
    twice = said((0, KICK_OFF), (1, KICK_OFF))
    assert value(twice, "unmatched_zero") == pytest.approx(value(sure, "unmatched_zero"))
    assert value(twice, "one_to_one") == pytest.approx(2 * value(sure, "unmatched_zero") / (2 + 3))


def test_soda_pairs_in_the_order_of_time(items):
    """Of one that is 10 s late the windows overlap 20 of 40 s; F1 is twice the sum over both numbers."""
    corner, header = "[PLAYER] ([TEAM]) takes the corner", "[PLAYER] scores with a header"
    meteor = lambda text, other: captions.meteor(captions.words_of(text), [captions.words_of(other)])
    late = shown(items, said((110, corner)))
    near, far = meteor(corner, corner) * 20 / 40, meteor(corner, header) * 20 / 40
    assert late["soda_c"] == pytest.approx(2 * max(near, far) / (1 + 3))
    # In the wrong order one of both is paired with its like, 20 s away, or each with the caption of its time.
    swapped = shown(items, said((100, header), (120, corner)))
    crossed, at_their_time = meteor(corner, corner) * 10 / 50, meteor(header, corner) + meteor(corner, header)
    assert swapped["soda_c"] == pytest.approx(2 * max(crossed, at_their_time) / (2 + 3))
    assert shown(items, said(*GAMES["league/2014-2015/A 1 - 0 B"][1]))["soda_c"] > 0.9
    assert shown(items, said())["soda_c"] == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 1), (3, 4), (4, 3)])
def test_soda_is_the_best_of_all_pairs_in_order(shape):
    worth = np.random.default_rng(sum(shape)).random(shape)
    best = max(
        sum(worth[i, j] for i, j in zip(rows, columns))
        for number in range(min(shape) + 1)
        for rows in itertools.combinations(range(shape[0]), number)
        for columns in itertools.combinations(range(shape[1]), number)
    )
    assert soccernet.soda_c(worth) == pytest.approx(2 * best / sum(shape))


def test_figures_are_means_over_halves_that_have_captions(items):
    predictions = {A: said((0, KICK_OFF)), C: said((0, "[PLAYER] shoots"))}
    scores = soccernet.score(items, predictions, "official")
    assert [score.value is None for score in scores] == [False, False, False, True]
    found = soccernet.figures(items, predictions, scores, "official")
    assert found["precision"] == pytest.approx((1 + 0 + 1) / 3)
    assert found["recall"] == pytest.approx((1 / 3 + 0 + 1 / 3) / 3)
    assert (found["captions"], found["predictions"]) == (8, 2)
    assert soccernet.aggregate(scores, "official") == pytest.approx(found["meteor_exact_stem"])


def test_words_without_any_word_are_no_error(items):
    assert shown(items, said((0, "…"), (1, " ")))["value"] == 0


def test_predictions_go_out_as_the_official_script_reads_them_and_come_back(folder, items, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    predictions = {item.key: said((12.7, f" words {item.key} "), (754.2, "more")) for item in items}
    soccernet.write_predictions(out / "made", items, predictions)
    file = out / "made" / "league/2014-2015/A 1 - 0 B" / "results_dense_captioning.json"
    assert json.loads(file.read_text())["predictions"][1] == {
        "gameTime": "1 - 12:34",
        "label": "comments",
        "position": "754200",
        "half": "1",
        "confidence": "1.0",
        "comment": "more",
    }
    found = soccernet.read_predictions(out / "made", items)
    assert found == {item.key: said((12, f"words {item.key}"), (754, "more")) for item in items}
    archive = shutil.make_archive(str(out / "results"), "zip", out / "made")
    assert soccernet.read_predictions(Path(archive), items) == found
    assert soccernet.read_predictions(file, items) == {key: found[key] for key in list(found)[:2]}
    # Whole seconds are scored in both cases.
    values = lambda answers: [score.value for score in soccernet.score(items, answers, "official")]
    assert values(found) == values(predictions)


def test_events_that_the_official_script_passes_over_are_counted(folder, items):
    row = {"gameTime": "1 - 0:31", "label": "throw-in", "comment": "thrown"}
    game = next(iter(GAMES))
    (folder / "one.json").write_text(json.dumps({"UrlLocal": f"{game}/", "predictions": [row]}))
    predictions = soccernet.read_predictions(folder / "one.json", items)
    assert predictions[A].said == ()
    scores = soccernet.score(items, predictions, "official")
    assert soccernet.figures(items, predictions, scores, "official")["passed_over"] == 1


def test_blind_speakers(items):
    value = {}
    for name, control in soccernet.CONTROLS.items():
        assert control(items) == control(items)  # nothing is random
        assert control(items).keys() == {item.key for item in items}
        value[name] = soccernet.aggregate(soccernet.score(items, control(items), "official"), "official")
        value[name, "1:1"] = soccernet.aggregate(soccernet.score(items, control(items), "one_to_one"), "one_to_one")
    assert value["silent"] == 0
    # The sentence with which all matches begin leads officially. Where all three captions of a half count it has half.
    assert value["kick_off"] > value["another_match"] > 0
    assert value["kick_off", "1:1"] == pytest.approx(value["kick_off"] * 2 / (1 + 3))
    assert value["every_30_s"] > 0


def test_a_match_without_captions_is_refused(folder):
    labels = folder / next(iter(GAMES)) / "Labels-caption.json"
    for rows in ([], [{"gameTime": "1 - 00:10", "label": "time", "anonymized": "it is late"}]):
        labels.write_text(json.dumps({"annotations": rows}))
        with pytest.raises(BenchmarkError, match=r"Labels-caption\.json: has no caption of either half"):
            soccernet.load_items(folder)


def test_what_cannot_be_read_is_said(folder, items, tmp_path_factory):
    with pytest.raises(BenchmarkError, match=r"there is no LEAGUE/SEASON/GAME/Labels-caption.json"):
        soccernet.load_items(tmp_path_factory.mktemp("empty"))
    with pytest.raises(BenchmarkError, match=r"there is no LEAGUE/SEASON/GAME/results_dense_captioning.json"):
        soccernet.read_predictions(folder, items)
    (folder / "half.zip").write_bytes(b"PK\3\4")
    with pytest.raises(BenchmarkError, match=r"half.zip: is no zip that can be read"):
        soccernet.read_predictions(folder / "half.zip", items)
    game, row = next(iter(GAMES)), {"gameTime": "1 - 0:31", "label": "comments", "comment": "a"}
    for value, message in [
        ({"UrlLocal": "x/y/z", "predictions": []}, r"one.json: there is no match 'x/y/z'"),
        ({"UrlLocal": game}, r"one.json: 'predictions' is missing"),
        ({"UrlLocal": game, "predictions": [{**row, "gameTime": "soon"}]}, r"prediction 0: 'gameTime' must be like"),
        ({"UrlLocal": game, "predictions": [{**row, "comment": None}]}, r"prediction 0: 'comment' must be a text"),
    ]:
        (folder / "one.json").write_text(json.dumps(value))
        with pytest.raises(BenchmarkError, match=message):
            soccernet.read_predictions(folder / "one.json", items)
