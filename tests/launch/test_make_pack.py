"""A pack from COCO's instances, from masks and from a camera's videos: what is cut out, what is not, and going on."""

import json

import av
import cv2
import numpy as np
import pytest

from data_pipelines.world import RealAppearance, RealWorldConfig, make_clip
from data_pipelines.world.real.from_coco import mask_of
from data_pipelines.world.real.pack import load_cutout, read_pack
from data_pipelines.world.real.pack_writer import RejectedError, plain_colour
from launch import make_pack

RED, GREEN = (200, 30, 30), (30, 160, 60)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def box(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


@pytest.fixture
def coco(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    street = np.full((120, 200, 3), 128, np.uint8)
    street[20:70, 40:120] = RED
    kitchen = np.full((100, 150, 3), 90, np.uint8)
    kitchen[30:80, 60:100] = GREEN
    for name, picture in (("street.png", street), ("kitchen.png", kitchen)):
        cv2.imwrite(str(images / name), picture[..., ::-1])
    runs = np.zeros((100, 150), np.uint8)
    runs[30:80, 60:100] = 1
    flat = runs.T.reshape(-1)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    instances = {
        "images": [
            {"id": 1, "file_name": "street.png", "license": 4},
            {"id": 2, "file_name": "kitchen.png"},
            {"id": 3, "file_name": "lost.png"},
        ],
        "licenses": [{"id": 4, "name": "Attribution"}],
        "categories": [{"id": 3, "name": "car"}, {"id": 47, "name": "cup"}],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": box(40, 20, 80, 50)},
            {"id": 11, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": box(0, 20, 80, 50)},
            {"id": 12, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": box(100, 80, 12, 8)},
            {"id": 13, "image_id": 1, "category_id": 3, "iscrowd": 1, "segmentation": box(40, 20, 80, 50)},
            {"id": 14, "image_id": 2, "category_id": 47, "segmentation": {"size": [100, 150], "counts": counts}},
            {"id": 15, "image_id": 3, "category_id": 47, "iscrowd": 0, "segmentation": box(10, 10, 50, 50)},
            {"id": 16, "image_id": 2, "category_id": 47, "iscrowd": 0, "segmentation": {"size": [1, 2], "counts": [2]}},
        ],
    }  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    return [f"--coco={tmp_path / 'instances.json'}", f"--images={images}"]


def test_things_of_coco_are_cut_out_and_what_is_not_is_listed(coco, tmp_path, capsys):
    out = tmp_path / "pack"
    report = tmp_path / "report.json"
    assert make_pack.main([*coco, f"--out={out}", f"--json={report}"]) == 0
    cutouts = {row["key"]: row for row in rows_of(out / "cutouts.jsonl")}
    assert {key: (row["class"], row["colour"]) for key, row in cutouts.items()} == {
        "coco/10": ("car", "red"), "coco/14": ("cup", "green"),
    }  # fmt: skip
    assert cutouts["coco/10"]["licence"] == "Attribution"
    car = load_cutout(str(out), cutouts["coco/10"]["file"])
    assert np.abs(car[25, 40].astype(int) - (*RED, 255)).max() < 25  # WebP loses some
    assert car.shape[0] == pytest.approx(50, abs=3)
    assert car.shape[1] == pytest.approx(80, abs=3)
    causes = {row["key"]: row["cause"] for row in rows_of(out / "rejected.jsonl")}
    assert causes == {
        "coco/11": "cut off by the picture's edge", "coco/12": "smaller than the least size",
        "coco/13": "many in one mask", "coco/16": "broken annotation",
        "coco/15": "picture is missing or cannot be read", "coco/picture_3": "picture is missing or cannot be read",
    }  # fmt: skip
    # The kitchen, in which nothing moves by itself, is a background; the street is none.
    (kitchen,) = rows_of(out / "backgrounds.jsonl")
    assert kitchen["source"] == "COCO kitchen.png"
    assert kitchen["objects"] == ["cup"]
    assert json.loads(report.read_text())["rejected"]["broken annotation"] == 1
    assert "rejected 6, listed in" in capsys.readouterr().out


def test_a_run_that_was_killed_goes_on(coco, tmp_path):
    out, whole = tmp_path / "pack", tmp_path / "whole"
    assert make_pack.main([*coco, f"--out={whole}"]) == 0
    assert make_pack.main([*coco, f"--out={out}"]) == 0
    lines = (out / "cutouts.jsonl").read_bytes().splitlines(keepends=True)
    (out / "cutouts.jsonl").write_bytes(lines[0] + lines[1][:20])  # the last line is half written
    assert make_pack.main([*coco, f"--out={out}"]) == 0
    for name in ("cutouts.jsonl", "backgrounds.jsonl", "rejected.jsonl"):
        assert rows_of(out / name) == rows_of(whole / name)


def test_what_a_person_can_change_is_tried_again(coco, tmp_path):
    out = tmp_path / "pack"
    assert make_pack.main([*coco, f"--out={out}"]) == 0
    cv2.imwrite(str(tmp_path / "images" / "lost.png"), np.full((80, 80, 3), 90, np.uint8))
    assert make_pack.main([*coco, f"--out={out}"]) == 0
    assert "coco/15" in {row["key"] for row in rows_of(out / "cutouts.jsonl")}
    assert "coco/15" not in {row["key"] for row in rows_of(out / "rejected.jsonl")}


def test_a_class_has_enough(coco, tmp_path):
    listed = json.loads((tmp_path / "instances.json").read_text())
    listed["annotations"].append(listed["annotations"][0] | {"id": 99})
    (tmp_path / "instances.json").write_text(json.dumps(listed))
    out = tmp_path / "pack"
    assert make_pack.main([*coco, f"--out={out}", "--per_class=1", "--no_colours"]) == 0
    assert {row["key"]: row["cause"] for row in rows_of(out / "rejected.jsonl")}["coco/99"] == "enough of its class"
    assert all("colour" not in row for row in rows_of(out / "cutouts.jsonl"))
    assert make_pack.main([*coco, f"--out={out}", "--per_class=2"]) == 0
    assert "coco/99" in {row["key"] for row in rows_of(out / "cutouts.jsonl")}


def test_backgrounds_are_at_most_so_many_in_all_runs(coco, tmp_path):
    listed = json.loads((tmp_path / "instances.json").read_text())
    listed["images"].append({"id": 4, "file_name": "kitchen.png"})
    listed["annotations"].append(listed["annotations"][4] | {"id": 20, "image_id": 4})
    (tmp_path / "instances.json").write_text(json.dumps(listed))
    out = tmp_path / "pack"
    for pictures, keys in ((1, ["coco/picture_2"]), (1, ["coco/picture_2"]), (2, ["coco/picture_2", "coco/picture_4"])):
        assert make_pack.main([*coco, f"--out={out}", f"--pictures={pictures}"]) == 0
        assert [row["key"] for row in rows_of(out / "backgrounds.jsonl")] == keys


def test_a_thing_whose_picture_is_not_listed_is_rejected(coco, tmp_path):
    listed = json.loads((tmp_path / "instances.json").read_text())
    listed["annotations"].append(listed["annotations"][0] | {"id": 21, "image_id": 9})
    (tmp_path / "instances.json").write_text(json.dumps(listed))
    assert make_pack.main([*coco, f"--out={tmp_path / 'pack'}"]) == 0
    (row,) = (row for row in rows_of(tmp_path / "pack" / "rejected.jsonl") if row["key"] == "coco/21")
    assert row["cause"] == "picture is missing or cannot be read"
    assert row["detail"] == "no picture 9 is listed"


def test_compressed_run_lengths_say_what_plain_ones_do():
    # "0:4" of a 3 x 4 picture in COCO's text: 5 outside, then 2, 2 and 3; the third counts from the first, and so on.
    runs = [5, 2, 2, 3]

    def text(value):
        characters = ""
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            characters += chr(bits + (32 if more else 0) + 48)
            if not more:
                return characters

    compressed = "".join(text(value) for value in (runs[0], runs[1], runs[2], runs[3] - runs[1]))
    plain = mask_of({"size": [3, 4], "counts": runs}, (3, 4))
    np.testing.assert_array_equal(mask_of({"size": [3, 4], "counts": compressed}, (3, 4)), plain)
    np.testing.assert_array_equal(plain.T.reshape(-1) > 0, [0, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1])
    with pytest.raises(RejectedError):
        mask_of({"size": [3, 4], "counts": [5]}, (3, 4))


@pytest.fixture
def davis(tmp_path):
    folder = tmp_path / "davis"
    for name in ("walk", "two", "nameless"):
        for kind in ("JPEGImages", "Annotations"):
            (folder / kind / "480p" / name).mkdir(parents=True)
        for frame in range(12):
            picture, mask = np.full((90, 160, 3), 100, np.uint8), np.zeros((90, 160), np.uint8)
            x = 10 + 6 * frame
            picture[20:80, x : x + 40], mask[20:80, x : x + 40] = GREEN, 1
            if name == "two":
                mask[20:60, 115:155] = 2
            cv2.imwrite(str(folder / "JPEGImages" / "480p" / name / f"{frame:05d}.jpg"), picture[..., ::-1])
            cv2.imwrite(str(folder / "Annotations" / "480p" / name / f"{frame:05d}.png"), mask)
    classes = {"walk": {"class": "dog", "facing": "right"}, "two": {"1": "person", "2": "bicycle"}}
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    return [f"--masks={folder}", f"--classes={tmp_path / 'classes.json'}"]


@pytest.fixture
def cameras(tmp_path):
    folder = tmp_path / "cameras"
    folder.mkdir()
    cv2.imwrite(str(folder / "still.png"), np.full((60, 100, 3), 77, np.uint8))
    (folder / "notes.txt").write_text("no picture")
    with av.open(str(folder / "yard.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(40):
            frame = np.full((48, 64, 3), 120, np.uint8)
            frame[10:30, number : number + 12] = 250  # who passes is not in the median
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return [f"--backgrounds={folder}"]


def test_masks_give_moving_cutouts_and_videos_the_empty_place(davis, cameras, tmp_path):
    out = tmp_path / "pack"
    assert make_pack.main([*davis, *cameras, f"--out={out}", "--licence=CC-BY-4.0"]) == 0
    cutouts = {row["key"]: row for row in rows_of(out / "cutouts.jsonl")}
    assert {key: row["class"] for key, row in cutouts.items()} == {
        "masks/walk": "dog", "masks/two_1": "person", "masks/two_2": "bicycle",
    }  # fmt: skip
    assert cutouts["masks/walk"]["frames"] == [0, 2, 4, 6, 8, 10]
    assert cutouts["masks/walk"]["facing"] == "right"
    causes = {row["key"]: row["cause"] for row in rows_of(out / "rejected.jsonl")}
    assert causes == {"masks/nameless": "no class given", "own/notes": "picture is missing or cannot be read"}
    backgrounds = {row["key"]: row for row in rows_of(out / "backgrounds.jsonl")}
    assert {key: row["camera"] for key, row in backgrounds.items()} == {"own/still": None, "own/yard": "yard"}
    yard = cv2.imread(str(out / backgrounds["own/yard"]["file"])).astype(int)
    assert np.abs(yard - 120).max() < 20
    # And it is a pack.
    pack = read_pack(str(out))
    assert pack.cameras == ("yard",)
    assert {cutout.rate_hz for cutout in pack.cutouts} == {12.0}
    world = RealWorldConfig(str(out), clip_s=6.0, frame_px=48, appearance=RealAppearance(codecs=(("none", 1.0),)))
    assert make_clip(world, 0, 0).frames.shape == (38, 48, 48, 3)


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((200, 30, 30), "red"), ((250, 250, 250), "white"), ((20, 20, 25), "black"), ((120, 122, 125), "grey"),
        ((30, 60, 200), "blue"), ((120, 80, 40), "brown"), ((240, 220, 40), "yellow"),
    ],
)  # fmt: skip
def test_a_plain_colour_has_a_word(rgb, word):
    cut = np.full((20, 20, 4), (*rgb, 255), np.uint8)
    assert plain_colour(cut) == word
    cut[:, :7, :3], cut[:, 7:14, :3] = (200, 30, 30), (30, 160, 60)
    cut[:, 14:, :3] = (30, 60, 200)
    assert plain_colour(cut) == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name what to make it from"),
        (["--coco=x.json"], "--coco needs --images"),
        (["--masks=x"], "--masks needs --classes"),
        (["--coco={tmp}/bad.json", "--images=."], "is no JSON"),
        (["--coco={tmp}/list.json", "--images=."], "is no instances file"),
        (["--masks={tmp}", "--classes={tmp}/empty.json"], "as DAVIS has them"),
        (["--masks={tmp}/davis", "--classes={tmp}/typo.json"], "'walk' needs a `class`"),
        (["--backgrounds={tmp}/none"], "no pictures or videos"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(davis, tmp_path, capsys, flags, message):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "typo.json").write_text('{"walk": {"clas": "dog"}}')
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    assert make_pack.main([f"--out={tmp_path / 'pack'}", *flags]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
