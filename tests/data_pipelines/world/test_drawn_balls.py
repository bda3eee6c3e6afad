"""Drawn balls: round, lit from above, of the colour that the pack says, and the same ones for the same seed."""

import json

import numpy as np

from data_pipelines.world.real.drawn_balls import draw_ball
from data_pipelines.world.real.pack import load_cutout
from data_pipelines.world.real.pack_writer import plain_colour
from launch import make_pack


def test_a_ball_is_a_disc_that_is_brighter_above_than_below():
    balls = [draw_ball(np.random.default_rng([5, index])) for index in range(40)]
    for ball in balls:
        assert ball.shape == (128, 128, 4)
        assert np.isclose((ball[..., 3] > 127).sum(), np.pi * 64**2, rtol=0.02)
    above, below = (np.mean([ball[rows, 50:78, :3] for ball in balls]) for rows in (slice(10, 50), slice(78, 118)))
    assert above > 1.2 * below


def test_balls_are_of_many_colours():
    colours = {plain_colour(draw_ball(np.random.default_rng([5, index]))) for index in range(60)}
    assert {"red", "yellow", "green", "blue", "white", "black"} <= colours


def test_a_pack_gets_as_many_as_are_asked_for_and_keeps_those_it_has(tmp_path):
    for count, added in ((3, 3), (5, 2), (5, 0)):
        report = tmp_path / "report.json"
        assert make_pack.main([f"--balls={count}", f"--out={tmp_path / 'pack'}", f"--json={report}"]) == 0
        assert json.loads(report.read_text())["cutouts"] == added
    rows = [json.loads(line) for line in (tmp_path / "pack/cutouts.jsonl").read_text().splitlines()]
    assert [row["class"] for row in rows] == 5 * ["sports ball"]
    ball = load_cutout(str(tmp_path / "pack"), rows[4]["file"])
    drawn = draw_ball(np.random.default_rng([0, 4]))
    assert np.abs(ball[40:90, 40:90, :3].astype(int) - drawn[40:90, 40:90, :3]).mean() < 8  # WebP loses some
