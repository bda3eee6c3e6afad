"""The look `real`: what is told is what is seen, words and pictures are one, and nobody held out is in it."""

import collections
import dataclasses
import hashlib
import json
import subprocess
import sys

import av
import numpy as np
import pytest

from data_pipelines.sources.registry import source_of
from data_pipelines.world import RealAppearance, RealDynamics, RealWorldConfig, event_words, make_clip, make_events
from data_pipelines.world.clip import picture_config, plan_real_clip, write_clip_files
from data_pipelines.world.real.actors import overlap_with_picture, sample_times_s
from data_pipelines.world.real.pack import PackError, load_cutout, read_pack
from data_pipelines.world.real.painter import RealPainter
from data_pipelines.world.real.settings import SETTINGS
from tests.data_pipelines.world.synthetic_pack import write_pack

# No trembling, no noise, no codec: what changes in the picture has moved.
STILL = RealAppearance(
    light_gain=0.0, light_tint=0.0, light_step_p=0.0, sway_p=0.0, shake_p=0.0, noise=(0.0, 0.0), overlay_p=0.0,
    codecs=(("none", 1.0),), grey_p=0.0, haze=(0.0, 0.0), shadow_p=0.0,
)  # fmt: skip
BUSY = ((1.0, (2, 5)),)


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    return str(write_pack(tmp_path_factory.mktemp("pack")))


@pytest.fixture
def config(pack):
    return RealWorldConfig(pack, frame_px=(72, 128), appearance=RealAppearance(codecs=(("jpeg", 0.5), ("none", 0.5))))


def only(config, setting, **dynamics):
    return dataclasses.replace(config, dynamics=RealDynamics(settings=((setting, 1.0),), **dynamics))


_DIGEST = """
import hashlib
from data_pipelines.world import RealAppearance, RealWorldConfig, make_clip
config = RealWorldConfig({pack!r}, frame_px=(72, 128), appearance=RealAppearance(codecs=(("jpeg", 0.5), ("none", 0.5))))
clip = make_clip(config, 3, 1)
print(hashlib.sha256(clip.frames.tobytes() + repr((clip.events, clip.words)).encode()).hexdigest())
"""


def test_a_clip_is_a_function_of_config_pack_seed_and_index_in_any_process(config):
    make_clip(config, 0, 0)  # what was made before must not matter
    clip = make_clip(config, 3, 1)
    here = hashlib.sha256(clip.frames.tobytes() + repr((clip.events, clip.words)).encode()).hexdigest()
    command = [sys.executable, "-c", _DIGEST.format(pack=config.pack)]
    there = subprocess.run(command, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here
    assert clip.events == make_events(config, 3, 1)
    assert {make_events(config, 3, index) for index in range(8)} != {()}


@pytest.mark.parametrize("frame_px", [(72, 128), (64, 48), 64])
def test_frames_have_any_shape_and_show_the_same_events_large_and_small(config, frame_px):
    clip = make_clip(dataclasses.replace(config, frame_px=frame_px), 1, 2)
    height, width = (frame_px, frame_px) if isinstance(frame_px, int) else frame_px
    assert clip.frames.shape == (100, height, width, 3)
    assert clip.frames.dtype == np.uint8
    larger = dataclasses.replace(config, frame_px=(2 * height, 2 * width))
    assert make_events(larger, 1, 2) == clip.events


def test_a_picture_of_another_shape_stands_between_bars_and_what_is_in_it_with_it(config):
    wide = dataclasses.replace(config, appearance=dataclasses.replace(STILL, aspects=((1.0, 4 / 3),)))
    seen = 0
    for index in range(8):
        clip = make_clip(wide, 2, index)
        shown = picture_config(wide, 2, index)
        assert shown.frame_px == (72, 96)
        bars = np.concatenate([clip.frames[:, :, :16], clip.frames[:, :, -16:]], axis=2)
        assert not bars.any()
        scene, rng = plan_real_clip(shown, 2, index)
        times_s = np.array([wide.clock.tick_time_s(tick) for tick in range(100)])
        assert np.array_equal(clip.frames[:, :, 16:-16], RealPainter(shown, scene, rng).frames(times_s))
        assert clip.events == scene.events == make_events(wide, 2, index)
        for padded, thing in zip(clip.things, scene.things(times_s, shown.aspect), strict=True):
            there = thing.boxes.any(axis=1)
            assert not padded.boxes[~there].any()
            y0, x0, y1, x1 = (thing.boxes[there] * [72, 96, 72, 96]).T
            expected = np.stack([y0 / 72, (x0 + 16) / 128, y1 / 72, (x1 + 16) / 128], axis=1)
            np.testing.assert_allclose(padded.boxes[there], expected, atol=1e-6)
            seen += there.sum()
    assert seen > 100


def test_pictures_have_the_shapes_that_are_asked_for_and_the_frames_one(config):
    table = ((0.5, 0.0), (0.3, 0.75), (0.2, 2.2))
    many = dataclasses.replace(config, appearance=dataclasses.replace(STILL, aspects=table))
    shapes = collections.Counter(picture_config(many, 0, index).frame_px for index in range(200))
    assert set(shapes) == {(72, 128), (72, 54), (58, 128)}
    assert 70 < shapes[72, 128] < 130
    assert make_clip(many, 0, 0).frames.shape == (100, 72, 128, 3)
    # Sides are whole and even, which may make a picture a little wider than was asked for.
    widest = dataclasses.replace(config, frame_px=96, appearance=dataclasses.replace(STILL, aspects=((1.0, 2.5),)))
    assert picture_config(widest, 0, 0).frame_px == (38, 96)
    # To write shapes down does not change the clips of those who ask for none.
    own = dataclasses.replace(config, appearance=dataclasses.replace(config.appearance, aspects=((2.0, 0.0),)))
    assert np.array_equal(make_clip(own, 3, 1).frames, make_clip(config, 3, 1).frames)


@pytest.mark.parametrize("aspects", [(), ((0.0, 1.0),), ((1.0, 3.0),), ((1.0, -1.0),), ((1.0, 0.4),)])
def test_shapes_that_no_picture_has_are_refused(config, aspects):
    with pytest.raises(ValueError, match="appearance.aspects"):
        dataclasses.replace(config, appearance=dataclasses.replace(STILL, aspects=aspects))


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_event_is_spoken_in_time_and_nothing_else(config, setting):
    spoken = 0
    for index in range(12):
        lively = only(config, setting, liveliness=BUSY)
        scene, _ = plan_real_clip(lively, 2, index)
        phrases = event_words.split_phrases([(word.text, word.start_s) for word in scene.words])
        assert [attributes for attributes, _, _ in phrases] == [event.attributes for event in scene.events]
        for event, (_, start_s, _) in zip(scene.events, phrases, strict=True):
            assert -1e-9 <= start_s - event.t_s <= lively.dynamics.lag_s + 1e-9
        assert all(word.end_s <= lively.clip_s for word in scene.words)
        spoken += len(phrases)
    assert spoken >= 12


def test_a_third_of_the_clips_are_silent_whatever_moves_in_them(config):
    clips = [plan_real_clip(config, 4, index)[0] for index in range(90)]
    silent = [clip for clip in clips if not clip.events]
    assert 0.2 < len(silent) / len(clips) < 0.55
    assert all(not clip.words for clip in silent)
    assert any(clip.actors for clip in silent)
    kinds = collections.Counter(event.kind for clip in clips for event in clip.events)
    assert {"enters", "leaves", "stops", "starts", "taken", "put"} <= set(kinds)
    assert kinds["enters"] + kinds["leaves"] > 0.6 * kinds.total()


def test_whoever_enters_was_out_of_the_picture_and_whoever_leaves_is_gone(config):
    times_s, checked = sample_times_s(config.clip_s), 0
    for index in range(30):
        scene, _ = plan_real_clip(only(config, "street", liveliness=BUSY, occluder_p=0.0), 5, index)
        for event in scene.events:
            if event.kind not in ("enters", "leaves"):
                continue
            named = [actor for actor in scene.actors if actor.subject == event.subject]
            inside = [overlap_with_picture(actor, config.aspect) for actor in named]
            at = int(np.searchsorted(times_s, event.t_s))
            before, after = max(at - 10, 0), min(at + 10, len(times_s) - 1)
            first, last = (after, before) if event.kind == "enters" else (before, after)
            assert any(share[first] > share[at] > share[last] < 0.3 for share in inside), (index, event)
            checked += 1
    assert checked > 30


def test_nearer_things_are_larger_and_lower(config):
    grown = 0
    for index in range(30):
        scene, _ = plan_real_clip(only(config, "road", liveliness=BUSY), 6, index)
        for actor in scene.actors:
            there = np.flatnonzero(actor.track.height > 0)
            y, height = actor.track.y[there], actor.track.height[there]
            lower = np.diff(y) > 1e-9
            assert np.all(np.diff(height)[lower] > 0)
            grown += height.max() > 3 * height.min()
    assert grown > 10


def test_what_is_told_of_is_where_its_box_is(config):
    """Half a second after it has entered, at its side of the picture; nothing is known of what nobody put there."""
    told = 0
    for index in range(12):
        clip = make_clip(only(config, "road", liveliness=BUSY), 5, index)
        for event in clip.events:
            if event.kind != "enters" or event.t_s > config.clip_s - 1:
                continue
            tick = config.clock.tick_at(event.t_s + 0.5)
            noun = event.subject.split()[-1]
            edges = {"left": 1, "right": 3, "top": 0, "bottom": 2}[event.detail]
            near = [
                abs(thing.boxes[tick, edges] - (edges > 1))
                for thing in clip.things
                if thing.noun == noun and thing.boxes[tick].any()
            ]
            assert near
            assert min(near) < 0.5
            told += 1
    assert told > 5


def test_only_what_moves_changes_the_picture(config):
    still, changed = dataclasses.replace(config, appearance=STILL), 0
    for setting in ("road", "table"):
        world = only(still, setting, liveliness=BUSY, passer_p=0.0)
        scene, rng = plan_real_clip(world, 7, 0)
        painter = RealPainter(world, scene, rng)
        times_s = np.arange(16) * 1.0
        frames = painter.frames(times_s).astype(int)
        samples_s, rows, columns = sample_times_s(world.clip_s), *np.mgrid[:72, :128]
        for before, after, a_s, b_s in zip(frames, frames[1:], times_s, times_s[1:]):
            near = np.zeros((72, 128), bool)
            for actor in scene.actors:
                for t_s in (a_s, b_s):
                    at = int(np.searchsorted(samples_s, t_s))
                    x, y = actor.track.x[at] * 72, (actor.track.y[at] - actor.track.height[at] / 2) * 72
                    reach = 0.75 * np.hypot(actor.width[at], actor.track.height[at]) * 72 + 4
                    near |= (np.hypot(columns - x, rows - y) < reach) & (actor.track.height[at] > 0)
                    if actor.reach is not None:  # the arm goes on to the edge of the picture
                        near[:] |= actor.track.height[at] > 0
            # (What stands before a thing is blended once more, and rounded: it may differ by one or two.)
            moved = np.abs(after - before).max(axis=-1) > 2
            assert not np.any(moved & ~near)
            changed += moved.any()
    assert changed > 5


def test_a_taken_thing_is_there_before_and_gone_after(config):
    world = dataclasses.replace(only(config, "table", liveliness=BUSY, passer_p=0.0), appearance=STILL)
    times_s, taken, put = sample_times_s(world.clip_s), 0, 0
    for index in range(25):
        scene, _ = plan_real_clip(world, 8, index)
        for actor in scene.actors:
            seen = overlap_with_picture(actor, world.aspect) > 0
            kinds = {kind for _, kind in actor.story}
            if "taken" in kinds:
                assert seen[0]
                assert not seen[-1]
                taken += 1
            if "put" in kinds:
                assert not seen[0]
                assert seen[-1]
                put += 1
            for t_s, _ in actor.story:
                assert seen[int(np.searchsorted(times_s, t_s))]
    assert min(taken, put) > 3


def test_a_car_drives_the_way_it_faces(config):
    checked = 0
    for index in range(40):
        scene, _ = plan_real_clip(only(config, "road", liveliness=BUSY), 9, index)
        for actor in scene.actors:
            there = np.flatnonzero(actor.track.height > 0)
            dx, dy = actor.track.x[there[-1]] - actor.track.x[there[0]], np.ptp(actor.track.y[there])
            if actor.cutout.class_name == "car" and actor.cutout.facing == "right" and abs(dx) > 2 * dy:
                assert actor.mirrored == (dx < 0)
                checked += 1
    assert checked > 10


def test_colours_are_said_where_they_show(config):
    lively = only(config, "road", liveliness=BUSY)
    without = only(config, "road", liveliness=BUSY, coloured=())
    in_grey, in_colour = (
        dataclasses.replace(lively, appearance=RealAppearance(grey_p=grey_p)) for grey_p in (1.0, 0.0)
    )
    for world, said in ((in_colour, {"red car", "grey car"}), (without, {"car"}), (in_grey, {"car"})):
        subjects = {event.subject for index in range(12) for event in make_events(world, 10, index)}
        assert {subject for subject in subjects if subject.endswith("car")} == said


def test_nothing_of_an_excluded_camera_is_used(config):
    assert read_pack(config.pack).cameras == ("cam_road", "cam_yard")
    for pattern in ("cam_road", "cam_r.*|cam_elsewhere"):
        held_out = dataclasses.replace(config, exclude_cameras=pattern)
        pack = read_pack(held_out.pack, held_out.exclude_cameras)
        assert pack.cameras == ("cam_yard",)
        assert pack.excluded == (1, 1)
        assert {cutout.camera for cutout in pack.cutouts} == {""}
        assert {background.camera for background in pack.backgrounds} == {"cam_yard", ""}
        for index in range(20):
            assert not {"cutouts/2.png", "backgrounds/0.png"} & set(plan_real_clip(held_out, 11, index)[0].files)
    with pytest.raises(PackError, match="no regular expression"):
        read_pack(config.pack, "cam_(")


def test_a_cutout_of_a_clip_that_nobody_knows_cannot_be_excluded(tmp_path):
    folder = write_pack(tmp_path)
    (folder / "clips.jsonl").write_text('{"file": "clips/yard.mp4", "camera": "cam_yard"}\n')
    assert read_pack(str(folder)).cameras is None
    with pytest.raises(PackError, match="cutouts/2.png"):
        read_pack(str(folder), "cam_yard")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class": None}, "needs a `class`"),
        ({"colour": "mauve"}, "colour 'mauve' is unknown"),
        ({"facing": "north"}, "facing 'north' is unknown"),
        ({"role": "pilot"}, "role 'pilot' is unknown"),
        ({"height_m": -1}, "height_m must be"),
        ({"files": ["a", "b"]}, "needs `source_fps`"),
        ({"file": "cutouts/none.png"}, "is listed in the pack and not there"),
    ],
)
def test_a_line_that_cannot_be_used_is_refused(tmp_path, change, message):
    folder = write_pack(tmp_path)
    rows = (folder / "cutouts.jsonl").read_text().splitlines()
    rows[0] = json.dumps(json.loads(rows[0]) | change)
    (folder / "cutouts.jsonl").write_text("\n".join(rows))
    with pytest.raises(PackError, match=message):
        read_pack(str(folder))


def test_a_picture_without_alpha_is_refused(tmp_path, pack):
    with pytest.raises(PackError, match="alpha"):
        load_cutout(pack, "backgrounds/0.png")


def test_without_a_pack_the_look_says_what_to_give(tmp_path):
    with pytest.raises(PackError, match="--config.world.pack=DIR"):
        make_clip(RealWorldConfig(""), 0, 0)
    (tmp_path / "cutouts.jsonl").write_text("")
    with pytest.raises(PackError, match="backgrounds.jsonl is missing"):
        make_clip(RealWorldConfig(str(tmp_path)), 0, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"clip_s": 2.0}, "clip_s"), ({"frame_px": (16, 16)}, "frame_px"), ({"frame_px": (64, 640)}, "width by height")],
)
def test_a_world_that_cannot_be_is_refused(pack, wrong, message):
    with pytest.raises(ValueError, match=message):
        RealWorldConfig(pack, **wrong)


def test_h264_comes_out_a_little_worse_and_the_same_every_time(pack):
    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no libx264")
    worlds = [
        RealWorldConfig(
            pack, clip_s=6.0, frame_px=(63, 97), appearance=dataclasses.replace(STILL, codecs=((codec, 1.0),))
        )
        for codec in ("none", "h264", "h264")
    ]
    plain, once, again = (make_clip(world, 12, 0).frames for world in worlds)
    np.testing.assert_array_equal(once, again)
    error = np.abs(plain.astype(int) - once).mean()
    assert 0.1 < error < 12


def test_a_codec_that_nobody_knows_is_refused(pack):
    world = RealWorldConfig(pack, clip_s=6.0, frame_px=64, appearance=RealAppearance(codecs=(("mjpeg2", 1.0),)))
    with pytest.raises(ValueError, match="'mjpeg2' is unknown"):
        make_clip(world, 0, 0)


@pytest.mark.parametrize(
    ("aspects", "size_px"), [(((1.0, 0.0),), (96, 170)), (((1.0, 0.75),), (96, 72)), (((1.0, 2.2),), (76, 170))]
)
def test_it_is_filmed_in_its_own_shape(tmp_path, config, aspects, size_px):
    short = dataclasses.replace(config, clip_s=6.0, appearance=dataclasses.replace(config.appearance, aspects=aspects))
    files = write_clip_files(tmp_path, short, 1, 2, size_px=96, fps=5, codec="mpeg4")
    with av.open(str(files.video)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == size_px
        assert sum(1 for _ in container.decode(stream)) == 30


def configuration(folder, **world):
    given = {"pack": folder, "exclude_cameras": "", "dynamics": {}, "appearance": {"codecs": [["jpeg", 1.0]]}}
    return {
        "source": "world", "look": "real", "clips": 3, "seed": 5, "clip_s": 6.0, "frame_px": 64,
        "clock": {"step_hz": 12.5, "video_stride": 2},
        "world": given | world,
    }  # fmt: skip


def test_it_is_a_source_that_says_where_all_of_it_comes_from(pack, tmp_path):
    source = source_of(configuration(pack))
    (item,) = source.items(1, 2)
    record = item.content
    assert record.key == "world/real/5/000001"
    assert set(record.license.split(" | ")) <= {"CC0", "CC-BY-4.0"}
    assert any(file.startswith("backgrounds/") for file in record.provenance["files"])
    assert source.flip_safe
    # The same things in another folder give the same clips, other things do not.
    moved = source_of(configuration(str(write_pack(tmp_path))))
    assert moved.describe() == source.describe()
    held_out = source_of(configuration(pack, exclude_cameras="cam_road"))
    assert held_out.describe() != source.describe()
    assert source.describe()["cameras"] == ["cam_road", "cam_yard"]
    assert held_out.describe()["cameras"] == ["cam_yard"]


@pytest.mark.parametrize(
    ("world", "message"),
    [
        ({"pack": None}, "--config.world.pack=DIR"),
        ({"exclude_cameras": "cam_("}, "no regular expression"),
        ({"dynamics": {"speed": 3}}, "config.world.dynamics.speed is unknown"),
        ({"dynamics": {"settings": (("beach", 1.0),)}}, "'beach' is unknown"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(pack, world, message):
    with pytest.raises(ValueError, match=message):
        source_of(configuration(pack, **world))
