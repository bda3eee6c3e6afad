"""Configs from files and the command line: `mmduplex_jax/stages/config_file.py`."""

import argparse
import json

import pytest

from mmduplex_jax.stages.config_file import (
    add_config_flag,
    add_json_flag,
    listed,
    load_config,
    override,
    parse_args,
    show,
    write_json,
)

CONFIG = """
from ml_collections import config_dict

def get_config(size="small"):
    c = config_dict.ConfigDict(dict(size=size, name="x", rate=0.5, steps=3, on=False, levels=(0, 1)))
    c.flip = config_dict.placeholder(bool)
    c.train = config_dict.create(lr=1e-3, groups=dict(), keep=2)
    return c
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(CONFIG)
    return path


def flags(**config):
    parser = argparse.ArgumentParser(prog="python -m launch.test")
    add_config_flag(parser, **config)
    add_json_flag(parser)
    parser.add_argument("folder", nargs="?")
    return parser


def test_fields_take_the_types_of_their_values(file):
    args = parse_args(
        flags(),
        [
            "data",
            f"--config={file}:large",
            "--config.rate=2",
            "--config.steps",
            "-7",
            "--config.on",
            "--config.levels=1,2,3",
            "--config.flip=false",
            "--config.train.lr",
            "8e-4",
            "--config.name=a=b",
            "--config.train.groups={'tower': {'match': 'x', 'start_step': -1}}",
        ],
    )
    config = args.config
    assert (config.size, config.rate, config.steps, config.on) == ("large", 2.0, -7, True)
    assert (config.levels, config.flip, config.train.lr, config.name) == ((1, 2, 3), False, 8e-4, "a=b")
    assert config.train.groups.tower.start_step == -1
    assert (config.is_locked, args.folder, args.config_file) == (True, "data", f"{file}:large")
    assert parse_args(flags(), ["--config", str(file), "--noconfig.on", "data"]).config.on is False
    assert parse_args(flags(), ["--config", str(file), "--config.levels=4"]).config.levels == (4,)


def test_a_short_beginning_and_no_config(file):
    args = parse_args(flags(), [f"--config={file}", "--mesh.keep=4"], short={"mesh": "train"})
    assert args.config.train.keep == 4
    assert parse_args(flags(required=False), ["data"]).config is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--config.train.keap=3"], "did you mean --config.train.keep?"),
        (["--config.keep=3"], "did you mean --config.train.keep?"),
        (["--config.tarin.lr=3"], "did you mean --config.train.lr?"),
        (["--config.qqq=3"], "at the top there are"),
        (["--config.rate.x=3"], "there is no such field"),
        (["--config.steps=3.5"], "--config.steps=3.5: a whole number is expected, such as 3"),
        (["--config.on=maybe"], "True or False is expected"),
        (["--config.train=5"], "a dict is expected"),
        (["--config.steps"], "needs a value"),
        (["--json=nowhere/x.json"], "there is no folder"),
        (["--jsn=x.json"], "there is no flag --jsn; did you mean --json?"),
        (["--misspelt=3"], "there is no flag --misspelt; see --help"),
    ],
)
def test_what_does_not_fit_exits_with_2_and_a_line(file, changes, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_args(flags(), [f"--config={file}", *changes])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_files_that_are_no_configs(file, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"did you mean .*experiment\.py\?"):
        load_config(tmp_path / "experimnt.py")
    (tmp_path / "broken.py").write_text("x = 1\nimport not_installed_here\n")
    with pytest.raises(ValueError, match=r"broken\.py:2: ModuleNotFoundError.*checkout's root"):
        load_config(tmp_path / "broken.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match="has no get_config"):
        load_config(tmp_path / "empty.py")
    with pytest.raises(SystemExit):
        parse_args(flags(required=False), ["--config.steps=3"])
    assert "pass --config=FILE.py too" in capsys.readouterr().err


def test_json_goes_to_a_file_or_standard_output(tmp_path, capsys):
    write_json(None, {"a": 1})
    write_json(str(tmp_path / "x.json"), {"a": 1})
    write_json("-", {"a": 1})
    assert json.loads((tmp_path / "x.json").read_text()) == json.loads(capsys.readouterr().out) == {"a": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json("-", {"a": float("nan")})


def test_override_names_the_field(file):
    with pytest.raises(ValueError, match="a number is expected, such as 0.001"):
        override(load_config(file), "train.lr", "fast")


def test_values_with_commas(capsys):
    parser = argparse.ArgumentParser(prog="python -m launch.test")
    parser.add_argument("--sizes", type=listed(int), default="1,2")
    parser.add_argument("--parts", type=listed(among=("a", "b"), none=True), default="")
    assert vars(parser.parse_args([])) == {"sizes": [1, 2], "parts": []}
    assert vars(parser.parse_args(["--sizes=3", "--parts=b, a"])) == {"sizes": [3], "parts": ["b", "a"]}
    for flag, why in {
        "--sizes=": "at least one",
        "--sizes=x": "ints with commas",
        "--parts=c": "'c' is none of a,b",
    }.items():
        with pytest.raises(SystemExit):
            parser.parse_args([flag])
        assert why in capsys.readouterr().err


@pytest.mark.parametrize("target", ["-", "report.json"])
def test_a_report_is_shown_once(target, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    show(argparse.Namespace(json=target, markdown="report.md"), {"f1": 1}, "F1 is 1")
    out = capsys.readouterr().out
    assert json.loads(out if target == "-" else (tmp_path / target).read_text()) == {"f1": 1}
    assert (out == "F1 is 1\n") == (target != "-")
    assert (tmp_path / "report.md").read_text() == "F1 is 1\n"
