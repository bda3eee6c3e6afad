"""Eight fake devices: a process that runs programs on them for all tests of a worker, one after the other.

JAX counts its devices once, so a test's own process has one; a process for each program imports everything again.
"""

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from tests import shapes_once

ROOT = Path(__file__).resolve().parent.parent


class FakeDevices:
    """Eight devices; to be closed."""

    def __init__(self) -> None:
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.fake_devices"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdin
        assert self._process.stdout
        self._asked, self._answers = self._process.stdin, self._process.stdout

    def run(self, module: str, *arguments: str) -> Any:
        """Runs a program as `python -m module arguments` and returns what it prints last, which is JSON.

        Raises:
          AssertionError: it failed; says how.
        """
        print(json.dumps([module, *arguments]), file=self._asked, flush=True)
        line = self._answers.readline()
        assert line, f"the process with eight devices ended: code {self._process.wait()}"
        answer = json.loads(line)
        assert answer["failed"] is None, answer["failed"]
        return json.loads(answer["printed"].splitlines()[-1])

    def close(self) -> None:
        self._asked.close()
        self._process.wait(60)
        self._answers.close()


def main() -> None:
    """Runs what standard input names, a line each, and answers with a line each."""
    import flax.core.scope  # noqa: F401  (before `shapes_once`)
    import jax

    shapes_once.begin()
    answers = sys.stdout
    for line in sys.stdin:
        module, *arguments = json.loads(line)
        sys.argv = [module, *arguments]
        printed, failed = io.StringIO(), None
        with contextlib.redirect_stdout(printed):
            try:
                runpy.run_module(module, run_name="__main__")
            except BaseException:  # noqa: BLE001  (whoever asked raises it)
                failed = traceback.format_exc()
        print(json.dumps({"printed": printed.getvalue(), "failed": failed}), file=answers, flush=True)
        jax.clear_caches()  # no program has another's, and together they would take much memory


if __name__ == "__main__":
    main()
