"""A pack of painted things, for tests: a person, a walking dog, cars, a cup, a ball, a hand, a chair."""

import json
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.world.real.pack import BACKGROUNDS_FILE, CLIPS_FILE, CUTOUTS_FILE

_SHAPES = {
    "person": (60, 24), "car": (30, 60), "dog": (24, 40), "cup": (24, 20), "sports ball": (24, 24), "hand": (50, 26),
    "chair": (40, 30),
}  # fmt: skip


def write_cutout(path: Path, shape: tuple[int, int], colour: tuple[int, int, int], seed: int = 0):
    """An ellipse with grain, on a transparent ground. `colour` is RGB."""
    height, width = shape
    picture = np.zeros((height, width, 4), np.uint8)
    cv2.ellipse(picture, (width // 2, height // 2), (width // 2 - 1, height // 2 - 1), 0, 0, 360, (*colour, 255), -1)
    grain = np.random.default_rng(seed).integers(0, 40, (height, width, 1), np.uint8)
    picture[..., :3] = cv2.subtract(picture[..., :3], np.repeat(grain, 3, axis=2))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA))


def write_pack(folder: Path) -> Path:
    """The pack in `folder`. The red car was cut from the clip `road_a` of the camera `cam_road`."""
    rows = [
        {"class": "person", "colour": "blue", "facing": "right", "rgb": (40, 60, 200)},
        {"class": "person", "colour": "black", "facing": "front", "rgb": (30, 30, 30)},
        {"class": "car", "colour": "red", "facing": "right", "rgb": (200, 30, 30), "camera_clip": "road_a"},
        {"class": "car", "colour": "silver", "facing": "none", "rgb": (170, 170, 175)},
        {"class": "car", "colour": "white", "facing": "left", "rgb": (240, 240, 240), "view": "top"},
        {"class": "cup", "colour": "green", "rgb": (40, 170, 60)},
        {"class": "sports ball", "colour": "orange", "rgb": (240, 140, 30)},
        {"class": "hand", "rgb": (200, 150, 120)},
        {"class": "chair", "rgb": (120, 90, 50)},
    ]
    cutouts = []
    for number, row in enumerate(rows):
        file = f"cutouts/{number}.png"
        write_cutout(folder / file, _SHAPES[row["class"]], row.pop("rgb"), number)
        cutouts.append({"file": file, "licence": "CC0", **row})
    files = [f"cutouts/dog/{number}.png" for number in range(4)]
    for number, file in enumerate(files):
        write_cutout(folder / file, (24, 40 - 3 * number), (150, 110, 60), 20 + number)
    cutouts.append({"file": files[0], "files": files, "frames": [0, 2, 4, 6], "source_fps": 24, "class": "dog",
                    "facing": "left", "licence": "CC0"})  # fmt: skip
    backgrounds = []
    for number, camera in enumerate(("cam_road", "cam_yard", None)):
        file = f"backgrounds/{number}.png"
        rng = np.random.default_rng(100 + number)
        picture = cv2.resize(rng.integers(60, 200, (9, 16, 3), np.uint8), (192, 108))
        (folder / "backgrounds").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / file), picture)
        backgrounds.append({"file": file, "camera": camera, "licence": "CC-BY-4.0"})
    clips = [{"file": "clips/road_a.mp4", "camera": "cam_road"}, {"file": "clips/yard.mp4", "camera": "cam_yard"}]
    for name, listed in ((CUTOUTS_FILE, cutouts), (BACKGROUNDS_FILE, backgrounds), (CLIPS_FILE, clips)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8")
    return folder
