"""Tars for tests."""

import io
import tarfile
from pathlib import Path


def write_tar(path: Path, members) -> Path:
    """Writes `(name, bytes)` pairs in order; a name that ends in a slash is a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            if name.endswith("/"):
                header.type = tarfile.DIRTYPE
            tar.addfile(header, io.BytesIO(data))
    return path
