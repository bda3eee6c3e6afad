"""The house in tests: who may import whom, what may be named how, how long a file may be.

launch -> pages, planning -> stages -> weights, train, streaming, evals -> models -> tokenizer -> towers -> layers ->
the ground.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mmduplex_jax", "configs", "launch", "data_pipelines")
PYTHON_FOLDERS = (*PACKAGES, "tests", "benchmarks", "requirements")
MAX_LINES = 700

# Each part may import itself and what is named here. A part that is not named here may not exist: an architecture has
# a place for everything, so a new one is added to this table and to docs/design.md together.
BASE = {"mmduplex_jax.typing", "mmduplex_jax.clock", "mmduplex_jax.sharding", "mmduplex_jax.text_tokenizer"}
BASE |= {"mmduplex_jax.word_decoder", "mmduplex_jax.interruptible"}
DATA = {"data_pipelines"}
MODEL = BASE | {"mmduplex_jax.layers", "mmduplex_jax.tokenizer", "mmduplex_jax.towers", "mmduplex_jax.models"}
# What the machine can do and what a program costs, read off its trace: nothing of ours below it.
COST = {"mmduplex_jax.planning.devices", "mmduplex_jax.planning.traced"}
PORTABLE = {"mmduplex_jax.weights.portable"}
RUNNING = {"mmduplex_jax.train", "mmduplex_jax.streaming", "mmduplex_jax.evals"}
STAGES = {"mmduplex_jax.stages", "mmduplex_jax.stages.registry", "mmduplex_jax.stages.config_file"}
WEIGHTS = {"mmduplex_jax.weights", "mmduplex_jax.weights.portable"}
SERVING = {
    "mmduplex_jax.serving",
    "mmduplex_jax.serving.protocol",
    "mmduplex_jax.client",
    "mmduplex_jax.client.session",
}
UPPER = MODEL | DATA | COST
LIBRARY = UPPER | RUNNING | STAGES | WEIGHTS | {"mmduplex_jax.commentator"}
MAY_IMPORT = {
    "mmduplex_jax.typing": set(),
    "mmduplex_jax.clock": set(),
    "mmduplex_jax.interruptible": set(),
    "mmduplex_jax.text_tokenizer": set(),
    "mmduplex_jax.word_decoder": {"mmduplex_jax.clock", "mmduplex_jax.text_tokenizer"},
    "mmduplex_jax.sharding": {"mmduplex_jax.typing"},
    "mmduplex_jax.layers": BASE,
    "mmduplex_jax.towers": BASE | {"mmduplex_jax.layers"},
    "mmduplex_jax.tokenizer": BASE | {"mmduplex_jax.layers", "mmduplex_jax.towers"},
    "mmduplex_jax.models": MODEL,
    "mmduplex_jax.planning.devices": set(),
    "mmduplex_jax.planning.traced": set(),
    "mmduplex_jax.weights.portable": BASE,
    "mmduplex_jax.train": UPPER | PORTABLE,
    "mmduplex_jax.streaming": UPPER,
    "mmduplex_jax.evals": UPPER,
    # The table of stages names them; who loads a model asks it for the model's task.
    "mmduplex_jax.stages.registry": LIBRARY,
    "mmduplex_jax.stages.config_file": set(),
    "mmduplex_jax.weights": UPPER | PORTABLE | {"mmduplex_jax.train", "mmduplex_jax.stages.registry"},
    "mmduplex_jax.stages": LIBRARY,
    "mmduplex_jax.commentator": LIBRARY,
    "mmduplex_jax.planning": LIBRARY | {"configs"},
    "mmduplex_jax.pages": LIBRARY | {"launch"},
    # What clients and the server agree on: a client needs no JAX.
    "mmduplex_jax.serving.protocol": set(),
    "mmduplex_jax.client": {"mmduplex_jax.serving.protocol"},
    # A session on a server is used as one on this machine is, and gives what that gives.
    "mmduplex_jax.client.session": BASE | {"mmduplex_jax.client", "mmduplex_jax.streaming", "mmduplex_jax.commentator"},
    "mmduplex_jax.serving": UPPER
    | {"mmduplex_jax.streaming", "mmduplex_jax.commentator", "mmduplex_jax.serving.protocol"},
    "mmduplex_jax": set(),
    "data_pipelines": {
        "mmduplex_jax.clock",
        "mmduplex_jax.interruptible",
        "mmduplex_jax.typing",
        "mmduplex_jax.text_tokenizer",
    },
    "configs": set(),
    "launch": LIBRARY | SERVING | {"mmduplex_jax", "mmduplex_jax.pages", "mmduplex_jax.planning", "configs"},
}
ONLY_ORBAX = "mmduplex_jax/train/checkpoint.py"
JUNK_DRAWERS = re.compile(r"(^|_)(utils?|helpers?|common|managers?|misc)(_|$)")
JUNK_CLASSES = re.compile(r"(Utils?|Helpers?|Common|Managers?|Misc)$")
# Joined here, so that this file does not hold what it looks for.
MACHINE_PATHS = re.compile("|".join(rf"(?<![\w.~}}-])/{folder}/" for folder in ("work", "root", "home")))


def python_files(folders: tuple[str, ...]) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def files_of(folders: tuple[str, ...]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in python_files(folders)]


def module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def module_exists(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(file: str, source: str) -> Iterator[tuple[int, str]]:
    """Yields `(line, module)` for each import, also those inside functions; relative ones are resolved.

    `from package import name` counts as the module `package.name` where that is one.
    """
    package = module_name(file) if file.endswith("__init__.py") else module_name(file).rpartition(".")[0]
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                origin = ".".join([*above, *([origin] if origin else [])])
            for name in node.names:
                submodule = f"{origin}.{name.name}"
                yield node.lineno, submodule if module_exists(submodule) else origin


def part_of(module: str) -> str | None:
    """The longest entry of `MAY_IMPORT` that holds `module`; None for modules from elsewhere.

    Raises:
      LookupError: for one of our modules that has no place in the table.
    """
    if module.split(".")[0] not in PACKAGES:
        return None
    names = module.split(".")
    for length in range(len(names), 0, -1):
        part = ".".join(names[:length])
        if part in MAY_IMPORT and not (part == "mmduplex_jax" and len(names) > 1):
            return part
    raise LookupError(f"{module} has no place in MAY_IMPORT of {Path(__file__).name}")


def wrong_imports(file: str, source: str) -> list[str]:
    """What `file` imports against the rules, as `file:line: reason`."""
    part = part_of(module_name(file))
    assert part is not None
    wrong = []
    for line, module in imports(file, source):
        target = part_of(module)
        top = module.split(".")[0]
        if target is not None and target != part and target not in MAY_IMPORT[part]:
            wrong.append(f"{file}:{line}: {part} may not import {module}")
        if top == "orbax" and file != ONLY_ORBAX:
            wrong.append(f"{file}:{line}: only {ONLY_ORBAX} imports orbax")
        if part == "configs" and top not in ("ml_collections", "configs"):
            wrong.append(f"{file}:{line}: configs import only ml_collections, not {module}")
    return wrong


@pytest.mark.parametrize("file", files_of(PACKAGES))
def test_imports_point_down(file: str):
    assert not wrong_imports(file, (ROOT / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("file", "source", "said"),
    [
        ("mmduplex_jax/layers/x.py", "from mmduplex_jax.models import language", "may not import mmduplex_jax.models"),
        ("mmduplex_jax/layers/x.py", "def f():\n  from ..train import loop", "may not import mmduplex_jax.train"),
        ("mmduplex_jax/train/x.py", "import mmduplex_jax.evals.events", "may not import mmduplex_jax.evals"),
        ("mmduplex_jax/train/loop.py", "import orbax.checkpoint as ocp", "only mmduplex_jax/train/checkpoint.py"),
        ("data_pipelines/loader.py", "import mmduplex_jax.models", "may not import mmduplex_jax.models"),
        (
            "data_pipelines/loader.py",
            "from mmduplex_jax.weights import portable",
            "may not import mmduplex_jax.weights",
        ),
        ("configs/x.py", "import numpy as np", "not numpy"),
        ("mmduplex_jax/models/x.py", "from launch import train", "may not import launch"),
    ],
)
def test_an_arrow_up_is_found(file: str, source: str, said: str):
    (wrong,) = wrong_imports(file, source)
    assert said in wrong


def test_a_module_without_a_place_is_found():
    with pytest.raises(LookupError, match=r"mmduplex_jax\.toolbox\.x has no place"):
        wrong_imports("mmduplex_jax/toolbox/x.py", "")


@pytest.mark.parametrize("file", files_of(PYTHON_FOLDERS))
def test_file_is_about_one_thing(file: str):
    source = (ROOT / file).read_text(encoding="utf-8")
    lines = source.count("\n")
    assert lines <= MAX_LINES, f"{file} has {lines} lines: cut it where it changes its subject (at most {MAX_LINES})"
    drawers = [name for name in Path(file).with_suffix("").parts if JUNK_DRAWERS.search(name)]
    drawers += [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and JUNK_CLASSES.search(node.name)
    ]
    assert not drawers, f"{file}: {drawers} name no thing; say what it is about"


def test_nothing_names_a_path_of_one_machine():
    texts = [*python_files(PYTHON_FOLDERS), *(ROOT / "requirements").glob("*.txt"), *(ROOT / "docs").rglob("*.md")]
    texts += [*(ROOT / "colabs").glob("*.ipynb")]
    texts += [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "setup.py", ROOT / "Makefile", ROOT / ".ci" / "run"]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in texts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if MACHINE_PATHS.search(line)
    ]
    assert not found, f"paths that exist on one machine only: {found}"


@pytest.mark.parametrize("stack", ["py311", "py312"])
def test_lock_pins_versions_and_names_no_place(stack: str):
    lines = (ROOT / "requirements" / f"lock-{stack}.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", pin) for pin in pins)
    unwanted = ("torch==", "tensorflow==", "nvidia-", "jax-cuda")
    assert not [pin for pin in pins if pin.lower().startswith(unwanted)]
