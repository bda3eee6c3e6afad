"""Moving cut-outs from folders of masks as DAVIS has them; backgrounds from pictures and videos of fixed cameras."""

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from data_pipelines.world.real.pack import PackError
from data_pipelines.world.real.pack_writer import (
    NO_CLASS,
    NO_PICTURE,
    TOO_SHORT,
    PackWriter,
    RejectedError,
    cut_out,
)

PICTURES, MASKS = "JPEGImages", "Annotations"
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# A thing must be there in so many pictures to be one that moves.
_LEAST_FRAMES = 5
_MOST_FRAMES = 60
# The median of so many pictures of a video is what stands still in it.
_MEDIAN_FRAMES = 31
# A video whose container does not count its frames (WebM) is taken for so long: its median is of its beginning.
_UNKNOWN_LENGTH = 300
_FACTS = ("class", "facing", "colour", "camera", "licence", "height_m", "role")


def add_masks(
    writer: PackWriter, folder: Path, classes: Mapping[str, Any], *, fps: float, stride: int, licence: str
) -> Iterator[str]:  # fmt: skip
    """Adds the things of all sequences `JPEGImages/<name>/*.jpg` with `Annotations/<name>/*.png`, one level down too.

    Args:
      writer: of the pack.
      folder: with both folders.
      classes: for each sequence a class, or facts ({"class": "dog", "facing": "left"}), or one of these for each
        number in its masks ({"1": "person", "2": "bicycle"}).
      fps: pictures a second of the sequences.
      stride: every how many of them is taken.
      licence: of all of it.

    Yields:
      The key of each thing when it is done.

    Raises:
      PackError: there are no such folders, or `classes` is of no known form.
      OSError: the pack cannot be written.
    """
    for name, pictures, masks in sequences(folder):
        given = classes.get(name)
        of_number = given if isinstance(given, dict) and "class" not in given else {"": given}
        for number, facts in of_number.items():
            if number and not number.isdecimal():
                raise PackError(
                    f"--classes: {name!r} needs a `class`, or a class for each number in its masks; got {given!r}"
                )
            key = f"masks/{name}" + (f"_{number}" if number else "")
            if key in writer.done:
                continue
            try:
                if facts is None:
                    raise RejectedError(NO_CLASS, f"name it in --classes: {{{name!r}: CLASS}}")
                known = _facts(name, {"class": facts} if isinstance(facts, str) else facts)
                cuts, numbers = _cuts(pictures, masks, int(number) if number else None, stride)
                writer.add_cutout(
                    key, cuts, **{"source": f"masks {name}", "licence": licence, **known},
                    frames=numbers, source_fps=fps,
                )  # fmt: skip
            except RejectedError as error:
                writer.reject(key, error)
            yield key


def sequences(folder: Path) -> list[tuple[str, Path, Path]]:
    """(name, folder of pictures, folder of masks) of each sequence.

    Raises:
      PackError: there are none.
    """
    found = []
    for masks in sorted(path for path in (folder / MASKS).glob("**/*") if path.is_dir()):
        pictures = folder / PICTURES / masks.relative_to(folder / MASKS)
        if pictures.is_dir() and any(masks.glob("*.png")):
            found.append((masks.name, pictures, masks))
    if not found:
        raise PackError(f"{folder} has no {PICTURES}/NAME/*.jpg with {MASKS}/NAME/*.png, as DAVIS has them")
    return found


def read_classes(path: Path) -> dict[str, Any]:
    """The file of --classes.

    Raises:
      PackError: it is no JSON object.
      OSError: it cannot be read.
    """
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise PackError(f"{path} is no JSON: {error}") from error
    if not isinstance(classes, dict):
        raise PackError(f'{path} must be an object: {{"NAME OF A SEQUENCE": "CLASS", ...}}')
    return classes


def _facts(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict) or not isinstance(given.get("class"), str) or not given.keys() <= set(_FACTS):
        raise PackError(f"--classes: {name!r} needs a class, and may have {_FACTS[1:]}; got {given!r}")
    return given


def _cuts(pictures: Path, masks: Path, number: int | None, stride: int) -> tuple[list[np.ndarray], list[int]]:
    """The cut-outs of a sequence and their frames; those in which it is too small or in pieces are left out."""
    cuts: list[np.ndarray] = []
    numbers: list[int] = []
    for frame, path in enumerate(sorted(masks.glob("*.png"))):
        if frame % stride or len(cuts) >= _MOST_FRAMES:
            continue
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        picture = next((p for s in _PICTURE_SUFFIXES if (p := pictures / (path.stem + s)).is_file()), None)
        pixels = None if picture is None else cv2.imread(str(picture), cv2.IMREAD_COLOR)
        if mask is None or pixels is None or mask.shape[:2] != pixels.shape[:2]:
            raise RejectedError(NO_PICTURE, f"{path.name} and its picture")
        labels = mask if mask.ndim == 2 else _labels_of_colours(mask)
        inside = (labels > 0 if number is None else labels == number).astype(np.uint8)
        try:
            cut = cut_out(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), inside, whole=False)
        except RejectedError:
            continue
        cuts.append(cut)
        numbers.append(frame)
    if len(cuts) < _LEAST_FRAMES:
        raise RejectedError(TOO_SHORT, f"{len(cuts)} of {_LEAST_FRAMES}")
    return cuts, numbers


def _labels_of_colours(mask: np.ndarray) -> np.ndarray:
    """Numbers 0, 1, 2 … of a mask whose colours were looked up: as DAVIS's palette has them (bits dealt to R, G, B)."""
    labels = np.zeros(mask.shape[:2], np.int32)
    for number in range(1, 22):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
        labels[np.all(mask[..., 2::-1] == rgb, axis=-1)] = number
    return labels


def add_backgrounds(writer: PackWriter, folder: Path, *, licence: str) -> Iterator[str]:
    """Adds every picture of a folder, and of every video the median picture: what stands still before its camera.

    Pictures of `folder/NAME/` and a video `NAME.mp4` are of the camera NAME; pictures in the folder itself of none.

    Yields:
      The key of each when it is done.

    Raises:
      PackError: there are no files.
      OSError: the pack cannot be written.
    """
    files = sorted(path for path in folder.glob("**/*") if path.is_file())
    if not files:
        raise PackError(f"{folder} has no pictures or videos to make backgrounds of")
    for path in files:
        inside = path.relative_to(folder)
        key = f"own/{inside.with_suffix('').as_posix()}"
        if key in writer.done:
            continue
        still = path.suffix.lower() in _PICTURE_SUFFIXES
        camera = (inside.parts[0] if len(inside.parts) > 1 else None) if still else path.stem
        try:
            picture = _picture(path) if still else _median(path)
            writer.add_background(key, picture, camera=camera, source=inside.as_posix(), licence=licence)
        except RejectedError as error:
            writer.reject(key, error)
        yield key


def _picture(path: Path) -> np.ndarray:
    """A file's pixels, uint8 [H, W, 3] RGB; RejectedError if it is no picture."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise RejectedError(NO_PICTURE, path.name)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _median(path: Path) -> np.ndarray:
    """The median of frames all over a video, uint8 [H, W, 3] RGB; RejectedError if it is none, or too short."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            every = max((stream.frames or _UNKNOWN_LENGTH) // _MEDIAN_FRAMES, 1)
            sampled = itertools.islice(container.decode(stream), 0, 2 * _MEDIAN_FRAMES * every, every)
            frames = [frame.to_ndarray(format="rgb24") for frame in sampled]
    except (av.error.FFmpegError, IndexError) as error:
        raise RejectedError(NO_PICTURE, f"{path.name} is neither a picture nor a video: {error}") from error
    if len(frames) < 3:
        raise RejectedError(TOO_SHORT, f"{path.name} has {len(frames)} frames")
    return np.median(np.stack(frames).astype(np.float32), axis=0).astype(np.uint8)
