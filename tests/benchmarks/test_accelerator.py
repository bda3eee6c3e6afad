"""`benchmarks.accelerator`: a part that fails, hangs or finds no time costs itself alone; what is measured stays."""

import json
import os
import subprocess
import sys
import time
from datetime import date
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks import accelerator, accelerator_parts, streaming, training
from benchmarks.accelerator import PARTS, Run, main, tables
from benchmarks.accelerator_parts import DONE, FAILED, FULL, PARTIAL, REHEARSAL, SKIPPED, Rows, Skipped, is_measured
from benchmarks.stepper import Stepper
from mmduplex_jax.stages.config_file import load_config

DEVICE = {
    "device": "NVIDIA H0", "platform": "gpu", "cores": 2, "cpu": "a Xeon", "jax": "0.10.2", "python": "3.11.7",
    "peak_tflops": 100.0, "peak_source": "its maker", "rehearsal": False,
}  # fmt: skip
# What processes of parts do here, by the part.
SCRIPTS = {
    "train": "report('done', [{'batch': 8}])",
    "twin": "report('running', [{'batch': 1}]); import os; os._exit(7)",
    "live": "report('running', [{'batch': 2}]); import subprocess, time;"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); print('hangs', flush=True);"
    "time.sleep(60)",
    "turns": "report('failed', [{'error': 'ValueError: no'}])",
    "small": "report('skipped', [])",
    "feed": "report('partial', [{'left_out': 'no time'}])",
}
REPORT = """
import json, sys
options = json.loads(sys.argv[1])
def report(status, rows):
    with open(f"{options['out']}/{options['part']}.json", "w") as file:
        json.dump({"part": options["part"], "status": status, "rows": rows}, file)
    with open(f"{options['out']}/asked.jsonl", "a") as file:
        file.write(json.dumps(options) + "\\n")
"""


def scripted(scripts):
    return lambda options: [sys.executable, "-c", REPORT + scripts[options["part"]], json.dumps(options)]


def asked(folder):
    return [json.loads(line) for line in (folder / "asked.jsonl").read_text().splitlines()]


def test_a_part_that_crashes_or_hangs_costs_itself_alone(tmp_path, monkeypatch):
    log = tmp_path / "live.log"

    def now_s():
        # (Time passes only once the part hangs, so that no machine is too slow for the others.)
        return 1e6 - 1 if log.exists() and "hangs" in log.read_text() else 0.0

    monkeypatch.setattr(accelerator, "time", SimpleNamespace(monotonic=now_s, time=time.time, sleep=time.sleep))
    run = Run(tmp_path, rehearse=True, command=scripted(SCRIPTS))
    found = run.parts(list(SCRIPTS), seconds=1e6)
    assert {name: report["status"] for name, report in found.items()} == {
        "train": DONE, "twin": "crashed", "live": "timed out", "turns": FAILED, "small": SKIPPED, "feed": PARTIAL
    }  # fmt: skip
    assert found["twin"]["error"] == "its process ended with 7"
    assert "stopped after" in found["live"]["error"]
    assert "hangs" in found["live"]["log"]
    # What they had measured by then is there.
    assert [found[name]["rows"] for name in ("twin", "live")] == [[{"batch": 1}], [{"batch": 2}]]
    assert run.report("live") == found["live"]


def test_the_group_of_a_part_is_ended_while_its_number_is_its_own(monkeypatch):
    codes = []

    def killpg(group, number, kill=os.killpg):
        # (Of who was waited for there is nothing left to be asked.)
        codes.append(os.waitid(os.P_PID, group, os.WEXITED | os.WNOWAIT | os.WNOHANG).si_status)
        kill(group, number)

    monkeypatch.setattr(os, "killpg", killpg)
    assert accelerator._run(["sh", "-c", "exit 3"], os.environ, subprocess.DEVNULL, 600.0) == 3
    assert codes == [3]


def test_no_row_begins_shortly_before_a_part_is_stopped(tmp_path):
    run = Run(tmp_path, rehearse=True, command=scripted(SCRIPTS))
    for limit_s, begun_s in [(50.0, 45.0), (600.0, 580.0)]:
        before_s = time.time()
        run.part("train", limit_s, {})
        assert 0 <= asked(tmp_path)[-1]["until_s"] - begun_s - before_s <= time.time() - before_s


def test_time_is_shared_out_by_what_is_still_to_come(tmp_path):
    given = []

    class Timed(Run):
        def part(self, name, limit_s, environment):
            given.append((name, limit_s))
            return {"status": DONE, "rows": []}

    Timed(tmp_path, rehearse=False).parts(["train", "live", "feed"], seconds=1100.0)
    # Nothing was spent, so that the later ones have more; the last has all that is left.
    shares = [PARTS[name].share for name in ("train", "live", "feed")]
    wanted = [1100 * shares[0] / sum(shares), 1100 * shares[1] / sum(shares[1:]), 1100]
    assert [limit_s for _, limit_s in given] == pytest.approx(wanted, rel=0.01)
    late = Timed(tmp_path, rehearse=False).parts(["train"], seconds=0.0)["train"]
    assert (late["status"], late["reason"]) == (PARTIAL, "no time was left")
    assert len(given) == 3


def test_the_same_command_goes_on(tmp_path, monkeypatch, capsys):
    scripts = {"device": f"report('done', [{DEVICE | {'platform': 'gpu'}!r}])", **SCRIPTS}
    monkeypatch.setattr(accelerator, "Run", lambda out, rehearse: Run(out, rehearse, scripted(scripts)))
    flags = [f"--out={tmp_path / 'out'}", "--parts=train,turns,feed", "--skip=feed"]
    assert main(flags) == 1
    assert [options["part"] for options in asked(tmp_path / "out")] == ["device", "train", "turns"]
    assert "--parts=train,turns`" in (tmp_path / "out" / "tables.md").read_text()
    assert "failed: ValueError: no" in (tmp_path / "out" / "tables.md").read_text()
    scripts["turns"] = "report('done', [{'fusion': 'cross', 'ttft_ratio': 1.0625}])"
    assert main(flags) == 0
    assert [options["part"] for options in asked(tmp_path / "out")[3:]] == ["device", "turns"]  # `train` was done
    assert "| 1.062 |" in capsys.readouterr().out
    assert main([*flags, "--again"]) == 0
    assert [options["part"] for options in asked(tmp_path / "out")[5:]] == ["device", "train", "turns"]
    scripts["device"] = scripts["device"].replace("NVIDIA H0", "NVIDIA H9")
    assert main(flags) == 2
    assert "results of another machine (device NVIDIA H0" in capsys.readouterr().err
    scripts["device"] = scripts["device"].replace("NVIDIA H9", "NVIDIA H0")
    scripts["turns"] = "report('partial', [{'left_out': 'no time'}])"
    assert main([*flags, "--again"]) == 1


def test_without_an_accelerator_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    scripts = {"device": f"report('done', [{DEVICE | {'platform': 'cpu'}!r}])"}
    monkeypatch.setattr(accelerator, "Run", lambda out, rehearse: Run(out, rehearse, scripted(scripts)))
    assert main([f"--out={tmp_path}"]) == 2
    assert "pass --rehearse" in capsys.readouterr().err
    # The folder is no CPU's by that.
    there, scripts["device"] = scripts["device"], f"report('done', [{DEVICE!r}])"
    scripts["train"] = SCRIPTS["train"]
    assert main([f"--out={tmp_path}", "--parts=train"]) == 0
    assert json.loads((tmp_path / "device.json").read_text())["rows"] == [DEVICE]
    scripts["device"] = there
    assert main([f"--out={tmp_path}", "--parts=train"]) == 2
    assert json.loads((tmp_path / "device.json").read_text())["rows"] == [DEVICE]
    assert "pass --rehearse" in capsys.readouterr().err
    scripts["device"] = "raise SystemExit(3)"
    assert main([f"--out={tmp_path}"]) == 2
    assert "its process ended with 3" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([f"--out={tmp_path}", "--parts=sound"])


def test_a_folder_of_something_else_is_refused(tmp_path, monkeypatch, capsys):
    scripts = {"device": f"report('done', [{DEVICE!r}])"}
    monkeypatch.setattr(accelerator, "Run", lambda out, rehearse: Run(out, rehearse, scripted(scripts)))
    (tmp_path / "train.json").write_text("[]")
    assert main([f"--out={tmp_path}"]) == 2
    assert "train.json is no report of this command: name another --out" in capsys.readouterr().err


def failing(text):
    def fail():
        raise RuntimeError(text)

    return fail


def test_rows_are_kept_and_say_what_failed(tmp_path):
    rows = Rows(tmp_path, "train", time.time() + 100, rehearse=True)
    rows.measure({"batch": 1}, lambda: {"ms": 5.0})
    rows.measure({"batch": 2}, failing("no such thing"))
    rows.measure({"batch": 3}, failing("RESOURCE_EXHAUSTED: Out of memory while trying to allocate\nmore"))
    assert rows.counted("model", lambda: 7.0) == 7.0
    rows.report["dates"] = ["2026-11-29"]
    rows.write()
    file = json.loads((tmp_path / "train.json").read_text())
    assert (file["status"], file["rows"][0]) == ("running", {"batch": 1, "ms": 5.0})
    assert file["rows"][1] == {"batch": 2, "error": "RuntimeError: no such thing"}
    assert file["rows"][2]["out_of_memory"].startswith("RuntimeError: RESOURCE_EXHAUSTED")
    assert [is_measured(row) for row in file["rows"]] == [True, False, True]  # what does not fit never will
    rows.close()
    assert rows.report["status"] == FAILED
    again = Rows(tmp_path, "train", time.time() + 100, rehearse=True)
    assert again.measure({"batch": 1}, failing("measured twice"))["ms"] == 5.0
    again.measure({"batch": 2}, lambda: {"ms": 6.0})
    assert again.counted("model", failing("counted twice")) == 7.0
    again.close()
    assert (again.report["status"], len(again.report["rows"])) == (DONE, 3)
    # What was measured on another day says so.
    assert again.report["dates"] == ["2026-11-29", date.today().isoformat()]


def test_no_row_begins_that_would_not_end_in_time(tmp_path):
    rows = Rows(tmp_path, "train", time.time() + 0.5, rehearse=True)

    def slow():
        time.sleep(0.3)
        return {"ms": 1.0}

    rows.measure({"batch": 1}, slow)
    assert rows.measure({"batch": 2}, failing("began")) == {"batch": 2, "left_out": "no time was left"}
    rows.close()
    assert rows.report["status"] == PARTIAL


def test_a_part_may_have_nothing_to_measure(tmp_path, monkeypatch):
    def nothing(rows):
        raise Skipped("there is no such library")

    monkeypatch.setitem(accelerator_parts.PARTS, "twin", nothing)
    options = {"part": "twin", "out": str(tmp_path), "until_s": time.time() + 9, "rehearse": True}
    monkeypatch.setattr(sys, "argv", ["", json.dumps(options)])
    accelerator_parts.main()
    report = json.loads((tmp_path / "twin.json").read_text())
    assert (report["status"], report["reason"]) == (SKIPPED, "there is no such library")


def test_turns_are_compared_by_their_first_and_last_tenth(tmp_path, monkeypatch):
    # The frame of turn n takes n + 1 ms more, a token always 2 ms; the last turn is not whole.
    frames_s = [(n + 1) / 1e3 for n in range(21)]
    found = accelerator_parts.turn_figures(frames_s, [2e-3] * (15 * 20 + 4))
    assert found["turns"] == 20
    assert (found["ttft_first_ms"], found["ttft_last_ms"]) == (pytest.approx(1.5), pytest.approx(19.5))
    assert found["ttft_ratio"] == pytest.approx(13.0)
    assert found["tokens_per_s_first"] == pytest.approx(500.0)
    assert found["tokens_per_s_ratio"] == pytest.approx(1.0)


def rate_by_batch(monkeypatch, ms_of):
    """Has a step of so many streams take what `ms_of` says."""
    tried = []

    def stepper(model, batch):
        tried.append(batch)
        if ms_of(batch) is None:
            raise RuntimeError("RESOURCE_EXHAUSTED: so many do not fit")
        return Stepper({"all": 1.0}, None)

    timed = lambda stepper, steps, **_: {"all": [ms_of(tried[-1]) / 1e3] * steps}
    monkeypatch.setattr(streaming, "whole_stepper", stepper)
    monkeypatch.setattr(streaming, "text_stepper", lambda model, batch, watched_s: stepper(model, batch))
    monkeypatch.setattr("benchmarks.stepper.timed", timed)
    clock = SimpleNamespace(step_s=0.08)
    config = SimpleNamespace(text=SimpleNamespace(dtype="bfloat16"))
    model = SimpleNamespace(clock=clock, live=SimpleNamespace(config=config))
    monkeypatch.setattr("mmduplex_jax.commentator.random_commentator", lambda *args, **changes: model)
    monkeypatch.setattr(streaming, "with_every_row", lambda model: model)
    # Behind thousands of tests it takes seconds a row, and there are no arrays here.
    monkeypatch.setattr(accelerator_parts.gc, "collect", lambda: 0)
    return tried


@pytest.mark.parametrize(
    ("ms_of", "most"),
    [
        (lambda batch: batch / 5, 400),  # 80 ms
        (lambda batch: None if batch > 100 else 1.0, 100),
        (lambda batch: 90.0 if batch > 1 else 50.0, 1),
        (lambda batch: 1.0, 2048),
    ],
)
def test_the_most_streams_that_keep_up_are_found(tmp_path, monkeypatch, ms_of, most):
    tried = rate_by_batch(monkeypatch, ms_of)
    rows = Rows(tmp_path, "live", time.time() + 1000, rehearse=False)
    accelerator_parts.live(rows)
    rows.close()
    [found] = [row for row in rows.report["rows"] if row["part"] == "the most held"]
    assert 0.9 * most <= found["largest"] <= most
    assert rows.report["status"] == DONE
    assert len(tried) < 20
    assert len(set(tried)) >= len(tried) / 2  # of text and of the whole, once each


def test_streams_that_there_was_no_time_for_are_said(tmp_path, monkeypatch):
    rate_by_batch(monkeypatch, lambda batch: 1.0)
    rows = Rows(tmp_path, "live", time.time() + 1000, rehearse=False)
    kept = rows.measure

    def until_256(key, measured):
        return kept(key, measured) if key["streams"] <= 256 else rows.put(key, {"left_out": "no time was left"})

    monkeypatch.setattr(rows, "measure", until_256)
    accelerator_parts.live(rows)
    rows.close()
    [found] = [row for row in rows.report["rows"] if row["part"] == "the most held"]
    assert (found["largest"], rows.report["status"]) == (256, PARTIAL)
    assert "whether 512" in found["left_out"]


def test_the_tables_say_what_was_measured_and_where():
    trained = {"config": "duplex_300m", "attention": "fused", "batch": 8, "step_ms": 12.34, "mfu": 0.456}
    misfit = {"config": "duplex_300m", "attention": "fused", "batch": 99, "out_of_memory": "no"}
    arms = [{"arm": "ours", "times_ours": [1.0], "mfu": 0.5}, {"arm": "PyTorch", "times_ours": [3.0, 1.0, 2.0]}]
    found = {
        "train": {"status": DONE, "rows": [trained, misfit]},
        "twin": {"status": DONE, "rows": [{"attention": "einsum", "batch": 8, "dtype": "bfloat16", "arms": arms}]},
        "feed": {"status": "timed out", "dates": ["2026-11-29"], "rows": [], "error": "stopped after 5 s"},
    }
    text = tables(DEVICE, found, {"command": "python -m x", "date": "2026-11-30"})
    assert "`python -m x`, 2026-11-30: NVIDIA H0 (gpu), 2 cores of a Xeon" in text
    assert accelerator_parts.COUNTED in text
    assert "rehearsal" not in text
    assert "| duplex_300m | fused | 8 | 12.3 |  |  | 45.6% |" in text
    assert "does not fit |" in text
    assert "| PyTorch |  |  | 2.00 |" in text
    assert "(`feed`: timed out, 2026-11-29): stopped after 5 s" in text
    rehearsed = tables(DEVICE | {"rehearsal": True}, found, {"command": "x", "date": "y"})
    assert rehearsed.startswith("**A rehearsal")


def test_every_size_changes_fields_that_are_there():
    """A field that is not would be found on the device only, minutes of which cannot be had back."""
    for sizes in (FULL, REHEARSAL):
        small = [(file, changes) for _, file, changes, _ in sizes.small]
        for file, changes in [(sizes.duplex, sizes.changes), (sizes.duplex, sizes.twin_changes), *small]:
            config = load_config(file).lock()
            config.update_from_flattened_dict({**changes, **accelerator_parts.fused(file)})
    names = {field.partition(".")[0] for field in accelerator_parts.fused(FULL.duplex)}
    assert names == {"text", "video_stream", "tokenizer"}
    assert accelerator_parts.fused("configs/clip_s16.py") == {"vision.attention": "fused"}
    assert set(PARTS) == set(accelerator_parts.PARTS) - {"device"}


def test_the_loader_is_held_against_what_a_step_takes(tmp_path):
    early = Rows(tmp_path, "feed", time.time() + 100, rehearse=True)
    accelerator_parts.feed(early)
    early.close()
    # What could not be compared is measured again by the next call.
    assert (early.report["status"], early.report["rows"][0]["samples_per_s"] > 0) == (PARTIAL, True)
    (tmp_path / "train.json").write_text(json.dumps({"rows": [{"samples_per_s": 2.0}, {"batch": 9, "error": "x"}]}))
    rows = Rows(tmp_path, "feed", time.time() + 100, rehearse=True)
    accelerator_parts.feed(rows)
    [found] = rows.report["rows"]
    assert found["taken_per_s"] == 2.0
    assert found["times_taken"] == pytest.approx(found["samples_per_s"] / 2)
    assert found["samples_per_s"] > 0


def test_larger_batches_are_tried_until_one_does_not_fit(tmp_path, monkeypatch):
    """Of einsum and of fused attention by itself; both are held against the operations of einsum."""
    made, traced = [], []

    def make_run(file, name, changes, *, estimate):
        batch, form = changes["data.batch_size"], changes.get("text.attention", "einsum")
        made.append((form, batch))
        if batch > {"einsum": 8, "fused": 64}[form]:
            raise RuntimeError("RESOURCE_EXHAUSTED: so many do not fit")
        flops = {"einsum": 3e12, "fused": 1e12}[form] * batch
        return training.Run(training.Arm(name, lambda: 0.0), flops, 0, 0, held_bytes=batch << 30)

    def program_with(file, changes):
        traced.append(changes["data.batch_size"])
        product = jax.make_jaxpr(jnp.dot)(jnp.ones((changes["data.batch_size"], 10)), jnp.ones((10, 10)))
        return None, None, SimpleNamespace(trace=lambda: SimpleNamespace(jaxpr=product))

    monkeypatch.setattr(training, "make_run", make_run)
    monkeypatch.setattr(training, "program_with", program_with)
    monkeypatch.setattr(training, "take_turns", lambda arms, rounds, steps: arms[0].rounds_s.append(0.5))
    rows = Rows(tmp_path, "train", time.time() + 1000, rehearse=False)
    accelerator_parts.train(rows)
    rows.close()
    assert made == [
        ("einsum", 8), ("fused", 8), ("einsum", 32), ("fused", 32), ("fused", 64), ("fused", 128), ("einsum", 16),
        ("fused", 16),
    ]  # fmt: skip
    assert rows.report["status"] == DONE
    found = {(row["attention"], row["batch"]): row for row in rows.report["rows"]}
    assert "out_of_memory" in found["einsum", 16]
    assert found["fused", 64]["samples_per_s"] == 128
    assert found["fused", 64]["planned_gib"] == 64
    assert found["fused", 8]["gflop_a_sample"] == found["einsum", 8]["gflop_a_sample"] == 3e3
    # Where einsum does not fit, its operations are traced.
    assert traced == [32, 64, 128, 16]
    assert found["fused", 64]["gflop_a_sample"] == 2 * 10 * 10 / 1e9


@pytest.mark.slow
def test_it_is_rehearsed(tmp_path, capsys):
    """Minutes: all parts are compiled in miniature, in processes of their own."""
    assert main([f"--out={tmp_path}", "--rehearse", "--minutes=30"]) == 0
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in PARTS}
    assert {name: report["status"] for name, report in found.items() if name != "twin"} == dict.fromkeys(
        set(PARTS) - {"twin"}, DONE
    )
    assert found["twin"]["status"] in (DONE, SKIPPED)
    trained = {row["attention"]: row for row in found["train"]["rows"]}
    assert trained["einsum"]["gflop_a_sample"] == trained["fused"]["gflop_a_sample"] > 0
    assert [row["turns"] for row in found["turns"]["rows"]] == [REHEARSAL.turns] * 3
    assert found["feed"]["rows"][0]["times_taken"] > 0
    assert "no figure here means anything" in capsys.readouterr().out
