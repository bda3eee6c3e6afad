"""Files for the notebook: what is uploaded, which folder is a checkpoint, and the videos that are to be watched."""

import contextlib
import dataclasses
import importlib
import itertools
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.schema import Event
from data_pipelines.source_info import camera_index
from data_pipelines.sources.folder_listing import VIDEO_SUFFIXES
from data_pipelines.world import WorldConfig
from data_pipelines.world.files import write_clip_files
from launch.caption import PICTURE_SUFFIXES, files_of
from launch.evaluate import UNSEEN_SEED
from mmduplex_jax.weights import portable

# What a training's workdir holds its checkpoints in.
_CHECKPOINTS = "checkpoints"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Video:
    """A video that is to be watched, or a picture.

    Attributes:
      name: what to call it; no two of a list have the same, and each can name a file.
      source: a path, an address, or a camera's number.
      events: what happens in it, where somebody knows (the world does); None where nobody does.
    """

    name: str
    source: str
    events: tuple[Event, ...] | None = None


def upload_into(folder: str | Path) -> list[Path]:
    """Opens Colab's dialog, keeps what is chosen in `folder`, and unpacks archives (.zip) there.

    Returns:
      The files that were chosen, or of an archive the files that were in it.

    Raises:
      RuntimeError: this is not Colab, so there is no dialog.
      ValueError: nothing was chosen, or an archive is broken.
    """
    try:
        files = importlib.import_module("google.colab.files")
    except ModuleNotFoundError as error:
        raise RuntimeError(
            "a dialog to upload files is there in Colab only: elsewhere put the files where this machine sees them, "
            "and give their path"
        ) from error
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # The dialog also leaves a copy of its own in the folder that is current.
    with contextlib.chdir(folder):
        chosen = files.upload()
    if not chosen:
        raise ValueError("no file was chosen: run the cell again, or turn the upload off")
    kept: list[Path] = []
    for name, content in chosen.items():
        path = folder / Path(name).name
        path.write_bytes(content)
        kept += _unpacked(path) if path.suffix.lower() == ".zip" else [path]
    return kept


def _unpacked(archive: Path) -> list[Path]:
    """Unpacks an archive into a folder of its name, and returns the files."""
    folder = archive.with_suffix("")
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # names that lead out of the folder are bent back into it
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive.name} is no archive that can be read ({error}): upload it again") from error
    # Some archives carry a second tree of one system's notes, whose files have the names of the others.
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__MACOSX" not in path.parts)


def find_checkpoint(folder: str | Path) -> Path:
    """The one checkpoint in a folder, or in a folder below: what was zipped or uploaded often has folders around it.

    Raises:
      FileNotFoundError: there is none.
      ValueError: there are several.
    """
    folder = Path(folder)
    below = sorted(path for path in folder.rglob("*") if path.is_dir()) if folder.is_dir() else []
    found = [path for path in [folder, *below] if portable.is_portable(path) or (path / _CHECKPOINTS).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"no checkpoint in {folder}: neither a portable one ({portable.METADATA_FILE}, {portable.PARAMS_FILE}) nor "
            f"a workdir of `python -m launch.train` ({_CHECKPOINTS}/STEP)"
        )
    if len(found) > 1:
        raise ValueError(f"{folder} holds several checkpoints: give one of {', '.join(map(str, found))}")
    return found[0]


def collect_videos(
    listed: str,
    folder: str | Path,
    *,
    upload: bool = False,
    world_clips: int = 0,
    look: str = "plain",
    clip_s: float = 12.0,
    seed: int = UNSEEN_SEED,
) -> list[Video]:
    """Videos from anywhere: those that are listed, those that a dialog uploads, and new clips of the built-in world.

    Args:
      listed: files, folders (the videos and pictures in them), addresses or a camera's number, with commas between
        them; "" for none.
      folder: where uploads and clips of the world are written.
      upload: whether to ask for files (in Colab).
      world_clips: how many clips of the world.
      look: of these clips, "plain" or "rich".
      clip_s: their length.
      seed: of these clips; no config trains on the default.

    Raises:
      FileNotFoundError: something that is listed is not there.
      ValueError: there is nothing to watch at all, or the world knows no such look.
    """
    sources = [source for part in listed.split(",") if part.strip() for source in _listed(part.strip())]
    if upload:
        sources += _videos_of(upload_into(Path(folder) / "uploaded"))
    videos = [Video(Path(source).stem or source, source) for source in sources]
    if world_clips:
        world = Path(folder) / "world"
        world.mkdir(parents=True, exist_ok=True)
        config = WorldConfig(look=look, clip_s=clip_s)
        for index in range(world_clips):
            files = write_clip_files(world, config, seed, index)
            facts = json.loads(files.events.read_text(encoding="utf-8"))
            events = tuple(Event(**event) for event in facts["events"])
            videos.append(Video(f"{look} world, clip {index}", str(files.video), events))
    if not videos:
        raise ValueError("there is nothing to watch: list a video, upload one, or ask for a clip of the world")
    names = _distinct([video.name for video in videos])
    return [dataclasses.replace(video, name=name) for video, name in zip(videos, names)]


def _videos_of(files: Sequence[Path]) -> list[str]:
    suffixes = VIDEO_SUFFIXES | PICTURE_SUFFIXES
    videos = [str(file) for file in files if file.suffix.lower() in suffixes]
    if not videos:
        raise ValueError(
            f"no video and no picture among what was uploaded ({', '.join(file.name for file in files)}): their names "
            f"end in {', '.join(sorted(suffixes))}"
        )
    return videos


def _listed(source: str) -> list[str]:
    if camera_index(source) is not None or _URL.match(source):
        return [source]
    if not Path(source).exists():
        raise FileNotFoundError(f"there is no {source}: videos are listed as paths or addresses, with commas between")
    return files_of(source)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names as files may have them, with a number after those that were there before."""
    distinct: list[str] = []
    for name in names:
        plain = re.sub(r"[^\w .,()-]+", "_", name)
        numbered = (f"{plain} ({number})" for number in itertools.count(2))
        distinct.append(next(one for one in itertools.chain([plain], numbered) if one not in distinct))
    return distinct
