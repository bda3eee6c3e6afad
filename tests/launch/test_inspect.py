"""`python -m launch.inspect`: true numbers, a page that needs nothing else, and clear words about what is damaged."""

import base64
import dataclasses
import json
import re

import cv2
import numpy as np
import pytest

from configs import clip_quickstart, quickstart
from data_pipelines.manifest import ShardError
from data_pipelines.schema import Event, Record, Word
from data_pipelines.shards import write_shards
from data_pipelines.sources import Item, Rejected
from data_pipelines.sources.causes import CANNOT_DECODE, NO_WORDS
from launch.inspect import main
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.dataset_report import format_report, token_counter, tokenizer_of
from mmduplex_jax.evals.dataset_report import inspect as inspect_with
from mmduplex_jax.pages.dataset import dataset_page, page_clip
from mmduplex_jax.tokenizer.motion_field import MotionField
from tests import tiny
from tests.pages.tags import EVIL, Tags

QUICKSTART = "configs/quickstart.py"


def inspect(folder, **settings):
    """The report as the command without `--config` gives it, and all measured clips as a page shows them."""
    shown = []
    show = lambda record, facts: shown.append(page_clip(record, facts))
    report = inspect_with(folder, quickstart.get_config(), QUICKSTART, must_fit=False, on_clip=show, **settings)
    return report, shown


class MixedSource:
    """Unit 0: a clip with words, a caption and hostile text; 1 and 2: rejected; 3: a long silent clip; 4: rejected."""

    clock = Clock()
    flip_safe = True

    def __len__(self):
        return 5

    def describe(self):
        return {"kind": "mixed"}

    def items(self, begin, end):
        contents = {
            0: Record(
                f"0 {EVIL}",
                tiny.clips(1, 25, side=64)[0],
                self.clock,
                (Word(EVIL, 1.0, 1.4), Word("red", 1.1), Word("dog", 2.5)),
                events=(Event(1.5, "enters", "red dog", EVIL),),
                caption=f"caption {EVIL}",
                language="en",
                license="CC0-1.0",
                provenance={"source": "mixed", "file": EVIL},
                words_from_s=0.8,
                motion=np.ones((25, 8, 8, 4), np.int8),
            ),
            1: Rejected(NO_WORDS, "nothing beside it"),
            2: Rejected(CANNOT_DECODE, f"said {EVIL}"),
            3: Record("3", tiny.clips(1, 400, side=64, seed=1)[0], self.clock, timing="clip"),
            4: Rejected(NO_WORDS, "nothing there"),
        }
        for unit in range(begin, end):
            content = contents[unit]
            yield Item(unit, content.key if isinstance(content, Record) else f"{unit} {EVIL}", content)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect") / "data"
    write_shards(MixedSource(), folder, config={}, units_per_shard=3)
    return folder


@pytest.fixture(scope="module")
def inspected(shards):
    return inspect(shards)


def test_numbers_are_those_of_the_data(inspected):
    report, shown = inspected
    assert (report["samples"], report["units"], report["shards"], report["words"]) == (2, 5, 2, 3)
    assert report["hours"] == pytest.approx(425 * 0.16 / 3600)
    assert report["rejected"] == {CANNOT_DECODE: 1, NO_WORDS: 2}
    assert report["rejected_examples"] == {
        NO_WORDS: [
            {"key": f"1 {EVIL}", "detail": "nothing beside it"},
            {"key": f"4 {EVIL}", "detail": "nothing there"},
        ],
        CANNOT_DECODE: [{"key": f"2 {EVIL}", "detail": f"said {EVIL}"}],
    }
    found = report["measured"]
    assert found["clips"] == 2
    assert (found["length_s"]["min"], found["length_s"]["max"]) == (4.0, 64.0)
    assert found["words_per_s"]["max"] == pytest.approx(3 / 3.2)
    assert found["without_words"] == 1
    assert found["timing"] == {"word": 1, "clip": 1}
    assert found["with_motion"] == 1
    assert report["tokenizer"] == {"config": QUICKSTART, "why_not": ""}
    tokens = found["tokens"]
    assert tokens["cap"] == 32
    assert 0 < tokens["per_s"] <= tokens["most_in_a_second"] <= 32
    assert tokens["per_s"] == pytest.approx(tokens["anchor_per_s"] + tokens["flow_per_s"])
    assert [clip.facts.key for clip in shown] == [f"0 {EVIL}", "3"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_motion_is_the_stored_one_or_computed(shards, inspected):
    """All cells of the first clip move as one, with the camera; the second clip has no field stored."""
    frames = tiny.clips(1, 400, side=64, seed=1)[0]
    first, second = (clip.facts for clip in inspected[1])
    assert (first.shifts.tolist(), first.camera_moves, first.residual) == ([24 * 64, 0, 0, 0, 0, 0], 1.0, 1.0)
    assert second.shifts.sum() == 399 * 256
    # JPEG changes a level here and there, so that a cell may be matched elsewhere; most are not.
    assert second.residual == pytest.approx(MotionField()(frames)[1:, ..., 2].mean(), rel=0.1)


def test_tokens_of_a_clip_are_the_tokenizers(shards, inspected):
    from data_pipelines.dataset import open_dataset

    record = open_dataset(shards)[0]
    config = tokenizer_of(quickstart.get_config(), QUICKSTART, (64, 64), Clock())
    np.testing.assert_array_equal(inspected[1][0].facts.tokens, token_counter(config)(record.frames))


def test_the_page_holds_all_and_needs_nothing(inspected):
    report, shown = inspected
    html = dataset_page(report, shown).html
    tags = Tags(html)
    names = [name for name, _ in tags.tags]
    assert not {"script", "link", "iframe"} & set(names)
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|https?://", html)
    assert "prefers-color-scheme: dark" in html
    text = " ".join(tags.text)
    assert f"caption {EVIL}" in text
    words = [attrs for name, attrs in tags.tags if name == "span" and attrs.get("class") == "word"]
    # 96 px a second; the second word begins while the first still stands in its lane.
    assert [word["style"] for word in words] == ["left:96px;top:0px", "left:106px;top:24px", "left:240px;top:24px"]
    assert [word["title"] for word in words] == ["1.00 s to 1.40 s", "1.10 s", "2.50 s"]
    (unknown,) = [a for n, a in tags.tags if n == "div" and a.get("class") == "unknown"]
    assert unknown["style"] == "width:77px"
    images = [attrs for name, attrs in tags.tags if name == "img"]
    assert [int(image["width"]) for image in images] == [4 * 96, 60 * 96]  # a minute of the longer clip
    sheet = base64.b64decode(images[0]["src"].removeprefix("data:image/jpeg;base64,"))
    assert cv2.imdecode(np.frombuffer(sheet, np.uint8), cv2.IMREAD_COLOR).shape == (144, 4 * 144, 3)
    rects = [attrs["class"] for name, attrs in tags.tags if name == "rect"]
    spent = np.concatenate([clip.tokens for clip in shown])
    assert (rects.count("anchor"), rects.count("flow")) == tuple((spent > 0).sum(axis=0))
    assert "first 60 s" in text
    assert "nothing beside it" in text


def test_text_says_the_same(inspected):
    text = format_report(inspected[0])
    assert re.search(r"samples +2 from 5 units", text)
    assert re.search(rf"rejected, {NO_WORDS} +2", text)
    assert re.search(r"tokens +[\d.]+ a second by configs/quickstart.py: .* \(cap 32\)", text)
    assert re.search(r"from +mixed, licence CC0-1.0: 1", text)


def test_the_same_clips_each_time(shards, inspected):
    keys = [inspect(shards, clips=1, seed=seed)[1][0].facts.key for seed in (0, 0, 3)]
    assert keys[0] == keys[1]
    assert set(keys) == {f"0 {EVIL}", "3"}  # seed 3 takes the other one


def test_everything_rejected(tmp_path):
    class Nothing(MixedSource):
        def __len__(self):
            return 2

        def items(self, begin, end):
            for unit in range(begin, end):
                yield Item(unit, str(unit), Rejected(NO_WORDS, "none"))

    write_shards(Nothing(), tmp_path / "x", config={}, units_per_shard=3)
    report, shown = inspect(tmp_path / "x")
    assert (report["measured"], shown) == (None, [])
    assert "no words" in dataset_page(report, shown).html
    assert re.search(r"rejected, no words +2", format_report(report))


def test_a_config_that_does_not_fit_is_refused():
    fits = lambda frame_px, clock, config=quickstart: tokenizer_of(config.get_config(), "mine.py", frame_px, clock)
    assert fits((64, 64), Clock()).motion.plane_px == (32, 32)
    assert fits((256, 256), Clock()).frame_px == (64, 64)  # frames are shrunk to it
    with pytest.raises(
        ValueError, match=r"mine.py takes frames of 64x64 px .*, the data has 48x48 px .*--config.frame_px=48"
    ):
        fits((48, 48), Clock())
    with pytest.raises(ValueError, match="video_stride=1"):
        fits((64, 64), Clock(12.5, 1))
    with pytest.raises(ValueError, match="mine.py is of stage 'clip', which spends no video tokens"):
        fits((64, 64), Clock(), clip_quickstart)


def test_without_a_tokenizer_the_rest_is_there(tmp_path):
    class Odd(MixedSource):
        def __len__(self):
            return 1

        def items(self, begin, end):
            yield Item(0, "0", Record("0", tiny.clips(1, 10, side=60)[0], self.clock))

    write_shards(Odd(), tmp_path / "x", config={}, units_per_shard=3)
    report, shown = inspect(tmp_path / "x")
    assert report["measured"]["tokens"] is None
    assert report["measured"]["motion"]["plane_px"] == 60
    assert "not counted: configs/quickstart.py takes frames of 64x64 px" in format_report(report)
    assert "Not counted: configs/quickstart.py takes frames of 64x64 px" in dataset_page(report, shown).html


def test_damage_is_said(shards, tmp_path):
    with pytest.raises(ShardError, match="holds no shards"):
        inspect(tmp_path)
    damaged = tmp_path / "data"
    write_shards(MixedSource(), damaged, config={}, units_per_shard=3)
    with (damaged / "rejected.jsonl").open("a") as file:
        file.write('{"key": "half')
    with pytest.raises(ShardError, match=r"rejected.jsonl, line 4 is damaged .*delete manifest.json"):
        inspect(damaged)
    (damaged / "rejected.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"rejected.jsonl"):
        inspect(damaged)


def test_the_command(shards, tmp_path, capsys):
    files = f"--html={tmp_path / 'a.html'}", f"--json={tmp_path / 'a.json'}"
    assert main([str(shards), *files, "--shown=1"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("measuring up to 64 clips of ")
    assert "samples" in said.out
    assert "tokens are those of the quick start: pass --config=FILE.py" in said.out
    assert json.loads((tmp_path / "a.json").read_text())["samples"] == 2
    assert (tmp_path / "a.html").read_text().count("<article>") == 1


def test_json_on_standard_output_stands_alone(shards, capsys):
    assert main([str(shards), "--json=-", "--clips=1", f"--config={QUICKSTART}", "--config.frame_px=32"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"]["clips"] == 1


def test_the_command_says_what_is_wrong(shards, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    write_shards(MixedSource(), unfinished, config={}, units_per_shard=3)
    (unfinished / "manifest.json").unlink()
    (unfinished / "parts" / "shard-00001-of-00002.json").unlink()
    assert main([str(unfinished)]) == 1
    assert re.search(r"^inspect: .* is unfinished \(1 of 2 shards\)", capsys.readouterr().err, re.M)
    assert main([str(shards), "--config=configs/bflow_75m.py"]) == 2
    assert "takes frames of 224x224 px" in capsys.readouterr().err
    assert main([str(shards), "--clips=0"]) == 2
    assert "at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(shards), f"--html={tmp_path / 'no' / 'a.html'}"])
    assert "there is no folder" in capsys.readouterr().err


def test_a_damaged_record_is_named(tmp_path):
    write_shards(MixedSource(), tmp_path / "x", config={}, units_per_shard=3)
    path = tmp_path / "x" / "shard-00000-of-00002.arrayrecord"
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.write_bytes(blob)
    with pytest.raises(ShardError, match="shard-00000-of-00002.arrayrecord, record 0 of 1"):
        inspect(tmp_path / "x")


def test_page_clips_do_not_hold_their_frames(inspected):
    """Hundreds may be shown; what is kept of one is a sheet and numbers."""
    for clip in inspected[1]:
        sizes = [value.nbytes for value in vars(clip).values() if isinstance(value, np.ndarray)]
        sizes += [v.nbytes for v in dataclasses.asdict(clip.facts).values() if isinstance(v, np.ndarray)]
        assert sum(sizes) + len(clip.sheet) < 1_000_000
