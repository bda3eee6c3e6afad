"""The secret between a server and its clients: from a file or the environment, since others can read flags."""

import os
from pathlib import Path

TOKEN_VARIABLE = "MMDUPLEX_TOKEN"


def read_token(path: str | None) -> str | None:
    """The first line of the file, or else what the environment says; None where neither is there.

    Raises:
      OSError: the file cannot be read.
      ValueError: its first line is empty.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    token = (Path(path).read_text(encoding="utf-8").splitlines() or [""])[0].strip()
    if not token:
        raise ValueError(f"--token_file={path}: its first line is empty, the token should be there")
    return token
