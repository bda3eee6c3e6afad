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


def lock_file(version: tuple[int, int]) -> Path:
    """The lock file for a Python `(major, minor)`: one for 3.11, one for 3.12 and later."""
    return ROOT / "requirements" / ("lock-py311.txt" if version < (3, 12) else "lock-py312.txt")


def stamp_file(lock: Path) -> Path:
    """The file that marks a finished installation of exactly these versions, by this Python, in this folder."""
    key = hashlib.sha256(lock.read_bytes() + (ROOT / "setup.py").read_bytes())
    key.update(f"{sys.version_info[:2]} {ROOT}".encode())
    return ENVIRONMENT / f"installed-{key.hexdigest()[:16]}"


def main() -> None:
    """Installs unless it is done; leaves no stamp when pip fails, so that the next run starts afresh."""
    found = sys.version_info[:2]
    if found < (3, 11):
        sys.exit(f"MM-Duplex needs Python 3.11 or later; {sys.executable} is {found}. Try: make PYTHON=python3.12 ...")
    lock = lock_file(found)
    stamp = stamp_file(lock)
    if stamp.exists():
        return
    print(f"Installing the packages of {lock.relative_to(ROOT)} into .venv (about 1.3 GB, once).", flush=True)
    started_s = time.monotonic()
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    if not sys.stdout.isatty():
        pip.append("--quiet")
    for what in (["-r", str(lock)], ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]):
        code = subprocess.run([*pip, *what]).returncode
        if code:
            sys.exit(f"pip failed with code {code}; its message is above. Is a package index reachable?.")
    stamp.touch()
    print(f"Installed in {time.monotonic() - started_s:.0f} s.", flush=True)


if __name__ == "__main__":
    main()
