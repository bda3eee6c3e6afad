"""The study of returns: its table of arms, its rows, its page, and how it goes on where it was stopped."""

import importlib
import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import returns
from benchmarks.returns import report, training
from benchmarks.returns.arms import ARMS, COMPARISONS, DATA, LEVERS, PARTS, SIZES
from benchmarks.returns.rows import ROWS, Point, Row, append_row, read_rows
from data_pipelines.manifest import MANIFEST_NAME
from mmduplex_jax.stages.config_file import load_config, override
from mmduplex_jax.train.optimizer import make_schedule

BY_NAME = {arm.name: arm for arm in ARMS}


def row(arm: str, seed: int, f1: float, **changes) -> Row:
    """A row with an F1, whose curve falls for 1,000 steps."""
    curve = tuple(Point(step, 1.0 - step / 2000, f1 * step / 1250, step > 1000) for step in range(250, 1500, 250))
    scores = {
        "f1": f1,
        "f1_low": f1 - 0.1,
        "f1_high": f1 + 0.1,
        "word_nll": 1 - f1,
        "word_f1": f1,
        "tokens_per_s": 19.0,
    }
    values = dict(
        arm=arm,
        part=BY_NAME[arm].part,
        size="quick",
        seed=seed,
        command="python -m benchmarks.returns",
        config=BY_NAME[arm].config,
        overrides=("train.learning_rate=1e-3",),
        commit="0123456789ab",
        date="2026-11-30",
        machine={"cpu": "a processor", "cores": 2},
        steps=1250,
        stable_steps=1000,
        flat=True,
        wall_s=900.0,
        cpu_s=600.0,
        step_cpu_s=0.2,
        begun_cpu_s=0.0,
        parameters=2_000_000,
        flops_per_step=1e9,
        flops_per_video_s=1e6,
        clips=4800,
        curve=curve,
        scores={"plain": scores | {"latency_p50_s": 0.3}},
    )
    return Row(**values | changes)


# The table.


def test_arms_have_names_of_their_own_and_begin_with_arms():
    assert len(BY_NAME) == len(ARMS)
    for arm in ARMS:
        assert arm.part in PARTS
        assert arm.data in DATA
        assert all(BY_NAME[name].steps for name in arm.begins_with.values())


def test_every_arm_is_compared_or_begun_with():
    compared = {name for each in COMPARISONS for name in each.arms}
    begun = {name for arm in ARMS for name in arm.begins_with.values()}
    assert compared == {arm.name for arm in ARMS if not arm.steps}
    assert begun == {arm.name for arm in ARMS if arm.steps}
    for each in COMPARISONS:
        assert each.reference in each.arms
    assert {name for lever in LEVERS for name in lever.arms} <= compared


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("config", sorted({arm.config for arm in ARMS}))
def test_every_override_is_a_field(config: str, size: str, tmp_path):
    for arm in ARMS:
        if arm.config == config and (size == "quick" or arm.name in MINIATURES):
            values = load_config(config)
            for text in training.Training(arm, 0, size, tmp_path, run_nothing).overrides:
                override(values, *text.split("=", 1))
            most = SIZES[size].stable_steps_max
            override(values, "train.decay_steps", "1")
            override(values, "train.steps", str(most + 1))
            assert float(make_schedule(values.train)(most)) == pytest.approx(values.train.learning_rate)


def run_nothing(*arguments: str) -> None:
    raise AssertionError(f"nothing is to be run, {arguments} was")


def test_chosen_arms_come_behind_what_they_begin_with():
    assert [arm.name for arm in returns.chosen(None, "chain_(all|vlm)")] == [
        "stage_chain_clip", "stage_chain_bflow", "stage_chain_vlm", "chain_all", "chain_vlm"
    ]  # fmt: skip
    assert [arm.name for arm in returns.chosen("outside", "sum")] == ["stage_bflow_32", "sum"]
    with pytest.raises(ValueError, match="no such arm in bflow; there are bflow_32"):
        returns.chosen("bflow", "sum")
    with pytest.raises(ValueError, match="no regular expression"):
        returns.chosen(None, "(")


# Rows and the page.


def test_the_page_is_what_the_rows_give():
    text = report.PAGE.read_text(encoding="utf-8")
    made, figure = report.reported(read_rows(ROWS), text)
    assert made == text, "run `python -m benchmarks.returns --report`"
    file = report.PAGE.parent / report.FIGURE
    assert figure == (file.read_text(encoding="utf-8") if file.exists() else None)


def test_rows_come_back_as_they_went(tmp_path):
    file = tmp_path / "below" / "rows.jsonl"
    rows = [row("bflow_32", 0, 0.6), row("dense_320", 0, 0.7)]
    for each in rows:
        append_row(file, each)
    assert read_rows(file) == rows
    append_row(file, rows[0])
    with pytest.raises(ValueError, match=r"rows.jsonl:3: bflow_32 with seed 0 is in line 1, too"):
        read_rows(file)
    file.write_text('{"arm": "bflow_32"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl:1: no row of benchmarks.returns"):
        read_rows(file)


def test_a_report_of_rows(tmp_path):
    page = tmp_path / "returns.md"
    page.write_text(report.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    rows = [row("bflow_32", seed, 0.5 + 0.02 * seed) for seed in (0, 1, 2)]
    # Twice as dear a step: at equal time it has half the steps.
    rows += [
        row("dense_320", seed, 0.62 + 0.02 * seed, step_cpu_s=0.4, flops_per_video_s=8e6, flat=False) for seed in (0, 2)
    ]
    assert report.write_report(rows, page) == [page, tmp_path / report.FIGURE]
    table = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in reversed(page.read_text().splitlines())}
    assert table["bflow_32"][2:6] == ["3", "1250", "0.520 ± 0.050", "–"]
    # Of the same seeds; the two of the reference differ by as much.
    assert table["dense_320"][2:6] == ["2", "1250*", "0.640 ± 0.254", "+0.120 ± 0.000"]
    text = page.read_text()
    assert "| dense_320 | 0.500 ± 0.000, 0.512 ± 0.203 | 0.750 ± 0.000, 0.256 ± 0.102 |" in text
    assert "at 3.3 CPU-min: NLL, F1" in text
    assert "| B-Flow to dense tokens | operations a second of video | until flat, or 6,000 steps | +0.040 |" in text
    assert "not run: uniform_32, per_frame_6, bflow_8" in text
    assert "with fewer than 3 seeds: dense_320" in text
    assert "- Not flat when its steps were over: dense_320." in text
    assert "<polyline" in (tmp_path / report.FIGURE).read_text()
    # Without rows there is nothing to draw, and no figure stays.
    assert report.write_report([], page) == [page]
    assert not (tmp_path / report.FIGURE).exists()


def test_rows_are_compared_with_those_trained_as_long(tmp_path):
    page = tmp_path / "returns.md"
    page.write_text(report.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    rows = [row("bflow_32", 0, 0.9), row("bflow_8", 0, 0.8)]
    rows += [
        row(f"bflow_{tokens}", 0, f1, size="short", flops_per_video_s=tokens * 1e6)
        for tokens, f1 in ((32, 0.5), (16, 0.45), (8, 0.3))
    ]
    report.write_report([*rows, row("bflow_64", 0, 0.1, size="miniature")], page)
    text = page.read_text()
    tables = text.split("## Which tokens")[1].split("## What each part")[0].split("**From scratch, on `plain`; ")[1:]
    assert [table.split("**")[0] for table in tables] == ["until flat, or 6,000 steps", "2,500 steps (`--size=short`)"]
    quick, short = ([line.split(" | ") for line in table.splitlines() if "tokens a second" in line] for table in tables)
    assert [(cells[0], cells[5]) for cells in quick] == [("| bflow_32", "–"), ("| bflow_8", "-0.100")]
    assert [cells[5] for cells in short] == ["–", "-0.200", "-0.050"]
    assert "bflow_64" not in text.split("rows: levers")[1].split("rows end")[0]
    # Where more arms of a lever ran, its line is drawn.
    assert "| B-Flow's tokens a second | operations a second of video | 2,500 steps (`--size=short`) |" in text


def test_a_power_law_is_extrapolated():
    sizes = ("text_0.02m", "cross", "text_7.3m")
    rows = [
        row(name, 0, 0.5, parameters=10**power, scores={"plain": row(name, 0, 0.5).scores["plain"] | {"word_nll": nll}})
        for name, power, nll in zip(sizes, (5, 6, 7), (0.4, 0.2, 0.1))
    ]
    text, _ = report.reported(rows, report.PAGE.read_text(encoding="utf-8"))
    assert "to the power -0.301 (standard error 0.000, r² 1.00, 3 trainings: until flat, or 6,000 steps)" in text
    assert "50 times as far" in text
    assert "would have 0.031 nats a token" in text  # 0.1 · 49.8 ** -0.301


def test_a_page_without_its_sections_is_refused():
    with pytest.raises(ValueError, match="the page must have the sections bflow, levers"):
        report.reported([], "<!-- rows: state -->\n<!-- rows end -->\n")
    with pytest.raises(ValueError, match="rows of arms that are not in"):
        report.reported([row("bflow_32", 0, 0.5)._replace(arm="luck")], "")


# Running.

MINIATURES = ("bflow_32", "per_frame_6", "stage_bflow_32", "cross")


class Commands:
    """In the place of the project's commands: writes what they write, and stops at the command that it is told."""

    def __init__(self):
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.stop_at: int | None = None

    def __call__(self, *command: str) -> None:
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in command[1:])
        self.seen.append((command[0], flags))
        if self.stop_at == len(self.seen):
            raise KeyboardInterrupt
        getattr(self, command[0].rpartition(".")[2])(flags)

    def prepare(self, flags):
        folder = Path(flags["out"])
        folder.mkdir(parents=True)
        (folder / MANIFEST_NAME).write_text("{}")

    def train(self, flags):
        workdir, steps = Path(flags["workdir"]), int(flags["config.train.steps"])
        if "config.evals.patience" in flags:
            steps = 2  # flat at the first chance
        (workdir / "checkpoints" / str(steps)).mkdir(parents=True)
        kept = workdir / "metrics.jsonl"
        lines = kept.read_text().splitlines() if kept.exists() else []
        for step in range(len(lines) // 2 + 1, steps + 1):
            lines.append(json.dumps({"step": step, "cpu_s_per_step": 0.5}))
            lines.append(json.dumps({"step": step, "eval/held-plain/word_nll": 1 / step, "eval/held-plain/f1": 0.1}))
        kept.write_text("\n".join(lines) + "\n")

    def estimate(self, flags):
        counted = {"parameters": 100, "flops_per_step": 1e6, "stream": {"flops_per_s": 1e3}}
        Path(flags["json"]).write_text(json.dumps(counted))

    def evaluate(self, flags):
        found = {"f1": 0.5, "word_nll": 0.4, "latency_p50_s": None, "tokens_per_s": 19.0, "stage": "duplex"}
        found |= {"spread": {"low": 0.4, "high": 0.6}, "words": {"word": {"f1": 0.7}}}
        Path(flags["json"]).write_text(json.dumps(found))

    @property
    def names(self) -> list[str]:
        return [name.rpartition(".")[2] for name, _ in self.seen]


def test_an_arm_is_trained_until_flat_and_scored(tmp_path):
    run, file = Commands(), tmp_path / "rows.jsonl"
    options = dict(size="miniature", out=tmp_path / "out", rows=file, run=run)
    (found,) = returns.run_arms([BY_NAME["bflow_32"]], [3], **options)
    assert run.names == ["prepare", "prepare", "train", "train", "estimate", "evaluate"]
    stable, decay = (flags for name, flags in run.seen if name == "launch.train")
    assert (stable["config.train.steps"], stable["config.train.stop_at_step"]) == ("6", "4")
    assert (decay["config.train.steps"], decay["config.train.decay_steps"]) == ("4", "2")
    assert "config.evals.patience" not in decay
    assert stable["config.train.seed"] == stable["config.data.seed"] == "3"
    assert stable["workdir"] == decay["workdir"]
    assert (found.steps, found.stable_steps, found.flat) == (4, 2, True)
    assert [point.decaying for point in found.curve] == [False, False, True, True]
    assert found.step_cpu_s == 0.5
    assert found.scores["plain"]["f1_high"] == 0.6
    assert read_rows(file) == [found]
    # It is not done again, whatever else is.
    assert returns.run_arms([BY_NAME["bflow_32"]], [3], **options) == []
    assert len(run.seen) == 6


@pytest.mark.parametrize("stop_at", range(1, 7))
def test_stopped_anywhere_it_goes_on(tmp_path, stop_at):
    run, file = Commands(), tmp_path / "rows.jsonl"
    options = dict(size="miniature", out=tmp_path / "out", rows=file, run=run)
    run.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        returns.run_arms([BY_NAME["bflow_32"]], [0], **options)
    assert read_rows(file) == []
    (found,) = returns.run_arms([BY_NAME["bflow_32"]], [0], **options)
    # The command that was stopped is the only one that is run twice.
    assert len(run.seen) == 7
    assert run.names[stop_at] == run.names[stop_at - 1]
    spent = (tmp_path / "out" / "miniature" / "bflow_32-seed0" / "spent.jsonl").read_text().splitlines()
    assert len(spent) == 5 - (stop_at < 3)
    assert found.wall_s == pytest.approx(sum(json.loads(line)["wall_s"] for line in spent))


def test_what_an_arm_begins_with_is_trained_before(tmp_path):
    run = Commands()
    chosen = returns.chosen(None, "cross")
    rows = returns.run_arms(chosen, [0], size="miniature", out=tmp_path, rows=tmp_path / "rows.jsonl", run=run)
    stage, cross = rows
    trained = [flags for name, flags in run.seen if name == "launch.train"]
    assert trained[0]["config.train.steps"] == "4"
    assert trained[1]["config.init_from.tokenizer"] == trained[0]["workdir"]
    assert (stage.stable_steps, stage.begun_cpu_s) == (0, 0.0)
    assert cross.begun_cpu_s == pytest.approx(stage.cpu_s)


def test_a_listing_says_what_is_left():
    rows = [row("bflow_32", seed, 0.5) for seed in (0, 2)]
    lines = returns.listing([BY_NAME["bflow_32"], BY_NAME["dense_320"]], [0, 1, 2], rows).splitlines()
    assert lines[2].split() == ["bflow_32", "tokenizer", "0,2", "1", "10", "10"]
    assert lines[3].split() == ["dense_320", "tokenizer", "-", "0,1,2", "~160", "480"]
    assert lines[-1].startswith("490 CPU-minutes are left (8.2 hours)")


def test_refusals(tmp_path, capsys):
    assert returns.main(["--arms=luck", "--list"]) == 2
    assert "no such arm" in capsys.readouterr().err
    assert returns.main(["--arms=bflow_32"]) == 2
    assert "pass --out=DIR" in capsys.readouterr().err
    assert returns.main(["--size=miniature", f"--out={tmp_path}"]) == 2
    assert "needs --rows=FILE" in capsys.readouterr().err


def test_a_command_that_is_stopped_stops_the_study(monkeypatch):
    class Child:
        def __init__(self, code):
            self.code = code

        def wait(self):
            return self.code

    for code in (75, 130, -15):
        monkeypatch.setattr(training.subprocess, "Popen", lambda *_, code=code, **__: Child(code))
        with pytest.raises(KeyboardInterrupt):
            training.run_command("launch.train")
    monkeypatch.setattr(training.subprocess, "Popen", lambda *_, **__: Child(2))
    with pytest.raises(subprocess.CalledProcessError):
        training.run_command("launch.train")


def run_here(*arguments: str) -> None:
    """One of the project's commands in this process."""
    code = importlib.import_module(arguments[0]).main(list(arguments[1:]))
    assert code == 0, arguments


@pytest.mark.slow
def test_two_arms_in_miniature(tmp_path):
    """The whole of it, with the project's own commands."""
    file = tmp_path / "rows.jsonl"
    chosen = [BY_NAME["bflow_32"], BY_NAME["per_frame_6"]]
    rows = returns.run_arms(chosen, [0], size="miniature", out=tmp_path / "out", rows=file, run=run_here)
    assert [found.arm for found in rows] == ["bflow_32", "per_frame_6"]
    for found in rows:
        assert 2 <= found.stable_steps < found.steps
        assert [point.step for point in found.curve] == list(range(2, found.steps + 1, 2))
        assert found.step_cpu_s > 0
        assert found.flops_per_step > 0
        assert 0 <= found.scores["plain"]["f1"] <= 1
    assert read_rows(file) == rows
    assert rows[0].scores["plain"]["tokens_per_s"] != rows[1].scores["plain"]["tokens_per_s"]
