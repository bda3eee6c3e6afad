"""A pack: a folder with cut-outs of real things and real backgrounds, which the look `real` is made of.

    DIR/cutouts.jsonl       one cut-out a line: `file` (RGBA picture in DIR), `class`, and, where known, `colour`,
                            `facing` ("left", "right", "front"; "none": unsure), `view` ("top": seen from above),
                            `camera_clip` or `camera` (what it was cut from), `licence`, `role` and `height_m`
                            (`traits.py`); of a moving one also `files`, `frames` (their numbers) and `source_fps`
    DIR/backgrounds.jsonl   one background a line: `file`, and, where they are known, the `camera` whose view it is, the
                            `objects` in it (classes) and its `licence`
    DIR/clips.jsonl         only read to learn which `camera` a `camera_clip` is of (`file`, `camera`)

`launch.make_pack` makes such a folder from COCO's instances or from masks of videos.
"""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipelines.cameras import matching_cameras
from data_pipelines.world.event_words import CLASSES, colour_of
from data_pipelines.world.real.traits import ROLES, TRAITS, trait_of

CUTOUTS_FILE, BACKGROUNDS_FILE, CLIPS_FILE = "cutouts.jsonl", "backgrounds.jsonl", "clips.jsonl"
FACINGS = ("left", "right", "front", "none")
# Cut-outs that a process keeps decoded: at most 90 MB of those that `launch.make_pack` writes (192 px).
_KEPT_PICTURES = 600


class PackError(ValueError):
    """A folder that is no pack, or a line of it that cannot be used; says where."""


@dataclasses.dataclass(frozen=True)
class Cutout:
    """A thing without its surroundings.

    Attributes:
      files: RGBA pictures, relative to the pack; several of one that moves.
      class_name: as the pack names it.
      colour: a word of `event_words.COLOURS`, "" if the pack says none.
      facing: one of `FACINGS`.
      from_above: whether it was seen from above.
      rate_hz: pictures a second of one that moves, 0 of one that does not.
      camera: what it was cut from, "" if from no fixed camera, None if from a clip of which nobody knows the camera.
      licence: under which it may be used.
      role, height_m: see `traits.Trait`.
    """

    files: tuple[str, ...]
    class_name: str
    colour: str
    facing: str
    from_above: bool
    rate_hz: float
    camera: str | None
    licence: str
    role: str
    height_m: float


@dataclasses.dataclass(frozen=True)
class Background:
    """A picture without what moves.

    Attributes:
      file: relative to the pack.
      camera: the fixed camera whose view it is, "" of a photograph.
      objects: classes of what is in it, as far as the pack says.
      licence: under which it may be used.
    """

    file: str
    camera: str
    objects: tuple[str, ...]
    licence: str

    @property
    def place(self) -> str:
        """By what is in it "outdoors" or "indoors", and "" where nothing tells."""
        roles = [trait_of(name).role for name in self.objects if name in TRAITS]
        outdoors = sum(role in ("vehicle", "walker", "flyer") for role in roles)
        return "" if not roles or 2 * outdoors == len(roles) else "outdoors" if 2 * outdoors > len(roles) else "indoors"


@dataclasses.dataclass(frozen=True)
class Pack:
    """What may be used of a pack.

    Attributes:
      root: the folder.
      cutouts, backgrounds: in the order of the files.
      excluded: how many cut-outs and backgrounds `exclude_cameras` took out.
      fingerprint: SHA-256 of all lines and of the pictures' sizes in bytes. A picture that was changed and has as many
        bytes as before is not noticed.
    """

    root: str
    cutouts: tuple[Cutout, ...]
    backgrounds: tuple[Background, ...]
    excluded: tuple[int, int]
    fingerprint: str

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes that may be spoken of: those that are always known, and the pack's own."""
        return (*CLASSES, *sorted({cutout.class_name for cutout in self.cutouts} - set(CLASSES)))

    @property
    def cameras(self) -> tuple[str, ...] | None:
        """The cameras of which pictures may be used; None where the pack does not know them all."""
        return None if any(one.camera is None for one in self.cutouts) else _cameras_of(self.cutouts, self.backgrounds)

    def by_class(self, role: str, *, from_above: bool = False) -> dict[str, list[Cutout]]:
        """The cut-outs of a role by class."""
        found: dict[str, list[Cutout]] = collections.defaultdict(list)
        for cutout in self.cutouts:
            if cutout.role == role and cutout.from_above == from_above:
                found[cutout.class_name].append(cutout)
        return dict(found)


@functools.lru_cache(maxsize=8)
def read_pack(root: str, exclude_cameras: str = "") -> Pack:
    """Reads a pack's lists; its pictures are read as they are needed.

    Args:
      root: the folder.
      exclude_cameras: a regular expression of whole names; nothing is used that is of such a camera, so that a model
        can be judged on them. "" for none.

    Raises:
      PackError: there is no such folder or list, a line is not usable, nothing is left, or it is unknown of which
        cameras cut-outs are, and some are excluded.
    """
    folder = Path(root)
    if not root or not folder.is_dir():
        raise PackError(
            f"config.world.pack={root!r}: the look `real` needs a folder with {CUTOUTS_FILE} and {BACKGROUNDS_FILE}; "
            "give --config.world.pack=DIR, or make one: python -m launch.make_pack --help"
        )
    rows = {name: _rows(folder / name) for name in (CUTOUTS_FILE, BACKGROUNDS_FILE)}
    camera_of = _cameras_of_clips(folder)
    cutouts = [_cutout(row, where, camera_of) for row, where in rows[CUTOUTS_FILE]]
    backgrounds = [_background(row, where) for row, where in rows[BACKGROUNDS_FILE]]
    banned = _excluded(exclude_cameras, cutouts, backgrounds, folder)
    kept_cutouts = tuple(one for one in cutouts if one.camera not in banned)
    kept_backgrounds = tuple(one for one in backgrounds if one.camera not in banned)
    for kept, name in ((kept_cutouts, CUTOUTS_FILE), (kept_backgrounds, BACKGROUNDS_FILE)):
        if not kept:
            raise PackError(f"{folder / name} has nothing to use{' but what is excluded' if exclude_cameras else ''}")
    return Pack(
        root,
        kept_cutouts,
        kept_backgrounds,
        (len(cutouts) - len(kept_cutouts), len(backgrounds) - len(kept_backgrounds)),
        _fingerprint(folder, kept_cutouts, kept_backgrounds),
    )


def _rows(path: Path) -> list[tuple[dict[str, Any], str]]:
    if not path.is_file():
        raise PackError(f"{path} is missing: a pack has {CUTOUTS_FILE} and {BACKGROUNDS_FILE}")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise PackError(f"{where} is no JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("file"), str):
            raise PackError(f"{where} needs a `file`")
        rows.append((row, where))
    return rows


def _cameras_of_clips(folder: Path) -> dict[str, str]:
    """The camera of each clip, by the name of its file without suffix."""
    path = folder / CLIPS_FILE
    if not path.is_file():
        return {}
    return {Path(row["file"]).stem: row["camera"] for row, _ in _rows(path) if row.get("camera")}


def _cutout(row: dict[str, Any], where: str, camera_of: dict[str, str]) -> Cutout:
    name = row.get("class")
    if not isinstance(name, str) or not name.strip():
        raise PackError(f"{where} needs a `class`")
    facing = row.get("facing") or "none"
    if facing not in FACINGS:
        raise PackError(f"{where}: facing {facing!r} is unknown, choose one of {FACINGS}")
    try:
        colour = colour_of(row.get("colour"))
    except ValueError as error:
        raise PackError(f"{where}: {error}") from error
    role = row.get("role") or trait_of(name).role
    if role not in ROLES:
        raise PackError(f"{where}: role {role!r} is unknown, choose one of {ROLES}")
    height_m = row.get("height_m") or trait_of(name).height_m
    if not isinstance(height_m, int | float) or not 0 < height_m < 100:
        raise PackError(f"{where}: height_m must be metres above 0 and below 100, got {height_m!r}")
    files, rate_hz = tuple(row.get("files") or [row["file"]]), 0.0
    if len(files) > 1:
        fps, numbers = row.get("source_fps"), row.get("frames") or list(range(len(files)))
        if not fps or len(numbers) != len(files) or numbers[-1] <= numbers[0]:
            raise PackError(f"{where}: a moving cut-out needs `source_fps`, and `frames` as long as `files`")
        rate_hz = fps * (len(files) - 1) / (numbers[-1] - numbers[0])
    clip = row.get("camera_clip") or ""
    camera = row.get("camera") or (camera_of.get(clip) if clip else "")
    return Cutout(
        files, name, colour, facing, row.get("view") == "top", rate_hz, camera, str(row.get("licence", "")), role,
        float(height_m),
    )  # fmt: skip


def _background(row: dict[str, Any], where: str) -> Background:
    camera = row.get("camera") or ""
    if not isinstance(camera, str):
        raise PackError(f"{where}: camera must be a name, got {camera!r}")
    return Background(row["file"], camera, tuple(row.get("objects") or ()), str(row.get("licence", "")))


def _cameras_of(cutouts: Sequence[Cutout], backgrounds: Sequence[Background]) -> tuple[str, ...]:
    named = {cutout.camera or "" for cutout in cutouts} | {background.camera for background in backgrounds}
    return tuple(sorted(named - {""}))


def _excluded(
    pattern: str, cutouts: Sequence[Cutout], backgrounds: Sequence[Background], folder: Path
) -> frozenset[str]:
    if not pattern:
        return frozenset()
    unknown = [cutout.files[0] for cutout in cutouts if cutout.camera is None]
    if unknown:
        raise PackError(
            f"exclude_cameras: nobody says of which camera {unknown[0]} and {len(unknown) - 1} other cut-outs are: "
            f"give them a `camera`, or list their `camera_clip` with its camera in {folder / CLIPS_FILE}"
        )
    try:
        return matching_cameras(pattern, _cameras_of(cutouts, backgrounds))
    except ValueError as error:
        raise PackError(f"exclude_cameras: {error}") from error


def _fingerprint(folder: Path, cutouts: Sequence[Cutout], backgrounds: Sequence[Background]) -> str:
    digest = hashlib.sha256()
    digest.update(repr((cutouts, backgrounds)).encode())
    for files in (*(cutout.files for cutout in cutouts), *((one.file,) for one in backgrounds)):
        for file in files:
            path = folder / file
            if not path.is_file():
                raise PackError(f"{path} is listed in the pack and not there")
            digest.update(str(path.stat().st_size).encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=_KEPT_PICTURES)
def load_cutout(root: str, file: str) -> np.ndarray:
    """A cut-out's picture as uint8 [h, w, 4]: RGB times coverage, and coverage (of 255). Not to be written to.

    Raises:
      PackError: it cannot be read, has no alpha, or is empty.
    """
    picture = cv2.imread(str(Path(root) / file), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.ndim != 3 or picture.shape[2] != 4 or picture.dtype != np.uint8:
        raise PackError(f"{Path(root) / file} is no picture with an alpha channel (8-bit RGBA in PNG or WebP)")
    rows, columns = (np.flatnonzero(picture[..., 3].max(axis=axis) > _FAINT) for axis in (1, 0))
    if not len(rows):
        raise PackError(f"{Path(root) / file} is wholly transparent")
    picture = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    solid = cv2.LUT(picture[..., 3], _SOLID)
    rgb = cv2.cvtColor(
        cv2.multiply(picture[..., :3], cv2.cvtColor(solid, cv2.COLOR_GRAY2BGR), scale=1 / 255), cv2.COLOR_BGR2RGB
    )
    out = np.dstack([rgb, solid])
    out.setflags(write=False)
    return out


# Coverage up to here, of 255, does not count for a thing's extent.
_FAINT = 64
# Mattes made by networks are often half transparent inside: through a person one does not see.
_SOLID = np.clip((np.arange(256) - 48) * (255 / 144), 0, 255).astype(np.uint8)


@functools.lru_cache(maxsize=64)
def load_background(root: str, file: str) -> np.ndarray:
    """A background as uint8 [h, w, 3] RGB. Not to be written to.

    Raises:
      PackError: it cannot be read.
    """
    picture = cv2.imread(str(Path(root) / file), cv2.IMREAD_COLOR)
    if picture is None:
        raise PackError(f"{Path(root) / file} is no picture that can be read")
    out = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    out.setflags(write=False)
    return out
