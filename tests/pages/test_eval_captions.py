"""`colabs/eval_captions.ipynb`: runs from top to bottom, holds no logic and no outputs."""

import ast
import os
import re
from pathlib import Path

import av
import nbclient
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tests.pages.tags import Tags

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "colabs" / "eval_captions.ipynb"
CELL_S = 300
# What a cell may be made of: it imports, names, calls and shows. The one `if` is that of the installation.
PLAIN = (
    ast.Module, ast.Import, ast.ImportFrom, ast.alias, ast.Assign, ast.Expr, ast.Call, ast.keyword, ast.Name,
    ast.Attribute, ast.Constant, ast.JoinedStr, ast.FormattedValue, ast.Load, ast.Store,
)  # fmt: skip
CHECKED = (*PLAIN, ast.If, ast.Compare, ast.Is, ast.Assert)


def read() -> nbformat.NotebookNode:
    return nbformat.read(FILE, as_version=4)


def code_of(notebook, cell_id: str) -> nbformat.NotebookNode:
    (cell,) = [cell for cell in notebook.cells if cell.id == cell_id]
    return cell


def python_of(source: str) -> ast.Module:
    return ast.parse(TransformerManager().transform_cell(source))


def run(folder: Path, settings: str) -> nbformat.NotebookNode:
    """Runs all cells in a process of its own whose folder is `folder`, with `settings` after the notebook's own."""
    notebook = read()
    code_of(notebook, "settings").source += f"\n{settings}"
    places = {"IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data"}
    environment = os.environ | {name: str(folder / place) for name, place in places.items()}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    client = nbclient.NotebookClient(
        notebook, timeout=CELL_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute(env=environment)


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run with the model of the world, one short clip and two clips that are scored; and where."""
    folder = tmp_path_factory.mktemp("notebook")
    return run(folder, "WORLD_CLIPS, CLIP_S, EVALUATED_CLIPS = 1, 5.0, 2"), folder


def test_it_runs_from_top_to_bottom(executed):
    notebook, folder = executed
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert printed(code_of(notebook, "load")).startswith("model world: stage duplex")
    watched = printed(code_of(notebook, "watch"))
    assert "world_plain_1000003_0.mp4: h264" in watched  # the file that is opened
    assert re.search(r"\[ +\d\.\d\ds\] (red|green|blue|yellow) .*\(said \d\.\d\ds\)", watched)
    table = printed(code_of(notebook, "scores"))
    assert [line.split()[0] for line in table.splitlines()[2:8]] == [
        "model",
        "oracle",
        "oracle_late_3s",
        "other_clip",
        "always_talking",
        "always_silent",
    ]
    assert float(table.splitlines()[2].split()[1]) > 0.5  # F1 of the model, which has learned; two clips are few


def test_it_shows_a_page_and_keeps_it(executed):
    notebook, folder = executed
    (shown,) = code_of(notebook, "show").outputs
    (frame,) = Tags(shown.data["text/html"]).named("iframe")
    kept = (folder / "watched" / "page.html").read_text(encoding="utf-8")
    assert frame["srcdoc"] == kept
    assert len(Tags(kept).named("video")) == 1
    with av.open(str(folder / "watched" / "plain world, clip 0.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) > 100
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["ipython", "watched"]


def test_it_is_kept_without_outputs():
    notebook = read()
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type in ("code", "markdown")
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
    assert (
        FILE.read_text(encoding="utf-8") == nbformat.writes(notebook) + "\n"
    )  # as it is written, so that diffs are small


def test_it_holds_no_logic():
    for cell in read().cells:
        if cell.cell_type == "code":
            allowed = CHECKED if cell.id == "install" else PLAIN
            context = (ast.expr_context, ast.cmpop)
            odd = [
                type(node).__name__
                for node in ast.walk(python_of(cell.source))
                if not isinstance(node, (*allowed, *context))
            ]
            assert not odd, f"cell {cell.id}: {odd} belong into mmduplex_jax/pages/notebook.py, where they are tested"


def test_settings_are_a_form_and_each_is_used():
    notebook = read()
    settings = code_of(notebook, "settings").source
    names = re.findall(r"^(\w+) = .*# @param [\[{]", settings, re.M)
    assert names == [target.id for node in python_of(settings).body for target in node.targets]
    rest = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.id != "settings")
    assert not [name for name in names if not re.search(rf"\b{name}\b", rest)]


@pytest.mark.parametrize("found", [True, False])
def test_it_installs_only_what_is_not_there(found, monkeypatch):
    """With a stand-in for IPython, which fills in the braces of its commands from the cell's names."""
    ran = []
    names = {"REPOSITORY": "git+https://host/repository", "EXTRAS": "captions,tpu"}
    shell = type("Shell", (), {"run_line_magic": lambda self, *command: ran.append(" ".join(command).format(**names))})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if found and name == "mmduplex_jax" else None)
    install = compile(python_of(code_of(read(), "install").source), "install", "exec")
    exec(install, names | {"get_ipython": shell})
    wanted = 'pip install --quiet "mmduplex-jax[captions,tpu] @ git+https://host/repository"'
    assert ran == ([] if found else [wanted])
    if not found:
        with pytest.raises(AssertionError, match="set REPOSITORY above"):
            exec(install, names | {"get_ipython": shell, "REPOSITORY": ""})
