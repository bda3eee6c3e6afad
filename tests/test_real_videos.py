"""A model that says a script, on videos made here, scored as `launch.evaluate --data=real` does."""

import dataclasses
import json
from collections.abc import Iterable
from fractions import Fraction

import av
import numpy as np
import pytest
from ml_collections import ConfigDict

from data_pipelines.labelled_videos import read_labelled_videos
from data_pipelines.narrator.teacher import LivePhrase
from mmduplex_jax.arena.entries import read_entries
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Commentator, Delays
from mmduplex_jax.evals.real_events import LiveControl
from mmduplex_jax.pages.scores import real_events_page
from mmduplex_jax.real_videos import choose_cameras, evaluate_on_real, held_cameras_of, watching_lines
from tests.streaming.scripted_stream import FRAME_PX, TOKENIZER, ScriptedLive, script

FLOPS = {"text": 1e6, "tick": 2e6, "anchor": 5e6, "crop": 3e6}
# A picture every tenth of a second, so that none falls between two of the control's looks.
RATE_HZ, LENGTH_S = 10, 8.0


class Scripted(Commentator):
    """Says "red circle enters left" from 2.0 s on, in every video."""

    clock, tokens_per_s_max, frame_px, fit, delays = Clock(), 8, (FRAME_PX, FRAME_PX), "crop", Delays(0, 6, 2)


def write_video(path, brightness: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE_HZ)
        stream.width = stream.height = 64
        stream.time_base = Fraction(1, RATE_HZ)
        for number in range(int(LENGTH_S * RATE_HZ)):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), brightness, np.uint8), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two cameras: a circle enters at 1.8 s before one, nothing happens before the other."""
    folder = tmp_path_factory.mktemp("labelled")
    enters = {"t_s": 1.8, "kind": "enters", "class": "circle", "colour": "red", "side": "left"}
    with (folder / "clips.jsonl").open("w", encoding="utf-8") as labels:
        for camera, events in (("busy", [enters]), ("still", [])):
            write_video(folder / f"{camera}.mp4", 60)
            line = {"file": f"{camera}.mp4", "camera": camera, "view": "side", "checked": True, "events": events}
            labels.write(json.dumps(line) + "\n")
    return folder


@pytest.fixture(scope="module")
def model():
    # A word is whole when the next slot shows it to be; its time is that of its last slot, step k + 1 of 12.5 a second.
    said = dict(zip((24, 26, 28, 30), ("red", "circle", "enters", "left")))
    return Scripted("a script", ScriptedLive(script(said, 100)), {}, ConfigDict(), TOKENIZER)


class Teacher:
    """Says what it is told to at a time, and counts the pictures that it is shown."""

    def __init__(self, text: str, t_s: float):
        self.text, self.t_s, self.gflop, self.times_s = text, t_s, 0.0, [0.0]

    def __call__(self, frames: Iterable[np.ndarray], times_s: Iterable[float]) -> list[LivePhrase]:
        self.times_s = []
        for frame, t_s in zip(frames, times_s, strict=True):
            assert frame.shape == (64, 64, 3)
            assert frame.dtype == np.uint8
            self.times_s.append(t_s)
            self.gflop += 0.5
        return [LivePhrase(self.text, self.t_s)]


def test_a_model_beside_its_controls(folder, model):
    teacher: LiveControl = Teacher("circle enters", 1.5)
    videos = read_labelled_videos(folder)
    report = evaluate_on_real(model, videos, FLOPS, controls={"teacher": teacher})
    # In the busy yard the phrase names the event, before the other camera it is a false alarm.
    assert (report["recall"], report["precision"]) == (1.0, 0.5)
    assert report["f1"] == report["f1_kind"] == pytest.approx(2 / 3)
    quiet_s = 2 * LENGTH_S - 2.75
    assert report["false_alarms_per_quiet_minute"] == pytest.approx(60 / quiet_s)
    assert report["latency_p50_s"] == pytest.approx(25 * 0.08 - 1.8)
    assert report["colour"]["right"] == report["side"]["right"] == 1
    assert report["by_clip"]["busy.mp4"]["lines"] == [
        {"label": "red circle enters left", "label_s": 1.8, "said": "red circle enters left", "said_s": 2.0}
    ]
    controls = report["controls"]
    assert list(controls) == ["teacher", "another camera's words", "always silent"]
    assert controls["always silent"]["phrases"] == controls["always silent"]["f1"] == 0
    assert controls["another camera's words"]["recall"] == 1  # here both say the same
    # The teacher is not asked for a colour; it says the same of both videos, too.
    assert controls["teacher"]["recall"] == 1
    assert controls["teacher"]["latency_p50_s"] == pytest.approx(-0.3)
    np.testing.assert_allclose(teacher.times_s, np.arange(80) / RATE_HZ, atol=1e-6)


def test_what_everybody_said_is_kept_for_the_arena(folder, model, tmp_path):
    class Hasty(Teacher):
        def __call__(self, frames, times_s):
            return [LivePhrase("a car enters", 1.0), LivePhrase("a dog leaves", 1.0), LivePhrase("it stops", 1.2)]

    controls = {"teacher, live": Hasty("", 0.0)}
    evaluate_on_real(
        model, read_labelled_videos(folder), FLOPS, controls=controls, save_captions=tmp_path / "contestants"
    )
    names = ["a_script", "always_silent", "another_cameras_words", "teacher_live"]
    assert sorted(path.name for path in (tmp_path / "contestants").iterdir()) == names
    (tmp_path / "videos").mkdir()
    for path in folder.glob("*.mp4"):
        (tmp_path / "videos" / path.name).write_bytes(path.read_bytes())
    entries = read_entries(tmp_path)
    assert (sorted(entries.videos), entries.notes) == (["busy", "still"], ())
    said = {name: one.words for name, one in entries.videos["busy"].commentaries.items()}
    # Each word of the model when it was said; a control's phrases stay whole, also where two come at once.
    assert said["a_script"] == said["another_cameras_words"]
    assert [text for _, text in said["a_script"]] == ["red", "circle", "enters", "left"]
    assert [t_s for t_s, _ in said["a_script"]] == pytest.approx([2.0, 2.16, 2.32, 2.48], abs=1e-3)
    assert " ".join(text for _, text in said["teacher_live"]) == "a car enters a dog leaves it stops"
    assert {t_s for t_s, _ in said["teacher_live"]} == {1.0, 1.2}
    assert said["always_silent"] == ()


def test_captions_of_two_videos_with_one_name_are_refused(folder, model, tmp_path):
    videos = read_labelled_videos(folder)
    twice = dataclasses.replace(
        videos, videos=(videos.videos[0], dataclasses.replace(videos.videos[0], name="b/busy.mp4"))
    )
    with pytest.raises(ValueError, match="2 of them are called busy"):
        evaluate_on_real(model, twice, FLOPS, save_captions=tmp_path)


def test_what_watching_costs(folder, model):
    teacher = Teacher("circle enters", 1.5)
    report = evaluate_on_real(model, read_labelled_videos(folder), FLOPS, controls={"teacher": teacher})
    costs = report["watching"]
    # 12.5 steps and 6.25 ticks a second; of this brightness every tick is an anchor, and spends eight flow tokens.
    ticks = round(LENGTH_S * 6.25)
    flops = 2 * ticks * 1e6 + ticks * (2e6 + 5e6 + 8 * 3e6)
    assert costs["model"]["gflop_per_s"] == pytest.approx(flops / 8.0 / 1e9)
    assert costs["teacher"]["gflop_per_s"] == pytest.approx(0.5 * RATE_HZ)
    assert costs["teacher"]["ms_per_s"] > 0
    lines = watching_lines(report)
    assert lines[1].startswith("teacher: 5 GFLOP and ")
    page = real_events_page(report | {"checkpoint": "a script", "root": "x", "split": "all", "cameras_asked_for": ""})
    assert page.html.count("<article") == 2
    assert page.html.index("still.mp4") < page.html.index("busy.mp4")  # the worst first


def test_a_control_that_stops_early_is_timed_and_scored_on_all(folder, model):
    class Hasty(Teacher):
        def __call__(self, frames, times_s):
            next(iter(frames))
            return []

    report = evaluate_on_real(model, read_labelled_videos(folder), FLOPS, controls={"hasty": Hasty("", 0.0)})
    assert report["controls"]["hasty"]["events"] == 1
    assert report["controls"]["hasty"]["recall"] == 0


def test_cameras_that_training_held_back(folder):
    videos = read_labelled_videos(folder)
    names = lambda chosen: [video.camera for video in chosen.videos]
    assert names(choose_cameras(videos, "all", "", "")) == ["busy", "still"]
    assert names(choose_cameras(videos, "held", "st.*", "")) == ["still"]
    assert names(choose_cameras(videos, "seen", "st.*", "")) == ["busy"]
    assert names(choose_cameras(videos, "all", "st.*", "busy")) == ["busy"]
    with pytest.raises(ValueError, match="held_cameras, so nobody knows"):
        choose_cameras(videos, "held", "", "")
    with pytest.raises(ValueError, match="'busy' leaves none of the cameras still"):
        choose_cameras(videos, "held", "still", "busy")
    assert held_cameras_of(ConfigDict({"data": {"held_cameras": "a|b"}})) == "a|b"
    assert held_cameras_of(ConfigDict({"data": {}})) == held_cameras_of(ConfigDict()) == ""
