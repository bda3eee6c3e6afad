import json
import re

import av
import numpy as np
import pytest

from data_pipelines.schema import Word
from data_pipelines.world import WorldConfig, make_clip
from data_pipelines.world.clip import CODECS, captions, plan_clip, write_clip_files
from data_pipelines.world.drawing import COLOURS

CONFIG = WorldConfig(clip_s=6.0)


@pytest.mark.parametrize("codec", CODECS)
def test_files_hold_what_the_clip_holds(tmp_path, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    files = write_clip_files(tmp_path, CONFIG, 3, 1, codec=codec, fps=10, size_px=128)
    clip = make_clip(CONFIG, 3, 1)
    with av.open(str(files.video)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (128, 128, 10)
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    np.testing.assert_allclose([t_s for t_s, _ in frames], np.arange(60) / 10, atol=1e-3)
    # Filmed twice as large and encoded, the things are where they are in the clip.
    scene, _, _ = plan_clip(CONFIG, 3, 1)
    things = [thing for thing in scene.things if thing.visible_from_s <= 0]
    assert things
    for thing in things:
        x, y = thing.place_at(0.0)
        seen = frames[0][1][round(2 * y), round(2 * x)].astype(int)
        distances = {name: np.abs(seen - rgb).sum() for name, rgb in COLOURS.items()}
        assert min(distances, key=distances.get) == thing.colour_at(0.0)

    facts = json.loads(files.events.read_text())
    assert [(e["t_s"], e["kind"], e["subject"], e["detail"]) for e in facts["events"]] == [
        (event.t_s, *event.attributes) for event in clip.events
    ]
    assert [word["text"] for word in facts["words"]] == [word.text for word in clip.words]
    assert (facts["codec"], facts["seed"], facts["index"]) == (codec, 3, 1)

    spoken = re.sub(r"<[\d:.]+>", "", files.captions.read_text())
    assert spoken.startswith("WEBVTT\n")
    text = [line for line in spoken.splitlines()[1:] if line and "-->" not in line]
    assert " ".join(text).split() == [word.text for word in clip.words]
    assert not list(tmp_path.glob("*.part"))


def test_a_caption_for_each_phrase_with_the_times_of_its_words():
    words = [
        Word(text, 1.0 + k / 4, 1.2 + k / 4)
        for k, text in enumerate(["red", "circle", "stops", "blue", "square", "starts"])
    ]
    assert captions(words).splitlines() == [
        "WEBVTT",
        "",
        "00:00:01.000 --> 00:00:01.700",
        "red <00:00:01.250>circle <00:00:01.500>stops",
        "",
        "00:00:01.750 --> 00:00:02.450",
        "blue <00:00:02.000>square <00:00:02.250>starts",
    ]
    assert captions([Word("red", 3725.5)]).splitlines()[2] == "01:02:05.500 --> 01:02:05.833"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"size_px": 65}, "even"), ({"fps": 0}, "fps"), ({"codec": "vhs"}, "encoder")],
)
def test_a_file_that_cannot_be_is_refused(tmp_path, wrong, error):
    with pytest.raises(ValueError, match=error):
        write_clip_files(tmp_path, CONFIG, 0, 0, **wrong)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_clip_files(tmp_path / "nowhere", CONFIG, 0, 0)
