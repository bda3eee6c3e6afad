"""PE-Video as a source: a unit is a WebDataset tar, of which each video with its captions is an item.

Captions are untimed: a caption is about its whole clip, and its words are spread over it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging

from data_pipelines.clip_reader import probe
from data_pipelines.json_text import parse_json
from data_pipelines.schema import Record
from data_pipelines.sources import Item, Rejected, causes
from data_pipelines.sources.tar_samples import (
    Member,
    Tar,
    TarError,
    TarSample,
    find_tars,
    fingerprint,
    headers_of,
    samples_of,
)
from data_pipelines.sources.video_clips import Annotation, Footage, clip_settings_of, clips_of
from data_pipelines.video_source import VideoError
from data_pipelines.word_times import spread

# The fields of a JSON file that hold captions, by the names that a configuration gives them.
CAPTIONS = {"human": "human_caption", "model": "model_caption", "description": "description"}
VIDEO_SUFFIX, FACTS_SUFFIX = "mp4", "json"
# By more than this a file's length differs from what its JSON says; it is noted with the clip.
_DURATION_TOLERANCE_S = 0.5
_ABOUT = ("video_id", "num_frames")


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
            words=spread(caption.split(), length.begin_s, length.end_s),
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
        if text is not None and text.strip():
            return name, text.strip()
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
        with tar.open() as file:
            for sample in _headers(file, tar.name):
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


def _headers(file: Any, name: str) -> Iterator[TarSample]:
    try:
        yield from headers_of(file, name)
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
