"""Creates `.venv` and installs this repository with the exact versions of its lock file.

Run by `make`. Needs nothing but Python and a package index. When the environment already holds what the lock file says,
it returns at once and installs nothing.
"""

import hashlib
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"


def lock_file(version):
    """The lock file for a Python `(major, minor)`: one for 3.11, one for 3.12 and later."""
    return ROOT / "requirements" / ("lock-py311.txt" if version < (3, 12) else "lock-py312.txt")


def stamp_file():
    """The file that marks a finished installation of exactly these versions, by this Python, in this folder."""
    key = hashlib.sha256()
    for part in (lock_file(sys.version_info[:2]), ROOT / "setup.py"):
        key.update(part.read_bytes())
    key.update("{} {}".format(sys.version_info[:2], ROOT).encode())
    return ENVIRONMENT / "installed-{}".format(key.hexdigest()[:16])


def main():
    """Installs unless it is done; raises `CalledProcessError` when pip fails, and leaves no stamp then."""
    if sys.version_info < (3, 11):
        sys.exit(
            "MM-Duplex needs Python 3.11 or later, but {} is {}. Install one, then name it: make PYTHON=python3.12 ...".format(
                sys.executable, sys.version.split()[0]
            )
        )
    stamp = stamp_file()
    if stamp.exists():
        return
    lock = lock_file(sys.version_info[:2])
    print("Installing the packages of {} into .venv (about 1 GB, once).".format(lock.relative_to(ROOT)), flush=True)
    started_s = time.monotonic()
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    if not sys.stdout.isatty():
        pip.append("--quiet")
    subprocess.run([*pip, "-r", str(lock)], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)], check=True)
    stamp.touch()
    print("Installed in {:.0f} s.".format(time.monotonic() - started_s), flush=True)


if __name__ == "__main__":
    main()
