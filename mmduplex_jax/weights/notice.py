"""The licence of imported weights: found beside them, kept with them, and written beside what is made of them."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

NOTICE_FILE = "NOTICE"
_LICENCE_NAMES = re.compile(r"(LICEN[CS]E|NOTICE|COPYING|SOURCE)([.-].*)?", re.IGNORECASE)
_TEXT_SUFFIXES = ("", ".txt", ".md", ".rst")
_MAX_BYTES = 200_000


def notice_of(source: str | Path, about: Sequence[str] = ()) -> str:
    """What a NOTICE beside weights says: which file they are of, and the texts that came with it.

    Texts are those named LICENSE, NOTICE, COPYING or SOURCE in the folder of the weights or, where a Python package
    brought them, in its `.dist-info`.

    Args:
      source: the file or the folder of the weights.
      about: lines that the file itself has on it.
    """
    source = Path(source).resolve()
    folder = source if source.is_dir() else source.parent
    texts = list(_texts_of(folder)) or list(_texts_of_package(folder))
    said = [f"These weights were made of {source.name}."]
    if about:
        said.append("It says of itself:\n\n" + "\n".join(about))
    for file in texts:
        said.append(f"{file.name}, which came with it:\n\n{file.read_text('utf-8', errors='replace').strip()}")
    if not texts:
        said.append("No text of a licence came with it: find out what may be done with it before you pass it on.")
    return f"\n\n{'-' * 80}\n\n".join(said) + "\n"


def _texts_of(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.iterdir()):
        named = _LICENCE_NAMES.fullmatch(file.name) and file.suffix.lower() in _TEXT_SUFFIXES
        if named and file.is_file() and file.stat().st_size <= _MAX_BYTES:
            yield file


def _texts_of_package(folder: Path) -> Iterator[Path]:
    """Texts in the `.dist-info` of the Python package that a folder lies in."""
    for package in (folder, *folder.parents):
        if package.parent == package:
            return
        for about in sorted(package.parent.glob(f"{package.name}-*.dist-info")):
            yield from _texts_of(about)
            if (about / "licenses").is_dir():
                yield from _texts_of(about / "licenses")
            return
