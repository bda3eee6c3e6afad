"""The command line: outputs, exit codes, and what is kept when a source breaks or somebody presses Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from launch.commentate import main
from mmduplex_jax.clock import Clock
from mmduplex_jax.streaming.captions import Terminal
from mmduplex_jax.word_decoder import TimedWord
from tests.data_pipelines.numbered_video import write_numbered, write_tone
from tests.written_captions import read_captions

KEYS = {
    "duration_s", "wall_s", "real_time_factor", "ticks", "tokens_per_s_mean", "tokens_in_any_second_max",
    "step_ms_p50", "step_ms_p95", "step_ms_p99", "tick_ms_p50", "word_lag_p50_s", "words",
    "compile_s", "dropped_frames", "checkpoint", "error",
}  # fmt: skip


def moving(count: int, seed: int = 0) -> list[np.ndarray]:
    """A bright square that wanders over noise, uint8 [96, 128, 3] each."""
    background = np.random.default_rng(seed).integers(60, 120, (96, 128, 3), dtype=np.uint8)
    images = [background.copy() for _ in range(count)]
    for i, image in enumerate(images):
        image[30:50, (4 * i) % 108 : (4 * i) % 108 + 20] = (230, 60, 40)
    return images


def test_everything_is_written_and_the_budget_held(portable_dir: Path, tmp_path: Path, capsys):
    clip = write_numbered(tmp_path / "a.mp4", images=moving(75))
    files = {name: tmp_path / file for name, file in [("out", "w.vtt"), ("render", "r.mp4"), ("json", "r.json")]}
    # A bias against silence makes a model that has learned nothing talk.
    code = main(
        [f"--checkpoint={portable_dir}", f"--source={clip}", "--pad_bias=-2"]
        + [f"--{name}={path}" for name, path in files.items()]
    )
    said = capsys.readouterr().out
    assert code == 0
    report = json.loads(files["json"].read_text())
    assert report.keys() >= KEYS
    assert report["error"] is None
    assert report["duration_s"] == pytest.approx(3.0)
    assert report["ticks"] == Clock().ticks_in(3.0)
    assert 0 < report["tokens_in_any_second_max"] <= report["tokens_per_s_cap"] == 32
    assert report["words"]
    for word in report["words"]:
        assert word.keys() == {"text", "t_video_s", "t_emit_s"}
        assert 0 <= word["t_video_s"] <= word["t_emit_s"] <= 3.0
    written = [text for cue in read_captions(files["out"].read_text(encoding="utf-8")) for text, _ in cue.words]
    assert written == [word["text"] for word in report["words"]]
    with av.open(str(files["render"])) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 73  # up to the last tick, and the end
    assert "(said" in said
    assert "x real time" in said
    assert str(files["render"]) in said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.touch(), "empty"),
        (lambda path: path.write_text("not a video " * 100), "cannot be opened as a video"),
        (lambda path: write_tone(path), "has no video stream"),
    ],
)
def test_what_is_no_video_is_one_line_of_error(portable_dir: Path, tmp_path: Path, capsys, make, words: str):
    make(tmp_path / "a.mp4")
    path = tmp_path / "report.json"
    assert main([f"--checkpoint={portable_dir}", f"--source={tmp_path / 'a.mp4'}", f"--json={path}"]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    report = json.loads(path.read_text())
    assert report.keys() >= KEYS
    assert words in report["error"]
    assert (report["ticks"], report["words"], report["real_time_factor"]) == (0, [], None)


def test_a_folder_of_pictures_is_watched_and_passwords_are_not_shown(portable_dir: Path, tmp_path: Path, capsys):
    (tmp_path / "shots").mkdir()
    report = tmp_path / "report.json"
    flags = [f"--checkpoint={portable_dir}", f"--json={report}"]
    assert main([*flags, f"--source={tmp_path / 'shots'}"]) == 1
    assert "a folder without pictures" in capsys.readouterr().err
    for number, image in enumerate(moving(12)):
        cv2.imwrite(str(tmp_path / "shots" / f"{number}.png"), image)
    assert main([*flags, f"--source={tmp_path / 'shots'}", "--image_rate_hz=6.25"]) == 0
    assert json.loads(report.read_text())["ticks"] == 12
    assert main([*flags, "--source=rtsp://me:secret@127.0.0.1:1/a"]) == 1
    captured = capsys.readouterr()
    assert "rtsp://***@127.0.0.1:1/a" in captured.err
    assert "secret" not in captured.out + captured.err + report.read_text()


def test_a_file_cut_in_the_middle_keeps_what_was_said(portable_dir: Path, tmp_path: Path, capsys):
    whole = write_numbered(
        tmp_path / "a.mp4", images=moving(100), options={"g": "10"}, container_options={"movflags": "faststart"}
    )
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    files = {name: tmp_path / file for name, file in [("out", "w.srt"), ("render", "r.mp4"), ("json", "r.json")]}
    code = main(
        [f"--checkpoint={portable_dir}", f"--source={cut}", "--pad_bias=-2"]
        + [f"--{name}={path}" for name, path in files.items()]
    )
    captured = capsys.readouterr()
    assert code == 1
    assert "of 4.00 s" in captured.err
    report = json.loads(files["json"].read_text())
    assert "of 4.00 s" in report["error"]
    assert report["words"]
    assert 1.0 < report["duration_s"] < 3.5
    written = [text for cue in read_captions(files["out"].read_text(encoding="utf-8")) for text, _ in cue.words]
    assert written == [word["text"] for word in report["words"]]
    with av.open(str(files["render"])) as container:
        assert sum(1 for _ in container.decode(video=0)) > 25


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out=words.txt"], ".vtt or .srt"),
        (["--out=nowhere/words.vtt"], "there is no folder"),
        (["--render=a.mp4"], "overwrite the source"),
        (["--json=x.vtt", "--out=x.vtt"], "a file each"),
        (["--random_init=configs/quickstart.py"], "give one of them"),
        (["--delay=77"], "delays of 0 to 4"),
    ],
)
def test_wrong_flags_are_told_apart(portable_dir, tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    assert main([f"--checkpoint={portable_dir}", "--source=a.mp4", *flags]) == 2
    assert words in capsys.readouterr().err


def test_no_time_is_not_a_time(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--source=a.mp4", "--max_s=0"])
    assert "--max_s: must be more than 0, got 0" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there(tmp_path: Path, capsys):
    assert main([f"--checkpoint={tmp_path}", "--source=a.mp4"]) == 2
    assert "no checkpoint" in capsys.readouterr().err


def test_ctrl_c_finishes_the_files(repository: Path, portable_dir: Path, tmp_path: Path):
    clip = write_numbered(tmp_path / "a.mp4", images=moving(1500))
    files = {name: tmp_path / file for name, file in [("out", "w.vtt"), ("render", "r.mp4"), ("json", "r.json")]}
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.commentate", f"--checkpoint={portable_dir}", f"--source={clip}"]
        + ["--realtime", "--pad_bias=-2", *(f"--{name}={path}" for name, path in files.items())],
        cwd=repository,
        env=os.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert "compiling" in process.stdout.readline() + process.stdout.readline()  # after the source
        process.stdout.read(12)  # the first word
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 130
    finally:
        process.kill()
        process.stdout.close()
    report = json.loads(files["json"].read_text())
    assert 0 < report["ticks"] < 60 * 6.25
    assert report["words"]
    assert files["out"].read_text().startswith("WEBVTT")
    with av.open(str(files["render"])) as container:
        assert sum(1 for _ in container.decode(video=0)) > 5


def test_ctrl_c_before_it_has_begun_ends_with_one_line(repository: Path, tmp_path: Path):
    clip = write_numbered(tmp_path / "a.mp4", images=moving(50))
    command = [sys.executable, "-m", "launch.commentate", f"--source={clip}", f"--json={tmp_path / 'r.json'}"]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=repository, env=environment, **pipes) as process:
        try:
            process.stdout.readline()
            assert "compiling" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=300) == 130
        finally:
            process.kill()
        assert process.stderr.read() == "commentate: interrupted before the first tick; nothing was written\n"


def test_a_report_for_programs_has_standard_output_to_itself(portable_dir: Path, tmp_path: Path, capsys):
    clip = write_numbered(tmp_path / "a.mp4", images=moving(25))
    assert main([f"--checkpoint={portable_dir}", f"--source={clip}", "--json=-", "--pad_bias=9"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["words"], report["error"]) == ([], None)
    # A model that says nothing is not left at that.
    assert "chose silence at every step" in printed.err
    assert "trained for 7 steps" in printed.err
    assert "(--pad_bias, now 9) makes" in printed.err


def test_the_terminal_prints_a_line_a_phrase(capsys):
    terminal = Terminal()
    for text, video_s, emit_s in [("red", 12.4, 12.72), ("circle", 12.56, 12.88), ("leaves", 20.0, 20.32)]:
        terminal._print(TimedWord(text, video_s, emit_s))
    terminal.close([])
    assert capsys.readouterr().out.splitlines() == [
        "[  12.40s] red circle   (said 12.72s)",
        "[  20.00s] leaves   (said 20.32s)",
    ]


def check_real_clip(media_dir: Path, file: str, tmp_path: Path, *flags: str) -> dict:
    """Runs a real clip through, all of it, and returns its report."""
    path = tmp_path / "report.json"
    assert main([*flags, f"--source={media_dir / file}", f"--json={path}"]) == 0, file
    report = json.loads(path.read_text())
    assert report["error"] is None
    assert report["dropped_frames"] == 0
    assert report["tokens_in_any_second_max"] <= report["tokens_per_s_cap"], file
    return report


REAL_CLIPS = ("torchcodec__nasa_13013_rotated.mp4", "torchcodec__test_non_zero_start.mp4", "shared-assets__flower.webm")


@pytest.mark.parametrize("file", REAL_CLIPS)
def test_a_real_clip_goes_through(media_dir: Path, portable_dir: Path, tmp_path: Path, file: str):
    (clip,) = (c for c in json.loads((media_dir / "manifest.json").read_text())["clips"] if c["file"] == file)
    report = check_real_clip(media_dir, file, tmp_path, f"--checkpoint={portable_dir}")
    assert report["duration_s"] == pytest.approx(clip["duration"], abs=0.1)


@pytest.mark.slow
def test_every_real_clip_goes_through(media_dir: Path, portable_dir: Path, tmp_path: Path):
    for clip in json.loads((media_dir / "manifest.json").read_text())["clips"]:
        report = check_real_clip(media_dir, clip["file"], tmp_path, f"--checkpoint={portable_dir}")
        assert report["duration_s"] == pytest.approx(clip["duration"], abs=0.1), clip["file"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_real_clip_goes_through_the_full_tokenizer(repository: Path, media_dir: Path, tmp_path: Path):
    for clip in json.loads((media_dir / "manifest.json").read_text())["clips"]:
        config = repository / "configs" / "bflow_75m.py"
        report = check_real_clip(media_dir, clip["file"], tmp_path, f"--random_init={config}")
        assert report["tokens_per_s_cap"] == 64
        assert report["tokens_in_any_second_max"] > 0, clip["file"]
