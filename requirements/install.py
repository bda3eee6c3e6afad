"""Creates `.venv` and installs this repository with the exact versions of its lock file.

Run by `make`. Needs nothing but Python and a package index. When the environment already holds what the lock file says,
it returns at once and installs nothing. `install.py peers` makes `.venv-peers`, which also has the programs of others
that tests compare with (Apache Beam, Dask, PyTorch, transformers); they lower the versions of some packages, so they
stand apart.
"""

import hashlib
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What each environment holds besides the plain install, by extras of setup.py, and about how much that is.
EXTRAS = {"": "dev", "peers": "dev,data,dask,live,parity,onnx,gguf"}
SIZES = {"": "1.3 GB", "peers": "3 GB"}


def environment(kind: str) -> Path:
    """The folder of an environment, one of `EXTRAS`."""
    return ROOT / (f".venv-{kind}" if kind else ".venv")


def lock_file(version: tuple[int, int], kind: str = "") -> Path:
    """The lock file for a Python `(major, minor)`: one for 3.11, one for 3.12 and later."""
    name = "lock-py311" if version < (3, 12) else "lock-py312"
    return ROOT / "requirements" / f"{name}{'-' + kind if kind else ''}.txt"


def stamp_file(lock: Path, folder: Path) -> Path:
    """The file that marks a finished installation of exactly these versions, by this Python, in this folder."""
    key = hashlib.sha256(lock.read_bytes() + (ROOT / "setup.py").read_bytes())
    key.update(f"{sys.version_info[:2]} {ROOT}".encode())
    return folder / f"installed-{key.hexdigest()[:16]}"


def main() -> None:
    """Installs unless it is done; leaves no stamp when pip fails, so that the next run starts afresh."""
    found = sys.version_info[:2]
    if found < (3, 11):
        sys.exit(f"MM-Duplex needs Python 3.11 or later; {sys.executable} is {found}. Try: make PYTHON=python3.12 ...")
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    if kind not in EXTRAS:
        sys.exit(f"there is no environment {kind!r}; say nothing, or one of: {', '.join(filter(None, EXTRAS))}")
    folder, lock = environment(kind), lock_file(found, kind)
    if not lock.exists():
        sys.exit(f"{lock.relative_to(ROOT)} is missing; write it: {sys.executable} requirements/write_lock.py {kind}")
    stamp = stamp_file(lock, folder)
    if stamp.exists():
        return
    what_is = f"the packages of {lock.relative_to(ROOT)} into {folder.name} (about {SIZES[kind]}, once)"
    print(f"Installing {what_is}.", flush=True)
    started_s = time.monotonic()
    venv.create(folder, clear=True, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    if not sys.stdout.isatty():
        pip.append("--quiet")
    for what in (["-r", str(lock)], ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]):
        code = subprocess.run([*pip, *what]).returncode
        if code:
            sys.exit(f"pip failed with code {code}; its message is above. Is a package index reachable?")
    stamp.touch()
    print(f"Installed in {time.monotonic() - started_s:.0f} s.", flush=True)


if __name__ == "__main__":
    main()
