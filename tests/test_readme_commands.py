"""Every command of the README and of the guides is run, or at least parsed, by a test, so that none of them rots.

Above each fenced block of commands stands a comment that GitHub does not show; it says how the block is tested:

    <!-- test: run ARGUMENTS -->   each command runs to its end, with ARGUMENTS added (`{tmp}`: a folder)
    <!-- test: flags -->           each `python -m launch...` accepts its flags, then stops
    <!-- test: make-dry -->        each `make ...` is planned, not run
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
SHELLS = {"bash", "console", "sh", "shell"}
MODES = {"run", "flags", "make-dry"}
FENCE = re.compile(
    r"(?:^<!-- test: (?P<mode>\S+) ?(?P<arguments>.*?) ?-->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S
)
RUN_TIMEOUT_S = 300


@dataclass(frozen=True)
class Command:
    """One command line of a page, and how it is tested."""

    page: str
    line: int
    text: str
    mode: str | None
    arguments: str


def commands(page: str, content: str) -> Iterator[Command]:
    """Yields the commands of each fenced block in a shell's language; in `console` only lines that begin with `$`."""
    for block in FENCE.finditer(content):
        if block["language"] not in SHELLS:
            continue
        body = block["body"].replace("\\\n", " ")
        for text in body.splitlines():
            if block["language"] == "console":
                if not text.startswith("$ "):
                    continue
                text = text.removeprefix("$ ")
            text = re.sub(r"\s+#.*$", "", text).strip()
            if text and not text.startswith("#"):
                line = content.count("\n", 0, block.start()) + 1
                yield Command(page, line, text, block["mode"], block["arguments"] or "")


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Runs `command` in the repository as a reader would, with this test's Python as `python`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )


def check_flags(text: str, monkeypatch) -> int:
    """The exit code of one of our commands that only reads its flags, in this process: importing JAX takes seconds."""
    arguments = [*shlex.split(text), "--only_check_args"]
    if arguments[:2] != ["python", "-m"]:
        return shell(shlex.join(arguments)).returncode
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", arguments[2:])
    try:
        return importlib.import_module(arguments[2]).main() or 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)


COMMANDS = [command for page in PAGES for command in commands(page, (ROOT / page).read_text(encoding="utf-8"))]


def test_the_readme_shows_the_two_first_commands():
    assert {"make demo", "make test"} <= {command.text for command in commands("README.md", README)}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}:{command.line} {command.text[:60]}")
def test_command(command: Command, tmp_path: Path, monkeypatch):
    assert command.mode in MODES, (
        f"{command.page}:{command.line} has no `<!-- test: ... -->` with one of {sorted(MODES)} above it"
    )
    if command.mode == "run":
        text = f"{command.text} {command.arguments.replace('{tmp}', shlex.quote(str(tmp_path)))}"
    elif command.mode == "flags":
        assert "python -m launch." in command.text, f"`flags` is for our entry points, not for {command.text!r}"
        assert check_flags(command.text, monkeypatch) == 0
        return
    else:
        assert command.text.startswith("make "), f"`make-dry` is for make, not for {command.text!r}"
        text = command.text.replace("make ", "make --dry-run ", 1)
    result = shell(text)
    assert result.returncode == 0, f"$ {text}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"


def test_an_unknown_flag_is_found(monkeypatch, capsys):
    assert check_flags("python -m launch.train --no_such_flag=1", monkeypatch) == 2
    assert "no_such_flag" in capsys.readouterr().err


def test_blocks_and_annotations_are_read():
    readme = (
        "<!-- test: run --steps=2 -->\n```bash\nA=1 python x.py \\\n  --a  # why\n\n# alone\npython y.py\n```\n"
        "```python\nimport x\n```\n```console\n$ make test\nall passed\n```\n"
    )
    assert list(commands("x.md", readme)) == [
        Command("x.md", 1, "A=1 python x.py    --a", "run", "--steps=2"),
        Command("x.md", 1, "python y.py", "run", "--steps=2"),
        Command("x.md", 12, "make test", None, ""),
    ]


@pytest.mark.parametrize(
    ("page", "target"),
    [
        (page, target)
        for page in PAGES
        for target in sorted(set(re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", (ROOT / page).read_text("utf-8"))))
    ],
)
def test_link_leads_somewhere(page: str, target: str):
    assert (ROOT / page).parent.joinpath(target).exists()
