"""The licence of imported weights: found beside them, kept with them, and written beside what is made of them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

NOTICE_FILE = "NOTICE"
_LICENCE_NAMES = re.compile(r"(LICEN[CS]E|NOTICE|COPYING|SOURCE)([.-].*)?", re.IGNORECASE)
_TEXT_SUFFIXES = ("", ".txt", ".md", ".rst")
_MAX_BYTES = 200_000
_RULE = f"\n\n{'-' * 80}\n\n"


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
    return _RULE.join(said) + "\n"


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


def notice_behind(config: Mapping[str, Any]) -> str:
    """What a NOTICE says of all that a training began with, and what that began with; "" where it began with nothing.

    Folders that are not there any more, or say nothing, are named as such.

    Args:
      config: of the training, as JSON has it, with `init_from`.
    """
    notices = dict.fromkeys(_notices(config, set()))
    return "" if not notices else ("=" * 80 + "\n\n").join(notice.strip() + "\n\n" for notice in notices)


def _notices(config: Mapping[str, Any], seen: set[Path]) -> Iterator[str]:
    for name, value in dict(config.get("init_from") or {}).items():
        if name == "strict" or not value or Path(value).resolve() in seen:
            continue
        folder = Path(value)
        seen.add(folder.resolve())
        if (folder / NOTICE_FILE).is_file():
            yield (folder / NOTICE_FILE).read_text(encoding="utf-8")
            continue
        inner = _config_in(folder)
        if inner is None:
            yield f"This training began with {value}, beside which nothing says under which licence it is."
        else:
            yield from _notices(inner, seen)


def _config_in(folder: Path) -> Mapping[str, Any] | None:
    """The config of a training: of a portable checkpoint, a workdir or one of its steps; None where there is none."""
    portable, workdirs = folder / "metadata.json", (folder, *folder.parents[1:2])
    if portable.is_file():
        return dict(json.loads(portable.read_text(encoding="utf-8"))["config"])
    for workdir in workdirs:
        if (workdir / "config.json").is_file():
            return dict(json.loads((workdir / "config.json").read_text(encoding="utf-8")))
    return None
