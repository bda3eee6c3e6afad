import dataclasses

import numpy as np
import pytest

from data_pipelines.world import WorldConfig, make_clip
from data_pipelines.world.clip import plan_clip
from data_pipelines.world.config import Appearance
from data_pipelines.world.drawing import COLOURS, OUTLINES, Painter, Surface, _blend, draw_background, draw_sprite

PLAIN = WorldConfig()
STILL = WorldConfig(appearance=dataclasses.replace(PLAIN.appearance, shake_px=(0.0, 0.0)))
RICH = WorldConfig(look="rich")


def test_only_what_moves_or_changes_changes_the_picture():
    """With a camera that does not shake, frames differ where things are and nowhere else."""
    for index in range(6):
        scene, _, rng = plan_clip(STILL, 6, index)
        times_s = np.arange(24) / 2
        frames = Painter(STILL, scene, rng).frames(times_s).astype(int)
        rows, columns = np.mgrid[:64, :64]
        for before_s, after_s, before, after in zip(times_s, times_s[1:], frames, frames[1:]):
            near = np.zeros((64, 64), bool)
            for thing in scene.things:
                for t_s in (before_s, after_s):
                    x, y = thing.place_at(t_s)
                    far_px = np.maximum(np.abs(columns + 0.5 - x), np.abs(rows + 0.5 - y))
                    near |= far_px <= thing.half_px + 1.5
            assert not np.any(np.abs(after - before).max(axis=-1)[~near])


def test_a_thing_is_drawn_where_it_is_in_its_colour():
    checked = 0
    for index in range(20):
        scene, _, rng = plan_clip(STILL, 6, index)
        frame = Painter(STILL, scene, rng).frame(3.0).astype(int)
        for thing in scene.things:
            x, y = thing.place_at(3.0)
            if thing.visible_from_s <= 3.0 < thing.visible_until_s and 2 < x < 62 and 2 < y < 62:
                distances = {c: np.abs(frame[int(y), int(x)] - COLOURS[c]).sum() for c in PLAIN.dynamics.colours}
                assert min(distances, key=distances.get) == thing.colour_at(3.0)
                checked += 1
    assert checked > 20


def test_motion_is_smooth_to_a_fraction_of_a_pixel():
    """The centroid of a sprite follows a slow path; it does not jump from pixel to pixel."""
    rng = np.random.default_rng(0)
    for shape in OUTLINES:
        sprite = draw_sprite(shape, 13.0, "red", Surface.draw(rng, PLAIN.appearance, 1.0))
        places = []
        for x in np.arange(30.0, 32.0, 0.25):
            canvas = np.zeros((64, 64, 3), np.float32)
            _blend(canvas, sprite, x, 30.0)
            weights = canvas.sum(axis=(0, 2))
            places.append((weights * (np.arange(64) + 0.5)).sum() / weights.sum())
        assert np.diff(places) == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("shape", OUTLINES)
@pytest.mark.parametrize("style", ["filled", "textured", "outlined"])
def test_a_sprite_fills_its_size(shape, style):
    surface = dataclasses.replace(Surface.draw(np.random.default_rng(1), RICH.appearance, 1.0), style=style)
    coverage = draw_sprite(shape, 16.0, "white", surface)[..., 3]
    assert 0 <= coverage.min() <= coverage.max() <= 1
    extent = [np.ptp(np.flatnonzero(coverage.max(axis=axis) > 0.2)) + 1 for axis in (0, 1)]
    assert max(extent) == pytest.approx(16, abs=2)


def test_shapes_look_different():
    surface = dataclasses.replace(Surface.draw(np.random.default_rng(1), PLAIN.appearance, 1.0))
    masks = [draw_sprite(shape, 14.0, "white", surface)[..., 3] for shape in OUTLINES]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            assert np.minimum(a, b).sum() / np.maximum(a, b).sum() < 0.85


@pytest.mark.parametrize("kind", ["noise", "layers", "gradient", "photograph"])
def test_backgrounds_have_texture(kind):
    look = Appearance(backgrounds=(kind,), contrast=(20.0, 20.0))
    picture = draw_background(np.random.default_rng(2), look, (80, 96), 1.0)
    assert picture.shape == (80, 96, 3)
    assert 0 <= picture.min() <= picture.max() <= 255
    assert picture.std() > 5


def test_the_rich_look_varies():
    frames = np.stack([make_clip(RICH, 3, index).frames[0] for index in range(12)]).astype(float)
    assert frames.mean(axis=(1, 2, 3)).std() > 8
    assert frames.std(axis=(1, 2, 3)).std() > 4


def test_a_moment_looks_the_same_however_it_is_reached():
    scene, _, rng = plan_clip(PLAIN, 6, 1)
    painter = Painter(PLAIN, scene, rng)
    film = painter.frames(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(painter.frame(2.0), film[1])
