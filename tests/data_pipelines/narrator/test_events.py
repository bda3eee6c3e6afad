import dataclasses

import numpy as np
import pytest

from data_pipelines.narrator.events import EventFinder, EventSettings, Observation
from data_pipelines.narrator.motion import share_moving
from tests.data_pipelines.narrator.scenes import (
    HEIGHT_PX,
    LABELS,
    RATE_HZ,
    WIDTH_PX,
    Actor,
    moving,
    play,
    said,
    standing,
)

# A car of 60x40 px that crosses the picture from the left to the right in 4.75 s, from half a second on.
CROSSING = Actor(moving([-60, 100, 0, 140], [80, 0], from_s=0.5))
IN, OUT = ("enters", "car", "left"), ("leaves", "car", "right")


def test_a_car_comes_and_goes():
    enters, leaves = play([CROSSING], 7.0)
    assert said([enters, leaves]) == [IN, OUT]
    assert enters.t_s == pytest.approx(0.5, abs=0.35)  # the edge of a box of 4 px, and a picture's period
    assert leaves.t_s == pytest.approx(5.25, abs=0.35)
    assert enters.t_s <= enters.known_s <= enters.t_s + 1.5
    assert leaves.t_s <= leaves.known_s <= leaves.t_s + 1.5


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_every_side(side):
    start, speed = {
        "left": ([-60, 100, 0, 140], [80, 0]),
        "right": ([320, 100, 380, 140], [-80, 0]),
        "top": ([100, -60, 160, 0], [0, 80]),
        "bottom": ([100, 240, 160, 300], [0, -80]),
    }[side]
    opposite = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}[side]
    crossing = [Actor(moving(start, speed, from_s=0.5))]
    assert said(play(crossing, 7.0)) == [("enters", "car", side), ("leaves", "car", opposite)]


def test_a_detector_that_blinks_changes_nothing():
    steady = play([CROSSING], 7.0)
    blinking = dataclasses.replace(CROSSING, detected=lambda t_s: round(t_s * RATE_HZ) % 3 != 1)
    assert said(play([blinking], 7.0)) == said(steady)


def test_a_thing_that_passes_behind_another_is_the_same():
    """For 1.1 s it is not seen; the tracker then gives it another number."""
    hidden = dataclasses.replace(
        CROSSING, detected=lambda t_s: not 2.4 < t_s < 3.5, track=lambda t_s: 1 if t_s < 3.0 else 2
    )
    assert said(play([hidden], 7.0)) == [IN, OUT]


def test_a_false_thing_that_never_moves_is_not_spoken_of():
    """A detector that takes a bush at the edge for a car, now and then."""
    bush = Actor(standing([0, 100, 60, 140]), detected=lambda t_s: int(t_s) % 2 == 0, in_background=True)
    assert play([bush], 12.0) == []


def test_who_is_not_sure_says_object():
    enters, leaves = play([dataclasses.replace(CROSSING, score=0.28)], 7.0, EventSettings(score_min=0.2))
    assert said([enters, leaves]) == [("enters", "object", "left"), ("leaves", "object", "right")]
    assert play([dataclasses.replace(CROSSING, score=0.28)], 7.0, EventSettings(score_min=0.2, unsure=False)) == []


def test_alike_classes_vote_together():
    """Half of the pictures of a bus say truck, and all of them say person, more than bus or truck by itself."""
    named = lambda **scores: np.array([scores.get(label, 0.0) for label in LABELS])
    scores = (named(bus=0.6, person=0.4), named(truck=0.5, person=0.4))
    finder = EventFinder(LABELS, WIDTH_PX, HEIGHT_PX, EventSettings())
    happenings = []
    for step in range(round(7 * RATE_HZ)):
        box = np.clip(CROSSING.box(step / RATE_HZ), 0, [WIDTH_PX, HEIGHT_PX] * 2)
        mask = np.zeros((HEIGHT_PX, WIDTH_PX), bool)
        mask[100:140, int(box[0]) : int(box[2])] = True
        seen = [Observation(1, box, scores[step % 2])] if box[2] - box[0] > 4 else []
        happenings += finder.update(step / RATE_HZ, seen, mask)
    assert said(happenings) == [("enters", "bus", "left"), ("leaves", "bus", "right")]


def test_what_is_far_away_at_the_top_is_not_spoken_of():
    far = Actor(moving([100, -16, 116, 0], [0, 20], from_s=0.5))
    assert play([far], 5.0) == []
    near = Actor(moving([100, -60, 160, 0], [0, 60], from_s=0.5))
    assert said(play([near], 3.0)) == [("enters", "car", "top")]


def test_who_goes_through_a_door_appears_and_vanishes():
    """A person steps out of a door in mid-picture, walks, and is gone through another one."""
    walk = moving([80, 60, 120, 160], [40, 0], from_s=2.0)
    person = Actor(lambda t_s: walk(t_s) if 2.0 <= t_s < 5.0 else None, class_name="person")
    assert said(play([person], 9.0)) == [("appears", "person", ""), ("vanishes", "person", "")]


def test_what_was_there_at_the_beginning_has_not_come():
    stays = Actor(lambda t_s: [80, 60, 120, 160], class_name="person")
    assert play([stays], 5.0) == []


def test_the_end_of_the_video_is_no_going():
    walk = moving([80, 60, 120, 160], [20, 0])
    assert play([Actor(walk, class_name="person")], 4.0) == []


def test_stops_and_starts():
    def box(t_s):
        x = 40 + 60 * min(t_s, 2.0) + 60 * max(t_s - 6.0, 0.0)
        return [x, 100, x + 40, 140]

    stops, starts = play([Actor(box)], 7.5)
    assert said([stops, starts]) == [("stops", "car", ""), ("starts", "car", "")]
    assert stops.t_s == pytest.approx(2.0, abs=0.5)
    assert starts.t_s == pytest.approx(6.0, abs=0.7)


def test_a_box_that_trembles_neither_stops_nor_starts():
    rng = np.random.default_rng(0)
    parked = Actor(lambda t_s: np.array([100, 100, 160, 140]) + rng.normal(0, 4, 4))
    assert play([parked], 20.0) == []


def test_a_cup_is_taken_and_one_is_put():
    """A person comes from the right to a table and goes again."""
    reach = lambda t_s: 260 - 80 * np.clip(t_s - 4.0, 0, 2) + 80 * np.clip(t_s - 8.0, 0, 2)
    person = Actor(lambda t_s: [reach(t_s), 40, reach(t_s) + 60, 200], class_name="person")
    table = [110, 100, 140, 130]
    taken = Actor(lambda t_s: table if t_s < 6.5 else None, class_name="cup", in_background=True)
    assert ("taken", "cup", "") in said(play([person, taken], 14.0))
    put = Actor(lambda t_s: table if t_s >= 6.5 else None, class_name="cup")
    kinds = said(play([person, put], 14.0))
    assert ("put", "cup", "") in kinds
    assert ("appears", "cup", "") not in kinds


def test_a_cup_that_is_only_hidden_is_not_taken():
    reach = lambda t_s: 260 - 80 * np.clip(t_s - 4.0, 0, 2) + 80 * np.clip(t_s - 8.0, 0, 2)
    person = Actor(lambda t_s: [reach(t_s), 40, reach(t_s) + 60, 200], class_name="person")
    cup = Actor(
        standing([110, 100, 140, 130]), class_name="cup", in_background=True, detected=lambda t_s: not 6.0 < t_s < 9.0
    )
    assert not [one for one in said(play([person, cup], 14.0)) if one[1] == "cup"]


def test_nothing_is_certain_while_the_camera_moves():
    assert play([CROSSING], 7.0, shakes=True) == []


def test_a_part_of_a_thing_is_not_told_again():
    trailer = Actor(moving([-55, 105, -5, 138], [80, 0], from_s=0.5))
    assert said(play([CROSSING, trailer], 7.0)) == [IN, OUT]


@pytest.mark.parametrize(
    ("from_s", "top", "class_name", "comes"),
    [(3.6, 100, "car", False), (6.0, 100, "car", True), (3.6, 160, "car", True), (3.6, 100, "dog", True)],
)
def test_what_comes_back_at_once_had_not_gone(from_s, top, class_name, comes):
    """A car goes out at the left at about 3 s. Then, or later, elsewhere or another, a thing comes in there."""
    out = Actor(moving([160, 100, 220, 140], [-80, 0], from_s=0.3))
    back = Actor(moving([-60, top, 0, top + 40], [80, 0], from_s=from_s), class_name)
    expected = [("leaves", "car", "left"), *([("enters", class_name, "left")] if comes else [])]
    assert said(play([out, back], from_s + 2.5)) == expected


def test_nothing_depends_on_what_comes_later():
    whole = play([CROSSING, Actor(moving([320, 150, 400, 220], [-90, 0], from_s=1.5), "truck")], 8.0)
    assert len(whole) == 4
    for cut_s in (1.92, 2.88, 4.0, 5.92):
        finder_sees = [
            one
            for one in play([CROSSING, Actor(moving([320, 150, 400, 220], [-90, 0], from_s=1.5), "truck")], cut_s)
            if one.known_s < cut_s
        ]
        until = [one for one in whole if one.known_s < cut_s]
        assert [(one.kind, one.t_s, one.known_s) for one in finder_sees] == [
            (one.kind, one.t_s, one.known_s) for one in until
        ]


def test_share_of_a_box_that_moves():
    mask = np.zeros((10, 20), bool)
    mask[2:6, 4:8] = True
    boxes = np.array([[4, 2, 8, 6], [4, 2, 12, 6], [0, 0, 4, 2], [18, 8, 30, 30]], float)
    np.testing.assert_allclose(share_moving(mask, boxes), [1.0, 0.5, 0.0, 0.0])
