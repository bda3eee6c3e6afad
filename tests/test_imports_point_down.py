"""The house in tests: who may import whom, what may be named how, how long a file may be.

launch -> pages, planning -> stages -> train, streaming, evals -> weights -> the table of stages -> models ->
tokenizer -> towers, codec -> layers -> the ground.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mmduplex_jax", "configs", "launch", "data_pipelines")
PYTHON_FOLDERS = (*PACKAGES, "tests", "benchmarks", "requirements")
MAX_LINES = 700

# Each part may import itself and what is named here. A part that is not named here may not exist: an architecture has
# a place for everything, so a new one is added to this table and to docs/design.md together. There is no circle in it.
_OURS = "mmduplex_jax."
GROUND = {
    _OURS + name
    for name in (
        "typing",
        "clock",
        "frame_size",
        "sharding",
        "text_tokenizer",
        "word_decoder",
        "interruptible",
        "compile_cache",
        "trace_cache",
    )
}
DATA = {"data_pipelines"}
MODEL = GROUND | {_OURS + name for name in ("layers", "codec", "tokenizer", "towers", "models")}
# What everybody agrees on: what a task, an evaluator and a benchmark are; and the table of stages, which holds names
# of modules.
AGREED = {
    _OURS + name
    for name in ("train.task", "evals.evaluator", "evals.benchmarks.protocol", "stages.registry", "stages.config_file")
}
# What the machine can do and what a program costs, read off its trace: nothing of ours below it.
COST = {_OURS + "planning.devices", _OURS + "planning.traced"}
UPPER = MODEL | DATA | COST | AGREED
RUNNING = UPPER | {_OURS + name for name in ("weights", "train", "streaming", "evals")}
LIBRARY = RUNNING | {_OURS + "stages"}
SERVING = {_OURS + name for name in ("serving", "serving.protocol", "client", "client.session")}
MAY_IMPORT = {
    _OURS + "typing": set(),
    _OURS + "clock": set(),
    _OURS + "frame_size": set(),
    _OURS + "interruptible": set(),
    _OURS + "compile_cache": set(),
    _OURS + "trace_cache": {_OURS + "compile_cache"},
    _OURS + "text_tokenizer": set(),
    _OURS + "word_decoder": {_OURS + "clock", _OURS + "text_tokenizer"},
    _OURS + "sharding": {_OURS + "typing"},
    _OURS + "layers": GROUND,
    _OURS + "codec": GROUND | {_OURS + "layers"},
    _OURS + "towers": GROUND | {_OURS + "layers"},
    _OURS + "tokenizer": GROUND | {_OURS + "layers", _OURS + "towers"},
    _OURS + "models": MODEL,
    _OURS + "planning.devices": set(),
    _OURS + "planning.traced": set(),
    _OURS + "stages.config_file": {_OURS + "compile_cache"},
    _OURS + "train.task": {_OURS + "typing"},
    _OURS + "evals.evaluator": GROUND | DATA,
    _OURS + "evals.benchmarks.protocol": set(),
    _OURS + "stages.registry": MODEL
    | DATA
    | {_OURS + name for name in ("train.task", "evals.evaluator", "evals.benchmarks.protocol")},
    _OURS + "weights": UPPER,
    _OURS + "train": UPPER | {_OURS + "weights"},
    _OURS + "streaming": UPPER,
    _OURS + "evals": UPPER,
    _OURS + "stages": RUNNING,
    _OURS + "commentator": LIBRARY,
    _OURS + "planning": LIBRARY,
    _OURS + "real_videos": LIBRARY | {_OURS + "commentator", _OURS + "planning"},
    _OURS + "pages": LIBRARY | {_OURS + "commentator"},
    # What clients and the server agree on: a client needs no JAX.
    _OURS + "serving.protocol": set(),
    _OURS + "client": {_OURS + "serving.protocol"},
    # A session on a server is used as one on this machine is, and gives what that gives.
    _OURS + "client.session": GROUND | {_OURS + name for name in ("client", "streaming", "commentator")},
    _OURS + "serving": UPPER | {_OURS + name for name in ("streaming", "commentator", "serving.protocol")},
    # It serves as the server of models does, and knows no model.
    _OURS + "arena": GROUND | DATA | {_OURS + name for name in ("serving", "serving.protocol", "client", "evals")},
    # Its names, each loaded when it is used.
    "mmduplex_jax": {_OURS + "commentator", _OURS + "word_decoder"},
    "data_pipelines": {_OURS + name for name in ("clock", "frame_size", "interruptible", "typing", "text_tokenizer")},
    "configs": set(),
    "launch": LIBRARY
    | SERVING
    | {"mmduplex_jax", "configs"}
    | {_OURS + name for name in ("arena", "commentator", "pages", "planning", "real_videos")},
}
ONLY_ORBAX = "mmduplex_jax/weights/checkpoint.py"
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


def test_there_is_no_circle():
    """Of parts: each can be put on a shelf above all that it may import."""
    left = {part: MAY_IMPORT[part] - {part} for part in MAY_IMPORT}
    while left:
        free = [part for part, below in left.items() if not below & left.keys()]
        assert free, f"a circle among {sorted(left)}"
        for part in free:
            del left[part]


@pytest.mark.parametrize("file", files_of(PACKAGES))
def test_imports_point_down(file: str):
    assert not wrong_imports(file, (ROOT / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("file", "source", "said"),
    [
        ("mmduplex_jax/layers/x.py", "from mmduplex_jax.models import language", "may not import mmduplex_jax.models"),
        ("mmduplex_jax/layers/x.py", "def f():\n  from ..train import loop", "may not import mmduplex_jax.train"),
        ("mmduplex_jax/train/x.py", "import mmduplex_jax.evals.events", "may not import mmduplex_jax.evals"),
        ("mmduplex_jax/train/loop.py", "import orbax.checkpoint as ocp", "only mmduplex_jax/weights/checkpoint.py"),
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


# Names of packages that differ from those of their modules; "-" and "_" are the same.
MODULES = {
    "absl-py": "absl", "opencv-python-headless": "cv2", "orbax-checkpoint": "orbax", "apache-beam": "apache_beam",
    "norfair-enough": "norfair",
    "importlib-resources": None,  # tensorflow-datasets imports it, and does not declare it
    "flatbuffers": None,  # jax.export imports it where it writes, and does not declare it
}  # fmt: skip
LIBRARY_EXTRAS = ("live", "data", "dask", "teacher", "arena", "device")


def declared() -> tuple[set[str], set[str]]:
    """Modules of the packages in setup.py: of the plain install, and of the extras that the library imports from."""
    wanted = ("INSTALL_REQUIRES", "CAPTIONS", "LIVE", "ARENA", "EXTRAS_REQUIRE")
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    named = [node for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id in wanted]
    values: dict[str, object] = {}
    exec(compile(ast.Module(named, []), "setup.py", "exec"), values)

    def modules(requirements: list[str]) -> set[str]:
        names = {re.split(r"[\[>=<]", requirement)[0].replace("_", "-").lower() for requirement in requirements}
        return {MODULES.get(name, name.replace("-", "_")) for name in names} - {None}

    extras = values["EXTRAS_REQUIRE"]
    return modules(values["INSTALL_REQUIRES"]), {module for name in LIBRARY_EXTRAS for module in modules(extras[name])}


def test_what_is_imported_is_declared_and_what_is_required_is_imported():
    imported = {
        module.split(".")[0]
        for file in files_of(("mmduplex_jax", "data_pipelines"))
        for _, module in imports(file, (ROOT / file).read_text(encoding="utf-8"))
    }
    theirs = {module.lower() for module in imported - set(PACKAGES) - sys.stdlib_module_names}
    required, optional = declared()
    assert theirs - required - optional == set(), "imported, but not in setup.py"
    assert required - theirs == set(), "required by setup.py, but never imported"


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
