"""PE-Video as a source: a unit is a WebDataset tar, of which each video with its captions is an item.

Captions are untimed: a caption is about its whole clip, and its words are spread over it.

The tars lie on this machine or behind any fsspec path. They are read in one pass, nothing is unpacked to disk. A sample
is what stands side by side in a tar under one name but for the suffix: `0001.mp4` and `0001.json`.
"""

import dataclasses
import hashlib
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import fsspec
from absl import logging
from fsspec.implementations.local import LocalFileSystem

from data_pipelines.clip_reader import probe
from data_pipelines.schema import Record
from data_pipelines.sources import Item, Rejected, causes
from data_pipelines.sources.video_clips import Annotation, Footage, clip_settings_of, clips_of
from data_pipelines.video_source import VideoError
from data_pipelines.words import GIT_LFS_ADVICE, GIT_LFS_HEAD, parse_json, split_words, spread, visible

# The fields of a JSON file that hold captions, by the names that a configuration gives them.
CAPTIONS = {"human": "human_caption", "model": "model_caption", "description": "description"}
VIDEO_SUFFIX, FACTS_SUFFIX = "mp4", "json"
# By more than this a file's length differs from what its JSON says; it is noted with the clip.
_DURATION_TOLERANCE_S = 0.5
_ABOUT = ("video_id", "num_frames")
# One request for so much where the tar is remote; tars are read from front to back.
_BLOCK_BYTES = 1 << 24


class TarError(ValueError):
    """A tar that is broken; the message names it, where, and how."""


@dataclasses.dataclass(frozen=True)
class Tar:
    """A tar under a root.

    Attributes:
      root: a folder or any URL that fsspec knows, e.g. "s3://bucket/videos".
      name: below the root.
      size_bytes: of the tar.
    """

    root: str
    name: str
    size_bytes: int

    def open(self) -> BinaryIO:
        """The tar, for reading from front to back.

        Raises:
          TarError: it is a pointer to the tar.
          OSError: it cannot be read.
          ImportError: a package for such URLs is missing; the message names it.
        """
        file_system, base = fsspec.core.url_to_fs(self.root)
        path = f"{base.rstrip('/')}/{self.name}"
        if self.size_bytes < _BLOCK_BYTES and file_system.head(path, len(GIT_LFS_HEAD)) == GIT_LFS_HEAD:
            raise TarError(f"{self.name}: {GIT_LFS_ADVICE}")
        return file_system.open(path, "rb", block_size=_BLOCK_BYTES)

    @property
    def is_local(self) -> bool:
        return isinstance(fsspec.core.url_to_fs(self.root)[0], LocalFileSystem)


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in a tar.

    Attributes:
      name: in the tar.
      data: its bytes; b"" where only headers are read.
      byte_offset, byte_length: where the bytes are in the tar.
    """

    name: str
    data: bytes
    byte_offset: int
    byte_length: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclasses.dataclass
class TarSample:
    """Neighbours in a tar that share their name.

    Attributes:
      key: their name up to the last dot of the video's: names may hold dots ("v.1.mp4").
      members: by suffix, as "mp4".
    """

    key: str
    members: dict[str, Member] = dataclasses.field(default_factory=dict)

    def add(self, member: Member) -> bool:
        """Takes a member in, unless it is of another sample; returns whether it did."""
        stem, _, last = member.name.rpartition(".")
        is_video = last.lower() == VIDEO_SUFFIX
        begins = all(other.name.startswith(f"{stem}.") for other in self.members.values())
        if is_video and begins and VIDEO_SUFFIX not in self.members and stem != self.key:
            # What came before, as "v.thumb.jpg", has a longer name than the video.
            members, self.key, self.members = self.members.values(), stem, {}
            for other in members:
                self.add(other)
        suffix = "" if member.name == self.key else member.name.removeprefix(f"{self.key}.").lower()
        if suffix == member.name.lower() or suffix in self.members or (is_video and stem != self.key):
            return False
        self.members[suffix] = member
        return True


class _StrictHeader(tarfile.TarInfo):
    """A header that says so when it is broken: the tarfile module takes one after the first for the end of the tar."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_StrictHeader":
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise  # the mark at the end
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("it has no mark at its end: cut off between two members?") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"a header is broken: {error}") from error


def find_tars(root: str, patterns: Sequence[str]) -> list[Tar]:
    """The tars under a root, by name.

    Args:
      root: a folder or a URL.
      patterns: names below the root; `*`, `?`, `**` and `[...]` stand for what they do in a shell. Where a server does
        not list folders, give whole names.

    Raises:
      ValueError: a pattern finds nothing, or fsspec does not know such URLs.
      OSError: the root cannot be read.
    """
    try:
        file_system, base = fsspec.core.url_to_fs(root)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{root!r} cannot be opened: {error}") from error
    base = base.rstrip("/")
    found: dict[str, int] = {}
    for pattern in patterns:
        path = f"{base}/{pattern}"
        paths = sorted(file_system.glob(path)) if set(pattern) & set("*?[") else [path]
        if not paths or not file_system.exists(paths[0]):
            raise ValueError(f"no tar {pattern!r} under {root}: check config.root and config.shards")
        for one in paths:
            found[one[len(base) + 1 :]] = int(file_system.size(one) or 0)
    return [Tar(root, name, found[name]) for name in sorted(found)]


def fingerprint(tars: Sequence[Tar]) -> dict[str, Any]:
    """Which tars these are, as JSON values: their number, sizes and a hash over names and sizes."""
    listing = "".join(f"{tar.size_bytes} {tar.name}\n" for tar in tars)
    return {
        "tars": len(tars),
        "size_bytes": sum(tar.size_bytes for tar in tars),
        "listing_sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }


def samples_of(file: BinaryIO, name: str) -> Iterator[TarSample]:
    """The samples of a tar in order, with their bytes.

    Holds one sample at a time. What was whole before a break is given first.

    Args:
      file: the tar, read from where it stands; it need not be able to seek.
      name: what messages call it.

    Raises:
      TarError: after the samples before the break.
    """
    try:
        with tarfile.open(fileobj=file, mode="r|", bufsize=1 << 20, tarinfo=_StrictHeader) as tar:
            yield from _grouped(tar, read=True)
    except tarfile.TarError as error:
        raise TarError(f"{name}: {error}") from error


def headers_of(file: BinaryIO, name: str) -> Iterator[TarSample]:
    """The samples of a tar that can seek, without their bytes; errors as `samples_of` has them."""
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictHeader) as tar:
            yield from _grouped(tar, read=False)
    except tarfile.TarError as error:
        raise TarError(f"{name}: {error}") from error


def _grouped(tar: tarfile.TarFile, read: bool) -> Iterator[TarSample]:
    sample: TarSample | None = None
    try:
        for header in tar:
            if not header.isfile():
                continue
            # Names may be in any encoding; what cannot be read in them is replaced, so that they can be written down.
            shown = header.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            file = tar.extractfile(header) if read else None
            data = file.read() if file is not None else b""
            member = Member(shown, data, header.offset_data, header.size)
            if sample is not None and not sample.add(member):
                yield sample
                sample = None
            if sample is None:
                sample = TarSample(_first_key(shown))
                sample.add(member)
    except tarfile.TarError as error:
        if sample is not None:
            yield sample
        where = f"after {list(sample.members.values())[-1].name!r}" if sample is not None else "at its begin"
        raise tarfile.ReadError(f"{where}: {error}") from error
    if sample is not None:
        yield sample


def _first_key(name: str) -> str:
    """The name of a sample by its first member: up to the last dot of a video or a JSON, else up to the first."""
    path = PurePosixPath(name)
    stem = path.stem if path.suffix.lower() in (f".{VIDEO_SUFFIX}", f".{FACTS_SUFFIX}") else path.name.partition(".")[0]
    return str(path.with_name(stem)) if stem else str(path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeVideoSource(Footage):
    """Tars of videos with their captions.

    Attributes:
      tars: the units.
      captions: keys of CAPTIONS; the first that a video has is taken.
      keep_without_words: whether a video without any of them is kept, silent.
      duplicates: (tar, byte offset) of videos that repeat an earlier one, with the names of that (`Footage` has the
        rest).
    """

    tars: tuple[Tar, ...]
    captions: tuple[str, ...]
    keep_without_words: bool
    duplicates: Mapping[tuple[str, int], str] | None = None

    def __len__(self) -> int:
        return len(self.tars)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "pevideo",
            "tars": fingerprint(self.tars),
            "captions": list(self.captions),
            "keep_without_words": self.keep_without_words,
        } | self.describe_clips()

    def items(self, begin: int, end: int) -> Iterator[Item]:
        for unit in range(begin, end):
            tar = self.tars[unit]
            tar_key = f"pevideo/{tar.name.removesuffix('.tar')}"
            seen: dict[str, int] = {}
            try:
                with tar.open() as file:
                    for sample in samples_of(file, tar.name):
                        again = seen[sample.key] = seen.get(sample.key, 0) + 1
                        key = f"{tar_key}/{sample.key}" + (f"#{again}" if again > 1 else "")
                        for item_key, content in self._items_of(tar, sample, key):
                            yield Item(unit, item_key, content)
            except TarError as error:
                yield Item(unit, f"{tar_key}#rest", Rejected(causes.CANNOT_DECODE, f"broken tar: {error}"))
            else:
                if not seen:
                    yield Item(unit, f"{tar_key}#empty", Rejected(causes.MISSING_VIDEO, f"{tar.name} holds no files"))

    def _items_of(self, tar: Tar, sample: TarSample, key: str) -> Iterator[tuple[str, Record | Rejected]]:
        name = f"{tar.name}, {sample.key}"
        video, facts_file = sample.members.get(VIDEO_SUFFIX), sample.members.get(FACTS_SUFFIX)
        if video is None:
            there = ", ".join(member.name for member in sample.members.values())
            yield key, Rejected(causes.MISSING_VIDEO, f"{name}: no .{VIDEO_SUFFIX} beside {there}")
            return
        if facts_file is None:
            yield key, Rejected(causes.BROKEN_ANNOTATION, f"{name}: no .{FACTS_SUFFIX} beside {video.name}")
            return
        try:
            facts = _facts(facts_file)
        except ValueError as error:
            yield key, Rejected(causes.BROKEN_ANNOTATION, f"{name}: {error}")
            return
        earlier = (self.duplicates or {}).get((tar.name, video.byte_offset))
        if earlier is not None:
            yield key, Rejected(causes.DUPLICATE, f"{name}: the same bytes as {earlier}")
            return
        which, caption = choose_caption(facts, self.captions)
        if not caption and not self.keep_without_words:
            asked = ", ".join(CAPTIONS[caption] for caption in self.captions)
            yield key, Rejected(causes.NO_WORDS, f"{name}: nothing in {asked}")
            return
        try:
            length = probe(video.data, name=name)
        except VideoError as error:
            yield key, Rejected(causes.CANNOT_DECODE, str(error))
            return
        provenance: dict[str, Any] = {
            "source": "pevideo",
            "file": tar.name,
            "member": video.name,
            "byte_offset": video.byte_offset,
            "byte_length": video.byte_length,
            "sha256": video.sha256,
            "duration_s": length.duration_s,
            "annotated_duration_s": facts.get("video_duration_in_s"),
            "caption": which,
        }
        differs_s = length.duration_s - (facts.get("video_duration_in_s") or length.duration_s)
        if abs(differs_s) > _DURATION_TOLERANCE_S:
            provenance["duration_differs_s"] = round(differs_s, 3)
        annotation = Annotation(
            key=key,
            words=spread(split_words(caption), length.begin_s, length.end_s),
            timing="clip",
            caption=caption,
            language=self.language if caption else "",
            provenance=provenance | {field: facts[field] for field in _ABOUT if field in facts},
            silent=True,
        )
        yield from clips_of(video.data, length, annotation, self.settings, name)


def pevideo_source(config: Mapping[str, Any]) -> PeVideoSource:
    """The source of `configs/data/pevideo.py`.

    Args:
      config: the configuration as plain values.

    Raises:
      ValueError: a value is missing or out of its range, or there are no tars.
      OSError: the root cannot be read.
    """
    if not config["root"]:
        raise ValueError("give the folder or URL of the tars as --config.root=DIR")
    captions = tuple(config["captions"])
    if not captions or not set(captions) <= CAPTIONS.keys():
        raise ValueError(f"config.captions must be some of {tuple(CAPTIONS)} in order, got {captions}")
    settings = clip_settings_of(config)
    tars = find_tars(config["root"], tuple(config["shards"]))
    return PeVideoSource(
        tars=tuple(tars),
        captions=captions,
        keep_without_words=config["keep_without_words"],
        language=config["language"],
        settings=settings,
        duplicates=find_duplicates(tars) if config["duplicates"] == "hash" else None,
    )


def choose_caption(facts: Mapping[str, Any], captions: Sequence[str]) -> tuple[str, str]:
    """The name and the text of the first caption that a video has; two empty strings where it has none."""
    for name in captions:
        text = facts.get(CAPTIONS[name])
        if text is not None and visible(text):
            return name, visible(text)
    return "", ""


def find_duplicates(tars: Sequence[Tar]) -> dict[tuple[str, int], str]:
    """Videos with the same bytes as an earlier one: (tar, byte offset) of the later, names of the earlier.

    Reads the headers of every tar, and the bytes of videos that are as long as another one.

    Raises:
      ValueError: a tar is not on this machine; to read it twice is for its owner to decide.
    """
    distant = [tar.name for tar in tars if not tar.is_local]
    if distant:
        raise ValueError(
            f"{distant[0]} is not on this machine, and to find duplicates is to read it twice: fetch the tars, or "
            "keep what repeats with --config.duplicates=keep"
        )
    logging.warning("the headers of %d tars are read once to find duplicates", len(tars))
    by_length: dict[int, list[tuple[Tar, str, int]]] = {}
    for tar in tars:
        for sample in _headers(tar):
            video = sample.members.get(VIDEO_SUFFIX)
            if video is not None:
                by_length.setdefault(video.byte_length, []).append((tar, video.name, video.byte_offset))
    duplicates: dict[tuple[str, int], str] = {}
    first: dict[tuple[int, bytes], str] = {}
    for length, places in by_length.items():
        for tar, name, offset in places if len(places) > 1 else ():
            place = f"{tar.name}, {name}"
            earlier = first.setdefault((length, _hash_of(tar, offset, length)), place)
            if earlier != place:
                duplicates[tar.name, offset] = earlier
    return duplicates


def _headers(tar: Tar) -> Iterator[TarSample]:
    try:
        with tar.open() as file:
            yield from headers_of(file, tar.name)
    except TarError as error:  # rejected with its cause when its turn comes
        logging.warning("duplicates are looked for only before the break: %s", error)


def _hash_of(tar: Tar, offset: int, length: int) -> bytes:
    with tar.open() as file:
        file.seek(offset)
        return hashlib.sha256(file.read(length)).digest()


def _facts(member: Member) -> dict[str, Any]:
    """What the JSON file beside a video says; ValueError where it is not in the format."""
    try:
        facts = parse_json(member.data)
    except ValueError as error:
        raise ValueError(f"{member.name} is no JSON ({error})") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{member.name} must hold an object, got {json.dumps(facts)[:80]}")
    for field in CAPTIONS.values():
        if not isinstance(facts.get(field), str | None):
            raise ValueError(f"{member.name}: {field} must be a text or null, got {json.dumps(facts[field])[:80]}")
    duration_s = facts.get("video_duration_in_s")
    if isinstance(duration_s, bool) or not isinstance(duration_s, int | float | None):
        raise ValueError(f"{member.name}: video_duration_in_s must be a number, got {json.dumps(duration_s)[:80]}")
    return facts
