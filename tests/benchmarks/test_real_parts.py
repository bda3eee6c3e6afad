"""Which part fails, of a model that looks at everything, knows cars, and says what it is told to say."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import real_parts
from data_pipelines.schema import Event
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.evals.real_events import LabelledClip, heard_of
from mmduplex_jax.real_videos import Watched
from mmduplex_jax.text_tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.word_level(["car", "truck", "dog", "enters", "leaves", "left", "right"])


def test_an_event_is_looked_at_near_its_time_and_at_its_side():
    times_s = np.array([3.0, 3.9, 4.0, 4.5, 6.0])
    centre = np.array([[0.5, 0.1], [0.5, 0.1], [0.5, 0.9], [0.9, 0.3], [0.5, 0.1]])
    looked = real_parts.Looked(times_s, centre, np.zeros((5, 1)))
    at = lambda side: real_parts.near(Event(4.2, "enters", "car", side), looked).tolist()
    assert at("left") == [False, True, False, True, False]
    assert at("right") == [False, False, True, False, False]
    assert at("bottom") == [False, False, False, True, False]
    assert at("") == [False, True, True, True, False]


def test_an_event_is_heard_where_a_phrase_says_it_in_time():
    events = (Event(2.0, "enters", "car", "left"), Event(5.0, "leaves", "dog", ""), Event(8.0, "enters", "car", ""))
    said = [
        Phrase(("enters", "truck", ""), 2.4, "truck enters"),  # a vehicle
        Phrase(("leaves", "car", ""), 5.2, "car leaves"),
        Phrase(("enters", "car", ""), 11.0, "car enters"),
    ]
    clip = LabelledClip("a.mp4", 20.0, events, said, "side", "yard")
    assert heard_of(clip) == [(True, True), (True, False), (False, False)]


def test_the_report(tmp_path, monkeypatch, capsys):
    """Two cars and a dog: all are looked at, the dog is taken for a car, one car is spoken of."""
    labels = [
        {"t_s": 2.0, "kind": "enters", "class": "truck", "side": "left"},
        {"t_s": 5.0, "kind": "leaves", "class": "car"},
        {"t_s": 8.0, "kind": "enters", "class": "dog"},
    ]
    (tmp_path / "a.mp4").touch()
    line = {"file": "a.mp4", "camera": "yard", "view": "side", "checked": True, "events": labels}
    (tmp_path / "clips.jsonl").write_text(json.dumps(line) + "\n")
    names = np.full((4, TOKENIZER.vocab_size), 0.01)
    names[:3, TOKENIZER.encode_word("truck")[0]] = 0.5
    names[3, TOKENIZER.pad_id] = 1.0
    centre = np.array([[0.5, 0.1], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    looked = real_parts.Looked(np.array([2.1, 5.1, 8.1, 15.0]), centre, names)
    trained = SimpleNamespace(name="it", task=SimpleNamespace(crop_name_weight=0.5), tokenizer=TOKENIZER, config={})
    said = [Phrase(("leaves", "car", ""), 5.2, "car leaves")]
    monkeypatch.setattr(real_parts, "load_trained", lambda name: trained)
    monkeypatch.setattr(real_parts, "held_cameras_of", lambda config: "")
    monkeypatch.setattr(real_parts, "commentator_of", lambda trained, name: None)
    monkeypatch.setattr(real_parts, "live_step_flops", lambda task: {})
    monkeypatch.setattr(real_parts, "watch_live", lambda *given, **kw: Watched(20.0, said, (), 1.0, None))
    monkeypatch.setattr(real_parts, "look", lambda trained, video: looked)
    assert real_parts.main([f"--root={tmp_path}", f"--json={tmp_path / 'parts.json'}"]) == 0
    report = json.loads((tmp_path / "parts.json").read_text())
    third = pytest.approx(1 / 3)
    assert report["rows"]["all"] == {
        "events": 3,
        "looked": 1.0,
        "named": pytest.approx(2 / 3),
        "said_kind": third,
        "said": third,
    }
    assert report["rows"]["dog"]["named"] == 0
    assert [event["named"] for event in report["events"]] == ["vehicle"] * 3
    assert report["nothing"] == pytest.approx((3 * 0.01 + 1) / 4)
    assert "vehicle" in capsys.readouterr().out
    trained.task.crop_name_weight = 0.0
    assert real_parts.main([f"--root={tmp_path}"]) == 2
    assert "has not learned to name" in capsys.readouterr().err
