"""A folder of videos without text: what a teacher sees happen becomes words, and nothing is lost."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.data import narrated
from data_pipelines.dataset import open_dataset
from data_pipelines.narrator.events import EventSettings
from data_pipelines.narrator.motion import MotionSettings
from data_pipelines.narrator.tracks import TrackSettings
from data_pipelines.schema import Record, encode_record
from data_pipelines.shards import write_shards
from data_pipelines.sources import causes
from data_pipelines.sources.narrated import DISCARDED_NAME, narrated_source, read_discarded
from tests.data_pipelines.narrator.red_car import needs_norfair, write_drive

MAKE = "tests.data_pipelines.narrator.red_car:red_detector"


@pytest.fixture(scope="module")
def drive(tmp_path_factory) -> Path:
    """A car that comes at 1 s and is gone at 6 s, of 8 s."""
    needs_norfair()
    return write_drive(tmp_path_factory.mktemp("drive") / "drive.mp4")


@pytest.fixture
def root(tmp_path, drive) -> Path:
    (tmp_path / "videos/gate").mkdir(parents=True)
    shutil.copy(drive, tmp_path / "videos/gate/a.mp4")
    return tmp_path / "videos"


def source_of(root_: Path, **changes):
    return narrated_source(config_of(root_, **changes))


def config_of(root_: Path, **changes) -> dict:
    config = narrated.get_config()
    small = {"root": str(root_), "frame_px": (64, 64), "units_per_shard": 1, "detector.make": MAKE}
    config.update_from_flattened_dict(small | {name.replace("__", "."): value for name, value in changes.items()})
    return config.to_dict()


def items_of(source) -> dict:
    return {item.key: item.content for item in source.items(0, len(source))}


def test_a_record_has_words_events_and_boxes(root):
    [(key, record)] = items_of(source_of(root)).items()
    assert key == record.key == "narrated/gate/a.mp4"
    assert " ".join(word.text for word in record.words) == "car enters left car leaves right"
    assert [word.ends_sentence for word in record.words] == [False, False, True] * 2
    assert [event.attributes for event in record.events] == [("enters", "car", "left"), ("leaves", "car", "right")]
    for event, word in zip(record.events, record.words[::3]):
        assert event.t_s == pytest.approx(word.start_s, abs=1e-6)
    assert record.timing == "word"
    assert record.language == "en"
    assert record.provenance["camera"] == "gate/a.mp4"
    [track] = record.provenance["tracks"]
    assert track["class"] == "car"
    # At 3.52 s the car is at 141.6 to 201.6 of 320 px; the frame is as wide as the picture, and has bars of 1/8.
    box = next(box for t_s, *box in track["boxes"] if t_s > 3.4)
    at_s = next(t_s for t_s, *_ in track["boxes"] if t_s > 3.4)
    left = (80 * (at_s - 1.0) - 60) / 320
    expected = [left, 40 / 320 + 100 / 320, left + 60 / 320, 40 / 320 + 140 / 320]
    np.testing.assert_allclose(box, expected, atol=5 / 320)  # blurred by the codec


def test_windows_have_their_own_events(root):
    contents = items_of(source_of(root, clip__window_s=4.0))
    assert list(contents) == ["narrated/gate/a.mp4/000", "narrated/gate/a.mp4/001"]
    first, second = contents.values()
    assert [event.kind for event in first.events] == ["enters"]
    assert [event.kind for event in second.events] == ["leaves"]
    assert 1.4 < second.events[0].t_s < 2.4
    assert all(0 <= box[0] < 4 for record in (first, second) for box in record.provenance["tracks"][0]["boxes"])
    assert first.provenance["end_s"] == second.provenance["start_s"] == 4.0


def test_what_is_not_used_says_why(root, drive):
    (root / "text.mp4").write_text("no video")
    (root / "gone.mp4").symlink_to(root / "nowhere.mp4")
    shutil.copy(root / "gate/a.mp4", root / "copy.mp4")
    write_drive(root / "door.mp4", 3.0)
    source = source_of(root, held_cameras="door.*")
    assert {
        key.removeprefix("narrated/"): "record" if isinstance(one, Record) else one.cause
        for key, one in items_of(source).items()
    } == {
        "copy.mp4": "record",
        "door.mp4": causes.HELD_CAMERA,
        "gate/a.mp4": causes.DUPLICATE,
        "gone.mp4": causes.MISSING_VIDEO,
        "text.mp4": causes.CANNOT_DECODE,
    }
    assert "door.mp4" not in source.describe()["cameras"]


def test_what_a_person_discards(root):
    before = source_of(root, clip__window_s=4.0)
    (root / DISCARDED_NAME).write_text("# not these\nnarrated/gate/a.mp4/001\n\n")
    after = source_of(root, clip__window_s=4.0)
    contents = list(items_of(after).values())
    assert isinstance(contents[0], Record)
    assert contents[1].cause == causes.DISCARDED
    assert before.units() != after.units()  # so that `prepare` makes this file's records anew, and no other's
    (root / DISCARDED_NAME).write_text("gate/a.mp4\n")
    assert [one.cause for one in items_of(source_of(root)).values()] == [causes.DISCARDED]
    assert read_discarded(root / "nothing.txt") == frozenset()
    (root / "other.txt").write_text("narrated/gate/a.mp4")
    (root / DISCARDED_NAME).unlink()
    other = source_of(root, discarded=str(root / "other.txt"))
    assert [one.cause for one in items_of(other).values()] == [causes.DISCARDED]


def test_silence_while_something_moves_is_no_example(root):
    """A detector that finds nothing, and a road on which a car drives."""
    blind = "tests.data_pipelines.sources.test_narrated:blind_detector"
    [one] = items_of(source_of(root, detector__make=blind, unexplained_share_min=0.01)).values()
    assert one.cause == causes.UNEXPLAINED
    [one] = items_of(source_of(root, detector__make=blind, unexplained_share_min=0.2)).values()
    assert one.words == ()


def blind_detector(config):
    from data_pipelines.narrator.detector import Detections
    from tests.data_pipelines.narrator.scenes import LABELS

    class Blind:
        labels, gflop = LABELS, None

        def __call__(self, picture):
            return Detections(np.zeros((0, 4), np.float32), np.zeros((0, len(LABELS)), np.float32))

    return Blind()


def test_more_than_can_be_said_is_noted(root):
    source = source_of(root, say__word_gap_s=3.0, say__lag_s=0.0)
    [item] = source.items(0, 1)
    assert [event.kind for event in item.content.events] == ["enters"]
    [note] = item.notes
    assert (note.cause, note.count) == (causes.TOO_FAST, 1)


def test_cameras(root):
    assert source_of(root).cameras == ("gate/a.mp4",)
    assert source_of(root, cameras="folder").cameras == ("gate",)
    (root / "clips.jsonl").write_text(json.dumps({"file": "gate/a.mp4", "camera": "north", "events": []}) + "\n")
    assert source_of(root, cameras="labels").describe()["cameras"] == ["north"]
    (root / "clips.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"names no camera of 1 videos, the first: gate/a\.mp4"):
        source_of(root, cameras="labels")


def test_another_process_would_make_the_same_bytes(root):
    source = source_of(root)
    other = pickle.loads(pickle.dumps(source))
    [(_, record)], [(_, same)] = items_of(source).items(), items_of(other).items()
    assert encode_record(record) == encode_record(same)
    assert source.describe() == other.describe()


def test_shards(root, tmp_path):
    config = config_of(root)
    write_shards(narrated_source(config), tmp_path / "out", config=config, units_per_shard=1, workers=1)
    manifest = open_dataset(tmp_path / "out").manifest
    assert manifest.cameras == ("gate/a.mp4",)
    assert manifest.flip_safe


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"root": ""}, "give the folder of videos"),
        ({"root": "nowhere"}, "no such folder"),
        ({"cameras": "guess"}, r"config.cameras must be one of \('file', 'folder', 'labels'\), got 'guess'"),
        ({"held_cameras": "("}, "is no regular expression"),
        ({"say.lag_s": -1.0}, "lag_s must not be negative"),
        ({"detector.make": "nothing"}, "MODULE:FUNCTION"),
        ({"detector.make": f"{__name__}:no_detector"}, "names 'no_detector', and there is none in"),
        ({"discarded": "nowhere.txt"}, "config.discarded is 'nowhere.txt', and there is no such file"),
        ({"detector.make": "data_pipelines.narrator.detector:yolox"}, "--config.detector.file=FILE.onnx"),
    ],
)
def test_a_wrong_configuration_says_what_to_do(root, changes, said):
    with pytest.raises(ValueError, match=said):
        source_of(root, **changes)


def test_settings_of_the_teacher_by_name(root):
    config = config_of(root)
    config["teacher"]["events"] = {"size_min": 0.2, "alike": [["car", "bus"]]}
    assert narrated_source(config).narrator.teacher.events == EventSettings(size_min=0.2, alike=(("car", "bus"),))
    config["teacher"]["tracks"] = {"speed": 1}
    with pytest.raises(ValueError, match=r"config\.teacher\.tracks\.speed is unknown, there are \['coast_s'"):
        narrated_source(config)


def test_the_configuration_shows_the_defaults():
    teacher = narrated.get_config().to_dict()["teacher"]
    for name, kind in (("motion", MotionSettings), ("tracks", TrackSettings), ("events", EventSettings)):
        assert kind(**teacher[name]) == kind()
