"""Writes the lock file of the running Python: the newest versions that satisfy `setup.py`, with the `dev` extra.

    python3.11 requirements/write_lock.py
    python3.12 requirements/write_lock.py
    python3.11 requirements/write_lock.py peers    the environment of `make test-peers`
    python3.11 requirements/write_lock.py --keep   only adds what is missing; what is locked stays at its version

Only names and versions are written, no address and no hash of a file: the same lock must install from any index and on
any platform for which the versions have wheels.
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from install import EXTRAS, ROOT, lock_file

# Newer builds bring gigabytes for accelerators that a comparison on the CPU has no use for.
CONSTRAINTS = {"": (), "peers": ("torch==2.13.0",)}


def resolve(python: Path, kind: str, kept: Path | None) -> list[str]:
    """Returns `name==version` of everything that an environment needs, sorted, without installing it.

    Args:
      python: interpreter of an environment that has pip.
      kind: which environment, see `install.EXTRAS`.
      kept: a lock file whose versions are to stay.

    Raises:
      subprocess.CalledProcessError: when the requirements cannot be resolved; pip says why on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [str(python), "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        if kept is not None:
            command += ["--constraint", str(kept)]
        subprocess.run([*command, "--report", str(report), f"{ROOT}[{EXTRAS[kind]}]", *CONSTRAINTS[kind]], check=True)
        resolved = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    # "2.13.0+cpu" is a build of 2.13.0; which build an index has is its own affair.
    versions = {package["name"]: package["version"].split("+")[0] for package in resolved}
    pins = [f"{name}=={version}" for name, version in versions.items() if name != "mmduplex-jax"]
    return sorted(pins, key=str.lower)


def main() -> None:
    """Resolves in a throw-away environment, so that nothing which happens to be installed has a say."""
    words = sys.argv[1:]
    keep = "--keep" in words
    kind = next((word for word in words if word != "--keep"), "")
    lock = lock_file(sys.version_info[:2], kind)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pins = resolve(Path(folder, "bin", "python"), kind, lock if keep else None)
    header = f"# Written by requirements/write_lock.py on Python {sys.version_info.major}.{sys.version_info.minor}.\n"
    lock.write_text(header + "\n".join(pins) + "\n")
    print(f"{lock.relative_to(ROOT)}: {len(pins)} packages")


if __name__ == "__main__":
    main()
