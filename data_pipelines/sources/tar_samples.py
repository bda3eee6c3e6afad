"""WebDataset tars, on this machine or behind any fsspec path: their samples in one pass, nothing unpacked to disk.

A sample is what stands side by side in a tar under one name but for the suffix: `0001.mp4` and `0001.json`.
"""

import dataclasses
import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

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
          OSError: it cannot be read.
          ImportError: a package for such URLs is missing; the message names it.
        """
        file_system, base = fsspec.core.url_to_fs(self.root)
        return file_system.open(f"{base.rstrip('/')}/{self.name}", "rb", block_size=_BLOCK_BYTES)

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
      key: their name up to the first dot of its last part.
      members: by suffix, as "mp4".
    """

    key: str
    members: dict[str, Member] = dataclasses.field(default_factory=dict)


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
            key, suffix = _key_and_suffix(shown)
            file = tar.extractfile(header) if read else None
            data = file.read() if file is not None else b""
            member = Member(shown, data, header.offset_data, header.size)
            if sample is not None and (sample.key != key or suffix in sample.members):
                yield sample
                sample = None
            sample = sample or TarSample(key)
            sample.members[suffix] = member
    except tarfile.TarError as error:
        if sample is not None:
            yield sample
        where = f"after {list(sample.members.values())[-1].name!r}" if sample is not None else "at its begin"
        raise tarfile.ReadError(f"{where}: {error}") from error
    if sample is not None:
        yield sample


def _key_and_suffix(name: str) -> tuple[str, str]:
    """A name up to the first dot of its last part, and the rest: the rule of WebDataset."""
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return str(path.with_name(stem)) if stem else str(path), suffix.lower()
