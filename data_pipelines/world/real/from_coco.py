"""Cut-outs and backgrounds from COCO's instances: a JSON of annotations and a folder of pictures."""

import collections
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.world.real.pack import PackError
from data_pipelines.world.real.pack_writer import (
    BROKEN,
    CROWD,
    ENOUGH,
    NO_PICTURE,
    PackWriter,
    RejectedError,
    cut_out,
    plain_colour,
)
from data_pipelines.world.real.traits import trait_of

# Who moves about makes a bad background: it would stand there without its words.
_RESTLESS = ("walker", "vehicle", "flyer", "hand")


def add_coco(
    writer: PackWriter, instances: Path, images: Path, *, per_class: int, backgrounds: int, colours: bool
) -> Iterator[str]:  # fmt: skip
    """Adds the things of an instances file, and pictures in which nothing is that moves.

    Args:
      writer: of the pack.
      instances: COCO's JSON with `images`, `annotations` and `categories`.
      images: the folder with the pictures.
      per_class: cut-outs of a class in the pack at most.
      backgrounds: at most so many of the pack's are from COCO, those of earlier runs counted.
      colours: whether the colour of things of mostly one colour is written down.

    Yields:
      The key of each annotation and picture when it is done.

    Raises:
      PackError: the JSON is none of COCO's instances.
      OSError: it cannot be read, or the pack not be written.
    """
    listed = _read(instances)
    taken = sum(key.startswith("coco/") for key in writer.background_keys)
    names = {category["id"]: category["name"] for category in listed["categories"]}
    licences = {licence["id"]: licence.get("name", "") for licence in listed.get("licenses", ())}
    of_picture = collections.defaultdict(list)
    for annotation in listed["annotations"]:
        of_picture[annotation.get("image_id")].append(annotation)
    for picture in sorted(listed["images"], key=lambda one: one["id"]):
        things = of_picture.pop(picture["id"], [])
        licence = licences.get(picture.get("license"), "")
        pixels: np.ndarray | None = None
        for thing in sorted(things, key=lambda one: one["id"]):
            key = f"coco/{thing['id']}"
            if key in writer.done:
                continue
            try:
                name = names.get(thing.get("category_id"))
                if name is None:
                    raise RejectedError(BROKEN, f"no category {thing.get('category_id')}")
                if thing.get("iscrowd"):
                    raise RejectedError(CROWD)
                if writer.classes[name] >= per_class:
                    raise RejectedError(ENOUGH, name)
                pixels = _pixels(images, picture) if pixels is None else pixels
                cut = cut_out(pixels, mask_of(thing.get("segmentation"), pixels.shape[:2]))
                colour = {"colour": plain_colour(cut)} if colours else {}
                facts = {"class": name, "source": f"COCO {picture['file_name']}", "licence": licence}
                writer.add_cutout(key, [cut], **facts, **colour)
            except RejectedError as error:
                writer.reject(key, error)
            yield key
        key = f"coco/picture_{picture['id']}"
        classes = sorted({names.get(thing.get("category_id"), "") for thing in things} - {""})
        restless = any(trait_of(name).role in _RESTLESS for name in classes)
        if key in writer.done or restless or not things or taken >= backgrounds:
            continue
        try:
            pixels = _pixels(images, picture) if pixels is None else pixels
            writer.add_background(
                key, pixels, camera=None, objects=classes, source=f"COCO {picture['file_name']}", licence=licence
            )
            taken += 1
        except RejectedError as error:
            writer.reject(key, error)
        yield key
    for thing in itertools.chain.from_iterable(of_picture.values()):
        key = f"coco/{thing['id']}"
        if key not in writer.done:
            writer.reject(key, RejectedError(NO_PICTURE, f"no picture {thing.get('image_id')!r} is listed"))
            yield key


def count_coco(instances: Path) -> int:
    """How many things and pictures there are, for a progress bar; errors as `add_coco`."""
    listed = _read(instances)
    return len(listed["annotations"]) + len(listed["images"])


def _read(instances: Path) -> dict[str, Any]:
    try:
        listed = json.loads(instances.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise PackError(f"{instances} is no JSON: {error}") from error
    if not isinstance(listed, dict) or not {"images", "annotations", "categories"} <= listed.keys():
        raise PackError(f"{instances} is no instances file of COCO: it needs `images`, `annotations` and `categories`")
    return listed


def _pixels(images: Path, picture: dict[str, Any]) -> np.ndarray:
    path = images / picture["file_name"]
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if pixels is None:
        raise RejectedError(NO_PICTURE, picture["file_name"])
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def mask_of(segmentation: Any, shape: tuple[int, int]) -> np.ndarray:
    """A mask, uint8 [H, W], of any of COCO's forms: polygons, run lengths as numbers, or as its compressed text.

    Raises:
      RejectedError: it is none of them, or of another size than the picture.
    """
    if isinstance(segmentation, list):
        mask = np.zeros(shape, np.uint8)
        try:
            polygons = [np.array(one, np.float64).reshape(-1, 2) for one in segmentation]
        except ValueError as error:
            raise RejectedError(BROKEN, f"polygon: {error}") from error
        cv2.fillPoly(mask, [np.rint(polygon).astype(np.int32) for polygon in polygons if len(polygon) > 2], 255)
        return mask
    if not isinstance(segmentation, dict) or tuple(segmentation.get("size", ())) != shape:
        raise RejectedError(BROKEN, "segmentation is neither polygons nor run lengths of the picture's size")
    counts = segmentation.get("counts")
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or sum(runs) != shape[0] * shape[1] or min(runs, default=0) < 0:
        raise RejectedError(BROKEN, "run lengths do not fill the picture")
    # Outside first, then inside, in turn; down the columns.
    flat = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)
    return 255 * flat.reshape(shape[::-1]).T


def _decompressed(text: str) -> list[int]:
    """Run lengths of COCO's compressed text: five bits a character, lowest first; from the third on differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs
