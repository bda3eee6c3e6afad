"""A folder of labelled videos: what a person noted becomes events and words, and nothing is lost."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs.data import labelled
from data_pipelines.dataset import open_dataset
from data_pipelines.labelled_videos import LabelError
from data_pipelines.schema import Record, encode_record
from data_pipelines.shards import write_shards
from data_pipelines.sources import causes
from data_pipelines.sources.labelled import LabelledSource, labelled_source
from data_pipelines.world.grammar import splitter_of
from launch import prepare
from mmduplex_jax.stages.training import check_held_cameras
from mmduplex_jax.train.feed import DataError
from tests.data_pipelines.numbered_video import number_in, write_numbered

ENTERS = {"t_s": 0.5, "kind": "enters", "class": "car", "side": "left", "colour": "silver"}
LEAVES = {"t_s": 4.5, "kind": "leaves", "class": "sports ball", "side": None}
YARD = {"file": "gate/yard.mp4", "camera": "cam_yard", "checked": True, "events": [LEAVES, ENTERS]}
QUIET = {"file": "quiet.mp4", "camera": "cam_quiet", "checked": True, "events": []}


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """6 s of numbered pictures, 25 a second."""
    path = tmp_path_factory.mktemp("labelled") / "numbered.mp4"
    write_numbered(path, count=150)
    return path


@pytest.fixture
def root(tmp_path, video) -> Path:
    folder = tmp_path / "videos"
    (folder / "gate").mkdir(parents=True)
    shutil.copy(video, folder / "gate/yard.mp4")
    write_numbered(folder / "quiet.mp4", count=75)
    return label(folder, YARD, QUIET)


def label(folder: Path, *lines: dict) -> Path:
    (folder / "clips.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def config_of(folder: Path, **changes) -> dict:
    config = labelled.get_config()
    small = {"root": str(folder), "frame_px": (64, 64), "units_per_shard": 1}
    config.update_from_flattened_dict(small | {name.replace("__", "."): value for name, value in changes.items()})
    return config.to_dict()


def source_of(folder: Path, **changes) -> LabelledSource:
    return labelled_source(config_of(folder, **changes))


def items_of(source: LabelledSource) -> dict:
    return {item.key: item.content for item in source.items(0, len(source))}


def causes_of(source: LabelledSource) -> dict[str, str]:
    return {
        key.removeprefix("labelled/"): "record" if isinstance(one, Record) else one.cause
        for key, one in items_of(source).items()
    }


def test_a_record_has_the_labels_as_events_and_words(root):
    yard, quiet = items_of(source_of(root)).values()
    assert yard.key == "labelled/gate/yard.mp4"
    assert [event.attributes for event in yard.events] == [("enters", "grey car", "left"), ("leaves", "ball", "")]
    assert [event.t_s for event in yard.events] == [0.5, 4.5]
    assert [word.text for word in yard.words] == ["grey", "car", "enters", "left", "ball", "leaves"]
    assert [word.start_s for word in yard.words] == [0.5, 0.75, 1.0, 1.25, 4.5, 4.75]
    assert [word.ends_sentence for word in yard.words] == [False] * 3 + [True, False, True]
    assert (yard.timing, yard.language) == ("word", "en")
    assert yard.provenance["camera"] == "cam_yard"
    assert [number_in(frame) for frame in yard.frames][:3] == [0, 4, 8]
    assert (quiet.words, quiet.events, quiet.num_ticks) == ((), (), 19)
    for record in (yard, quiet):  # silence, too, is that of a camera
        assert splitter_of(record)([("car", 0.0), ("stops", 0.3)])[0][0] == ("stops", "car", "")


def test_windows_have_their_own_words_and_events(root):
    contents = items_of(source_of(root, clip__window_s=3.0))
    assert list(contents) == ["labelled/gate/yard.mp4/000", "labelled/gate/yard.mp4/001", "labelled/quiet.mp4"]
    first, second, _ = contents.values()
    assert [event.kind for event in first.events] == ["enters"]
    assert [(event.kind, event.t_s) for event in second.events] == [("leaves", 1.5)]
    assert [(word.text, word.start_s) for word in second.words] == [("ball", 1.5), ("leaves", 1.75)]


def test_what_is_not_used_says_why(root):
    shutil.copy(root / "quiet.mp4", root / "copy.mp4")
    shutil.copy(root / "quiet.mp4", root / "unchecked.mp4")
    (root / "text.mp4").write_text("no video")
    names = ("unchecked.mp4", "copy.mp4", "text.mp4", "gone.mp4")
    more = [{"file": name, "camera": "cam_other", "checked": True, "events": []} for name in names]
    more[0] |= {"camera": "cam_unsure", "checked": False, "events": ["nonsense"]}
    label(root, *more, YARD, QUIET)
    source = source_of(root, held_cameras="cam_y.*|cam_unknown")
    assert causes_of(source) == {
        "unchecked.mp4": causes.UNCHECKED,
        "copy.mp4": "record",
        "text.mp4": causes.CANNOT_DECODE,
        "gone.mp4": causes.MISSING_VIDEO,
        "gate/yard.mp4": causes.HELD_CAMERA,
        "quiet.mp4": causes.DUPLICATE,
    }
    assert source.describe()["cameras"] == ["cam_other", "cam_quiet"]
    assert causes_of(source_of(root, duplicates="keep"))["quiet.mp4"] == "record"


def test_what_happens_at_the_same_time_is_said_in_turn_and_what_comes_late_is_noted(root):
    at_once = [{"t_s": 1.0, "kind": "stops", "class": name} for name in ("car", "bus", "dog", "cat")]
    label(root, YARD | {"events": at_once})
    [item] = source_of(root).items(0, 1)
    assert [(word.text, word.start_s) for word in item.content.words[::2]] == [("car", 1.0), ("bus", 1.5), ("dog", 2.0)]
    assert [event.subject for event in item.content.events] == ["car", "bus", "dog"]
    assert [(note.cause, note.count) for note in item.notes] == [(causes.TOO_FAST, 1)]


def test_labels_that_cannot_be_said_in_full(root):
    odd = [
        {"t_s": 0.5, "kind": "explodes", "class": "car"},
        {"t_s": 1.0, "kind": "enters", "class": "ox", "colour": "beige", "side": "left"},
        {"t_s": 2.0, "kind": "enters", "class": "car", "colour": "red", "side": "far left"},
        {"t_s": 3.0, "kind": "stops", "class": "object"},
        {"t_s": 6.5, "kind": "stops", "class": "car"},
    ]
    label(root, YARD | {"events": odd})
    [item] = source_of(root).items(0, 1)
    record = item.content
    assert " ".join(word.text for word in record.words) == "ox enters left red car enters something stops"
    assert [event.t_s for event in record.events] == [1.0, 2.0, 3.0]
    assert [(note.cause, note.count) for note in item.notes] == [(causes.UNSAYABLE, 3), (causes.AFTER_END, 1)]
    assert '"explodes"' in item.notes[0].detail
    # The class is the labels' own; who reads the record's words knows it.
    assert record.provenance["classes"] == ["ox"]
    words = [(word.text, word.start_s) for word in record.words]
    assert [attributes for attributes, *_ in splitter_of(record)(words)] == [one.attributes for one in record.events]


def written(root: Path, out: Path):
    asked: list[str] = []

    class Counted:
        """A source whose videos are counted as they are prepared."""

        def __init__(self):
            self.source = source_of(root)

        def __getattr__(self, name):
            return getattr(self.source, name)

        def __len__(self):
            return len(self.source)

        def units(self):
            return self.source.units()

        def items(self, begin, end):
            asked.extend(one.name for one in self.source.labels[begin:end])
            return self.source.items(begin, end)

    return asked, write_shards(Counted(), out, config=config_of(root), units_per_shard=1, workers=1)


def test_of_changed_labels_only_their_video_is_prepared_anew(root, tmp_path):
    asked, _ = written(root, tmp_path / "out")
    assert asked == ["gate/yard.mp4", "quiet.mp4"]
    label(root, YARD | {"events": [ENTERS | {"side": "right"}], "note": "seen again"}, QUIET | {"note": "quiet"})
    asked, report = written(root, tmp_path / "out")
    assert asked == ["gate/yard.mp4"]
    assert str(report.change) == "1 changed (gate/yard.mp4)"
    assert [word.text for word in open_dataset(tmp_path / "out")[0].words] == ["grey", "car", "enters", "right"]
    # A video of another camera comes: the others are kept, and the manifest lists it.
    write_numbered(root / "new.mp4", count=60)
    new = {"file": "new.mp4", "camera": "cam_new", "checked": True, "events": []}
    label(root, YARD | {"events": [ENTERS | {"side": "right"}]}, QUIET, new)
    asked, report = written(root, tmp_path / "out")
    assert asked == ["new.mp4"]
    assert report.manifest.cameras == ("cam_new", "cam_quiet", "cam_yard")


def test_another_process_would_make_the_same_bytes(root):
    source = source_of(root)
    other = pickle.loads(pickle.dumps(source))
    for (_, record), (_, same) in zip(items_of(source).items(), items_of(other).items(), strict=True):
        assert encode_record(record) == encode_record(same)
    assert source.describe() == other.describe()


def test_shards_by_the_command_and_a_training_that_holds_cameras_back(root, tmp_path, repository, monkeypatch):
    out = tmp_path / "out"
    flags = [f"--config.root={root}", "--config.frame_px=64", "--config.held_cameras=cam_q.*", "--workers=1"]
    monkeypatch.chdir(repository)
    assert prepare.main(["--config=configs/data/labelled.py", f"--out={out}", *flags]) == 0
    dataset = open_dataset(out, verify=True)
    assert [record.key for record in dataset] == ["labelled/gate/yard.mp4"]
    assert dataset.manifest.cameras == ("cam_yard",)
    assert dataset.manifest.flip_safe
    assert dataset.manifest.fit == "pad"
    [line] = map(json.loads, (out / "rejected.jsonl").read_text().splitlines())
    assert (line["key"], line["cause"]) == ("labelled/quiet.mp4", causes.HELD_CAMERA)
    check_held_cameras([str(out)], "cam_q.*")
    with pytest.raises(DataError, match="shows cam_yard, which"):
        check_held_cameras([str(out)], "cam_.*")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"root": ""}, "give the folder of labelled videos"),
        ({"root": "nowhere"}, "no such folder"),
        ({"held_cameras": "("}, "config.held_cameras: .* is no regular expression"),
        ({"say.lag_s": -1.0}, "lag_s must not be negative"),
        ({"say.word_gap_s": 0.0}, "word_gap_s positive"),
    ],
)
def test_a_wrong_configuration_says_what_to_do(root, changes, said):
    with pytest.raises(ValueError, match=said):
        source_of(root, **changes)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((), "names no video"),
        ((YARD, YARD), r"clips\.jsonl:2: 'gate/yard\.mp4' has a line before this one"),
        ((QUIET, YARD | {"events": [{"t_s": 1.0, "kind": "enters"}]}), r"clips\.jsonl:2: `class` must be a text"),
    ],
)
def test_labels_that_cannot_be_read(root, lines, said):
    label(root, *lines)
    with pytest.raises(LabelError, match=said):
        source_of(root)


def test_labels_need_no_detector_and_no_tracker(repository):
    code = "import sys, data_pipelines.sources.labelled as _; print({'norfair', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
