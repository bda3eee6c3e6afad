"""The pages' scripts: as narrow as the Python beside them, of which Ruff sees to it."""

import tomllib
from pathlib import Path


def test_lines_of_scripts_are_no_longer_than_those_of_python(repository: Path):
    settings = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    longest = settings["tool"]["ruff"]["line-length"]
    scripts = sorted((repository / "mmduplex_jax").rglob("*.js"))
    assert scripts
    wide = [
        f"{path.relative_to(repository)}:{number}"
        for path in scripts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > longest
    ]
    assert not wide
