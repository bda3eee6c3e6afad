"""Labels of real videos, read from lines that are made here."""

import json

import pytest

from data_pipelines.labelled_videos import LabelError, event_of_label, read_labelled_videos
from data_pipelines.schema import Event
from data_pipelines.world.event_words import CLASSES

YARD = {
    "file": "yard.mp4",
    "camera": "cam_yard",
    "view": "top",
    "checked": True,
    "events": [
        {"t_s": 4, "kind": "stops", "class": "car", "side": "left", "colour": "silver"},
        {"t_s": 1.5, "kind": "enters", "class": "sports ball", "side": "left", "colour": None},
    ],
}
ROAD = {"file": "road.mp4", "checked": True, "events": [{"t_s": 2.0, "kind": "leaves", "class": "ox", "side": None}]}
UNSEEN = {"file": "unseen.mp4", "checked": False, "events": [{"nonsense": 1}]}


def labelled(folder, *lines):
    (folder / "clips.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    for line in lines:
        (folder / line["file"]).touch()
    return folder


def test_only_checked_videos_are_read(tmp_path):
    found = read_labelled_videos(labelled(tmp_path, YARD, UNSEEN, ROAD))
    yard, road = found.videos
    assert (yard.name, yard.camera, yard.view, yard.path) == ("yard.mp4", "cam_yard", "top", tmp_path / "yard.mp4")
    # In the order of time, with the words that are said; a car that stops has no side.
    assert yard.events == (Event(1.5, "enters", "ball", "left"), Event(4.0, "stops", "grey car", ""))
    assert (road.camera, road.view) == ("road.mp4", "")
    assert found.unchecked == ("unseen.mp4",)
    assert found.unsayable == ()
    assert found.classes == (*CLASSES, "ox")


def test_labels_that_no_phrase_can_name_are_kept_and_listed(tmp_path):
    odd = [
        {"t_s": 1.0, "kind": "explodes", "class": "car"},
        {"t_s": 2.0, "kind": "enters", "class": "car", "colour": "beige"},
        {"t_s": 3.0, "kind": "enters", "class": "car", "side": "far left"},
    ]
    found = read_labelled_videos(labelled(tmp_path, YARD | {"events": odd}))
    assert [event.attributes for event in found.videos[0].events] == [
        ("explodes", "car", ""), ("enters", "beige car", ""), ("enters", "car", "far left")
    ]  # fmt: skip
    assert len(found.unsayable) == 3
    assert found.unsayable[0].startswith("yard.mp4: ")
    assert event_of_label({"t_s": 1, "kind": "enters", "class": "object", "colour": "red"}).subject == "something"


def test_cameras_are_chosen_by_their_whole_name(tmp_path):
    found = read_labelled_videos(labelled(tmp_path, YARD, ROAD))
    assert [video.camera for video in found.of_cameras("cam_.*").videos] == ["cam_yard"]
    assert [video.camera for video in found.of_cameras("cam_.*", others=True).videos] == ["road.mp4"]
    with pytest.raises(ValueError, match="leaves none of the cameras cam_yard, road.mp4"):
        found.of_cameras("cam")
    with pytest.raises(ValueError, match="no regular expression"):
        found.of_cameras("(")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": ""}, "`file` must be a text"),
        ({"events": None}, "`events` must be a list"),
        ({"events": [{"t_s": -1.0, "kind": "enters", "class": "car"}]}, "t_s must be seconds"),
        ({"events": [{"t_s": 1.0, "class": "car"}]}, "`kind` must be a text"),
        ({"events": [{"t_s": 1.0, "kind": "enters"}]}, "`class` must be a text"),
        ({"checked": False}, "of 1 videos none is `checked`"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, change, said):
    labelled(tmp_path, YARD)
    (tmp_path / "clips.jsonl").write_text(json.dumps(YARD | change), encoding="utf-8")
    with pytest.raises(LabelError, match=said) as error:
        read_labelled_videos(tmp_path)
    assert "clips.jsonl" in str(error.value)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no clips.jsonl in"):
        read_labelled_videos(tmp_path)
    labelled(tmp_path, YARD)
    (tmp_path / "yard.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="clips.jsonl:1: there is no video"):
        read_labelled_videos(tmp_path)
    (tmp_path / "clips.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(LabelError, match="clips.jsonl:1"):
        read_labelled_videos(tmp_path)


def test_the_packs_labels_are_all_sayable(shared_dir):
    if not (shared_dir / "real").is_dir():
        pytest.skip("the real pack is not here")
    found = read_labelled_videos(shared_dir / "real")
    assert found.unsayable == ()
    assert sum(len(video.events) for video in found.videos) > 100
