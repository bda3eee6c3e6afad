"""What the notebook's cells call: every video is watched from nothing, captions stand under what they are about."""

import base64
import io
import json
import sys
import types
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs import vlm_quickstart
from data_pipelines.decode import VideoReader
from data_pipelines.schema import Event
from data_pipelines.sources.world import WorldSource
from data_pipelines.video_source import VideoError
from data_pipelines.world import WorldConfig
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Delays
from mmduplex_jax.pages import notebook
from mmduplex_jax.pages.notebook import Video, collect_videos, find_checkpoint, upload_into
from mmduplex_jax.pages.watched import CaptionedVideo, captions_page
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.stages.vlm.captioner import Captioned
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.trained import DEFAULT, MODELS, load_tokenizer
from tests import tiny
from tests.data_pipelines.numbered_video import number_in, write_numbered
from tests.pages.tags import EVIL, Tags
from tests.streaming.scripted_stream import CLOCK, FRAME_PX, script, session
from tests.written_captions import read_captions

SAID = {3: "red", 6: "circle", 20: "enters", 23: "left"}


def grey(spend: list[int]) -> list[np.ndarray]:
    """Pictures at 25 Hz whose first pixel says, for each tick, how many tokens it is worth."""
    return [np.full((FRAME_PX, FRAME_PX, 3), number, np.uint8) for number in spend for _ in range(4)]


def picture_in(jpeg: bytes) -> np.ndarray:
    """uint8 `[H, W, 3]`."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture
def scripted(monkeypatch):
    """A model of stage `duplex` whose speaker says a script."""
    speaker = types.SimpleNamespace(
        name="a script",
        clock=CLOCK,
        frame_px=(FRAME_PX, FRAME_PX),
        fit="crop",
        tokens_per_s_max=8,
        sample_rate_hz=None,
        delays=Delays(0, 6, 2),
        session=lambda delay_steps, pad_bias, *, speaking: session(script(SAID, 60), delay_steps),
    )
    monkeypatch.setattr(notebook, "commentator_of", lambda trained, name: speaker)
    return notebook.Model(
        "a script", None, types.SimpleNamespace(task=None, config=types.SimpleNamespace(stage="duplex"))
    )


@pytest.fixture(scope="module")
def vlm_dir(tmp_path_factory):
    """A small model of stage `vlm` that has learned nothing, as a portable checkpoint."""
    config = vlm_quickstart.get_config()
    config.vision.update(patch_px=16, width=32, layers=1, heads=2, hidden=32, projection=16)
    config.time.frames = 2
    config.projector.hidden = 32
    config.caption.length = 6
    config.text.update(width=32, layers=1, heads=2, kv_heads=1, head_width=8, hidden=32)
    tokenizer = load_tokenizer(config)
    metadata = {
        "config": json.loads(config.to_json_best_effort()),
        "tokenizer": json.loads(tokenizer.to_json()),
        "steps": 7,
        "data": {},
        "scores": {},
    }
    folder = tmp_path_factory.mktemp("vlm") / "a" / "folder"
    portable.save(folder, tiny.random_params(build_task(config, tokenizer).init), metadata, dtype="float32")
    return folder


def test_each_video_is_watched_from_nothing(scripted, tmp_path, capsys):
    spend = [5, 0, 2, 0, 0, 1] * 3  # greys that a codec keeps
    clip = write_numbered(tmp_path / "a.mp4", images=grey(spend))
    events = (Event(0.2, "enters", "red circle", "left"),)
    videos = [Video("one", str(clip), events), Video("two", str(clip))]
    first, second = notebook.watch(scripted, videos, tmp_path / "out", max_s=2.4)
    assert capsys.readouterr().out.count("circle") == 2
    assert (first.name, second.name, first.events, second.events) == ("one", "two", events, None)
    assert first.report["words"] == second.report["words"]
    assert [word["text"] for word in first.report["words"]] == ["red", "circle", "enters", "left"]
    # A word's picture is two steps before its mark; it is said with its token, a step after the mark.
    assert first.report["words"][0] == {"text": "red", "t_video_s": 0.08, "t_emit_s": 0.32}
    assert (first.report["duration_s"], first.report["tokens_per_s_cap"]) == (2.4, 8)
    assert first.tick_s == CLOCK.tick_s
    # The scripted model's tokens are all of flow; a second may touch 7 ticks.
    assert [row.flow for row in first.spent] == spend[:15]
    assert [row.anchor for row in first.spent] == [0] * 15
    assert [row.in_last_second for row in first.spent][:7] == [5, 5, 7, 7, 7, 8, 13]
    assert first.film == tmp_path / "out" / "one.mp4"
    written = [text for cue in read_captions(first.captions.read_text(encoding="utf-8")) for text, _ in cue.words]
    assert written == ["red", "circle", "enters", "left"]
    film = cv2.VideoCapture(str(second.film))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) > 50
    page = notebook.show([first, second])
    assert base64.b64encode(first.film.read_bytes()).decode() in page.html
    assert len(Tags(page.html).named("article")) == 2


def test_a_video_that_breaks_keeps_what_was_said(scripted, tmp_path, capsys):
    whole = write_numbered(
        tmp_path / "a.mp4",
        images=grey([3] * 30),
        options={"g": "10"},
        container_options={"movflags": "faststart"},
    )
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    (one,) = notebook.watch(scripted, cut, tmp_path / "out")
    assert one.name == "cut"
    assert "of 4.80 s" in one.report["error"]
    assert one.report["error"] in capsys.readouterr().out
    assert [word["text"] for word in one.report["words"]][:2] == ["red", "circle"]
    with pytest.raises(VideoError, match="no such file"):
        notebook.watch(scripted, [Video("lost", str(tmp_path / "lost.mp4"))], tmp_path)


def test_paths_are_watched_but_never_overwritten(scripted, tmp_path):
    clip = write_numbered(tmp_path / "a.mp4", images=grey([3] * 4))
    watched = notebook.watch(scripted, [clip, str(clip), tmp_path], tmp_path / "out")
    assert [one.name for one in watched] == ["a", "a (2)", "a (3)"]
    before = clip.read_bytes()
    with pytest.raises(ValueError, match=r"a\.mp4 would be overwritten .*: give another folder"):
        notebook.watch(scripted, clip, tmp_path)
    assert clip.read_bytes() == before
    with pytest.raises(FileNotFoundError, match=r"there is no .*lost\.mp4: give paths"):
        notebook.watch(scripted, str(tmp_path / "lost.mp4"), tmp_path / "out")


def test_settings_of_another_stage_are_refused(scripted, vlm_dir, tmp_path):
    with pytest.raises(ValueError, match="decode='beam' is of models of stage 'vlm'"):
        notebook.watch(scripted, [], tmp_path, decode="beam")
    model = notebook.load(str(vlm_dir))
    with pytest.raises(ValueError, match=r"pad_bias=1\.0 is of models of stage 'duplex'"):
        notebook.watch(model, [], tmp_path, pad_bias=1.0)
    with pytest.raises(ValueError, match="--pad_bias: not of models of stage 'vlm'"):
        notebook.scores(model, clips=2, pad_bias=1.0)
    with pytest.raises(ValueError, match="'odd' is unknown"):
        notebook.scores(model, clips=2, look="odd")
    with pytest.raises(ValueError, match="nothing was watched"):
        notebook.show([])


def test_models_are_found_and_described(vlm_dir, tmp_path):
    model = notebook.load(str(vlm_dir.parent))
    assert (model.checkpoint, model.trained.folder) == (str(vlm_dir), vlm_dir)
    described = f"the model in {vlm_dir}: stage vlm, 0.0 M parameters, 7 steps of training\n64x64 px at "
    assert str(model).startswith(described)
    world = notebook.load("world")
    assert (world.checkpoint, world.trained.folder) == ("world", MODELS["world"])
    assert str(world).startswith("model world: stage duplex, 2.6 M parameters")
    assert notebook.load().checkpoint == DEFAULT
    with pytest.raises(ValueError, match="choose one"):
        notebook.load(str(vlm_dir), upload=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        notebook.load(str(tmp_path))


def test_a_model_that_says_nothing_is_refused(monkeypatch):
    silent = types.SimpleNamespace(task=None, folder="runs/clip", config=types.SimpleNamespace(stage="clip"))
    monkeypatch.setattr(notebook, "load_trained", lambda folder: silent)
    with pytest.raises(ValueError, match=r"runs/clip is of stage 'clip', which says nothing .*--checkpoint=runs/clip"):
        notebook.load()


def test_captions_stand_under_what_they_are_about(vlm_dir, tmp_path, capsys):
    video = write_numbered(tmp_path / "c.mp4", count=50, rate=10)
    picture = tmp_path / "b.png"
    cv2.imwrite(str(picture), np.full((90, 120, 3), 60, np.uint8))
    events = (Event(1.0, "stops", "red dog"), Event(4.0, "enters", EVIL, "left"))
    whole = write_numbered(
        tmp_path / "w.mp4", count=80, rate=10, options={"g": "5"}, container_options={"movflags": "faststart"}
    )
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    model = notebook.load(str(vlm_dir))
    videos = [Video("film", str(video), events), Video("still", str(picture)), Video("cut", str(cut))]
    film, still, broken = notebook.watch(model, videos, tmp_path)
    assert [(caption.start_s, caption.end_s) for caption in film.captions] == [(0.0, 2.56), (2.56, 5.12)]
    assert [(caption.start_s, caption.end_s) for caption in still.captions] == [(0.0, 0.0)]
    assert capsys.readouterr().out.count("c.mp4 [") == 2
    # Two moments of each piece, in the middles of its halves of 8 ticks; the film has 10 pictures a second.
    pictures = [[picture_in(jpeg) for jpeg in piece] for piece in film.frames]
    assert [number_in(picture) for piece in pictures for picture in piece] == [
        int(10 * CLOCK.tick_time_s(tick) + 1e-6) for tick in (4, 12, 20, 28)
    ]
    assert [[picture.shape for picture in piece] for piece in pictures] == [[(224, 224, 3)] * 2] * 2
    assert [len(piece) for piece in still.frames] == [1]  # its moments are all the same
    assert abs(int(picture_in(still.frames[0][0]).mean()) - 60) <= 1
    tags = Tags(notebook.show([film, still]).html)
    assert [moments["aria-label"] for moments in tags.named("div", role="img")] == [
        "film, 0.00 s to 2.56 s",
        "film, 2.56 s to 5.12 s",
        "still",
    ]
    text = " ".join(tags.text)
    assert "Events: 1.00 s red dog stops" in text
    assert f"Events: 4.00 s {EVIL} enters left" in text
    assert text.count("Events") == 2  # of the still picture nobody knows
    for caption in film.captions:
        assert (caption.text or "(empty caption)") in text
    assert len(broken.captions) == len(broken.frames) >= 1
    assert "of 8.00 s" in broken.error
    assert broken.error in " ".join(Tags(notebook.show([broken]).html).text)


def test_what_cannot_be_captioned_is_refused(vlm_dir, tmp_path):
    model = notebook.load(str(vlm_dir))
    with pytest.raises(VideoError, match="no such file"):
        notebook.watch(model, [Video("lost", str(tmp_path / "lost.mp4"))], tmp_path)
    with pytest.raises(ValueError, match="0 is a camera"):
        notebook.watch(model, [Video("0", "0")], tmp_path)


def test_an_empty_caption_is_told():
    page = captions_page([CaptionedVideo("x", (Captioned("x.png", 0.0, 0.0, "", -1.0),), ((b"jpeg",),))])
    assert "(empty caption)" in page.html


def test_scores_are_those_of_the_command(monkeypatch):
    """The same options reach the same function; what that gives is tested with it."""
    asked = []
    monkeypatch.setattr(notebook, "evaluate", lambda *model, **options: asked.append((model, options)) or {"f1": 1.0})
    trained = types.SimpleNamespace(
        task="task", params="params", config=types.SimpleNamespace(stage="duplex"), tokenizer="tokenizer"
    )
    mine = notebook.Model("mine", "runs/mine", trained)
    found = notebook.scores(mine, clips=3, data="shards", look="rich", pad_bias=1.5)
    assert found == {"f1": 1.0, "stage": "duplex"}
    model, options = asked.pop()
    assert model == ("task", "params", trained.config, "tokenizer")
    assert options == {"clips": 3, "data": "shards", "look": "rich", "pad_bias": 1.5}
    with pytest.raises(ValueError, match="--decode: not of models of stage 'duplex'"):
        notebook.scores(mine, decode="beam")


def test_a_report_is_a_table():
    row = dict(cider=1.25, bleu_4=0.5, rouge_l=0.5, meteor_exact_stem=0.5, exact=0.25)
    report = {"stage": "vlm", "pairs": 4, "decoding": {"how": "beam"}, "captions": {"real": row}, "said": []}
    assert notebook.table(report).splitlines()[1].split()[:2] == ["real", "1.250"]


@pytest.fixture
def dialog(monkeypatch):
    """Colab's dialog: what is put into this dict is what somebody chooses."""
    chosen: dict[str, bytes] = {}

    def upload():
        for name, content in chosen.items():  # as Colab does, into the folder that is current
            Path(name).write_bytes(content)
        return dict(chosen)

    files = types.ModuleType("google.colab.files")
    files.upload = upload
    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "google.colab.files", files)
    return chosen


def archive(**contents: bytes) -> bytes:
    """A .zip; in the names `__` is a slash."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in contents.items():
            file.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def test_uploads_are_kept_and_archives_unpacked(dialog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dialog["a.mp4"] = b"film"
    dialog["b.ZIP"] = archive(x__y=b"1", x__z=b"2")
    kept = upload_into("up/loads")
    folder = tmp_path / "up" / "loads"
    assert kept == [folder / "a.mp4", folder / "b" / "x" / "y", folder / "b" / "x" / "z"]
    assert [path.read_bytes() for path in kept] == [b"film", b"1", b"2"]
    assert [path.name for path in tmp_path.iterdir()] == ["up"]  # nothing is left where the notebook runs


def test_an_archive_cannot_write_elsewhere(dialog, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../../out.txt", b"1")
        file.writestr("__MACOSX/._a", b"2")
    dialog["a.zip"] = buffer.getvalue()
    assert upload_into(tmp_path / "in") == [tmp_path / "in" / "a" / "out.txt"]
    assert not (tmp_path / "out.txt").exists()


def test_an_upload_that_cannot_be_is_told(dialog, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no file was chosen"):
        upload_into(tmp_path)
    dialog["a.zip"] = b"no archive"
    with pytest.raises(ValueError, match=r"a\.zip is no archive that can be read"):
        upload_into(tmp_path)
    monkeypatch.delitem(sys.modules, "google.colab.files")
    with pytest.raises(RuntimeError, match="in Colab only"):
        upload_into(tmp_path)


def test_the_one_checkpoint_is_found(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*params.safetensors.*checkpoints/STEP"):
        find_checkpoint(tmp_path / "nowhere")
    portable = tmp_path / "a" / "b"
    portable.mkdir(parents=True)
    (portable / "metadata.json").touch()
    with pytest.raises(FileNotFoundError, match="no checkpoint"):  # half of one is none
        find_checkpoint(tmp_path)
    (portable / "params.safetensors").touch()
    assert find_checkpoint(tmp_path) == find_checkpoint(portable) == portable
    workdir = tmp_path / "run"
    (workdir / "checkpoints" / "4").mkdir(parents=True)
    assert find_checkpoint(workdir) == workdir
    with pytest.raises(ValueError, match=r"several checkpoints: give one of .*a/b, .*run"):
        find_checkpoint(tmp_path)
    exported = tmp_path / "checkout" / "checkpoints" / "mine"  # the folder around it is no workdir
    exported.mkdir(parents=True)
    for file in portable.iterdir():
        (exported / file.name).touch()
    assert find_checkpoint(exported.parent.parent) == exported


def test_videos_come_from_anywhere_with_names_of_their_own(dialog, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("match.mp4", "match.mkv", "still.PNG", "notes.txt"):
        (folder / name).touch()
    dialog["up.zip"] = archive(**{"match.webm": b"", "read.me": b""})
    listed = f" {folder} , 0,rtsp://host:1/a?b/match*,"
    videos = collect_videos(listed, tmp_path / "out", upload=True)
    assert videos == [
        Video("match", str(folder / "match.mkv")),
        Video("match (2)", str(folder / "match.mp4")),
        Video("still", str(folder / "still.PNG")),
        Video("0", "0"),
        Video("match_", "rtsp://host:1/a?b/match*"),
        Video("match (3)", str(tmp_path / "out" / "uploaded" / "up" / "match.webm")),
    ]


def test_clips_of_the_world_are_the_evaluated_ones(tmp_path):
    (only,) = collect_videos("", tmp_path, world_clips=1, look="rich", clip_s=12.0, seed=3)
    (item,) = WorldSource(WorldConfig(look="rich"), 3, 1).items(0, 1)
    assert only.name == "rich world, clip 0"
    assert only.events == tuple(item.content.events)
    assert all(isinstance(event, Event) for event in only.events)
    with VideoReader(only.source, Clock(), 64) as reader:
        assert len(list(reader)) == Clock().ticks_in(12.0)


def test_what_is_not_there_is_told(dialog, tmp_path):
    with pytest.raises(ValueError, match="there is nothing to watch"):
        collect_videos(" , ", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no .*lost\.mp4"):
        collect_videos(f"{tmp_path / 'lost.mp4'}", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no pictures and no videos"):
        collect_videos(f"{tmp_path / 'empty'}", tmp_path)
    with pytest.raises(ValueError, match="'odd' is unknown"):
        collect_videos("", tmp_path, world_clips=1, look="odd")
    dialog["read.me"] = b""
    with pytest.raises(ValueError, match=r"no picture among what was uploaded \(read\.me\).*\.png"):
        collect_videos("", tmp_path, upload=True)
