"""The scene is checked against its events by an observer who sees only where the things are."""

import itertools
import math

import numpy as np
import pytest

from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import plan_clip

CLIPS = {"plain": 120, "rich": 40}
MOMENT_S = 1e-4


@pytest.fixture(scope="module", params=["plain", "rich"])
def scenes(request):
    config = WorldConfig(look=request.param)
    return config, [plan_clip(config, 3, index)[0] for index in range(CLIPS[request.param])]


def seen(scene, t_s):
    return [thing for thing in scene.things if thing.is_visible(t_s)]


def name_at(thing, t_s):
    return f"{thing.colour_at(t_s)} {thing.shape}"


def named(scene, name, t_s):
    (thing,) = [thing for thing in seen(scene, t_s) if name_at(thing, t_s) == name]
    return thing


def in_frame(scene, thing, t_s):
    (x, y), (px, py) = thing.place_at(t_s), scene.pan.at(t_s)
    return x - px, y - py


def edge_distances(config, scene, thing, t_s):
    x, y = in_frame(scene, thing, t_s)
    height, width = config.frame_px
    return {"left": x, "right": width - x, "top": y, "bottom": height - y}


def each(scenes, kind):
    config, planned = scenes
    found = [(scene, event) for scene in planned for event in scene.events if event.kind == kind]
    assert found or kind not in config.dynamics.kinds
    return config, found


def velocity(thing, t_s):
    return thing.segment_at(t_s)[3:]


def test_things_enter_with_their_centre_on_the_named_edge(scenes):
    config, found = each(scenes, "enters")
    for scene, event in found:
        thing = named(scene, event.subject, event.t_s)
        distances = edge_distances(config, scene, thing, event.t_s)
        assert distances[event.detail] == pytest.approx(0, abs=1e-6)
        assert min(distances.values()) == pytest.approx(0, abs=1e-6)
        assert edge_distances(config, scene, thing, event.t_s + 0.1)[event.detail] > 0
        assert edge_distances(config, scene, thing, thing.visible_from_s)[event.detail] < -thing.half_px


def test_things_leave_over_the_named_edge_and_are_gone(scenes):
    config, found = each(scenes, "leaves")
    for scene, event in found:
        thing = named(scene, event.subject, event.t_s)
        assert edge_distances(config, scene, thing, event.t_s)[event.detail] == pytest.approx(0, abs=1e-6)
        assert edge_distances(config, scene, thing, event.t_s - 0.1)[event.detail] > 0
        assert edge_distances(config, scene, thing, thing.visible_until_s)[event.detail] < -thing.half_px


def test_what_stops_rests_and_what_starts_moves(scenes):
    for kind, moves_before, moves_after in (("stops", True, False), ("starts", False, True)):
        _, found = each(scenes, kind)
        for scene, event in found:
            thing = named(scene, event.subject, event.t_s)
            assert any(velocity(thing, event.t_s - MOMENT_S)) == moves_before
            assert any(velocity(thing, event.t_s + MOMENT_S)) == moves_after


def test_things_bounce_off_the_edge_that_they_touch(scenes):
    config, found = each(scenes, "bounces")
    for scene, event in found:
        thing = named(scene, event.subject, event.t_s)
        distances = edge_distances(config, scene, thing, event.t_s)
        side = min(distances, key=distances.get)
        assert distances[side] == pytest.approx(thing.half_px, abs=1e-6)
        axis, outward = (0 if side in ("left", "right") else 1), (-1 if side in ("left", "top") else 1)
        assert velocity(thing, event.t_s - MOMENT_S)[axis] * outward > 0
        assert velocity(thing, event.t_s + MOMENT_S)[axis] * outward < 0


def test_colliding_things_touch_and_part_and_the_faster_one_hits(scenes):
    _, found = each(scenes, "collides")
    for scene, event in found:
        mover, other = named(scene, event.subject, event.t_s), named(scene, event.detail, event.t_s)
        assert math.hypot(*velocity(mover, event.t_s - MOMENT_S)) > 1.5 * math.hypot(
            *velocity(other, event.t_s - MOMENT_S)
        )

        def gap(t_s, mover=mover, other=other):
            return math.dist(mover.place_at(t_s), other.place_at(t_s))

        assert 0.8 <= gap(event.t_s) / (mover.half_px + other.half_px) <= 1.3
        assert gap(event.t_s - 0.1) > gap(event.t_s) < gap(event.t_s + 0.1)


def test_turns_are_sharp(scenes):
    _, found = each(scenes, "turns")
    for scene, event in found:
        thing = named(scene, event.subject, event.t_s)
        (ax, ay), (bx, by) = velocity(thing, event.t_s - MOMENT_S), velocity(thing, event.t_s + MOMENT_S)
        cosine = (ax * bx + ay * by) / (math.hypot(ax, ay) * math.hypot(bx, by))
        assert 60 - 1e-3 <= math.degrees(math.acos(cosine)) <= 120 + 1e-3


def test_things_change_to_the_named_colour(scenes):
    _, found = each(scenes, "recolours")
    for scene, event in found:
        thing = named(scene, event.subject, event.t_s - MOMENT_S)
        assert thing.colour_at(event.t_s) == event.detail != thing.colour_at(event.t_s - MOMENT_S)


def test_things_appear_and_vanish_in_the_frame(scenes):
    for kind, before, after in (("appears", 0, 1), ("vanishes", 1, 0)):
        config, found = each(scenes, kind)
        for scene, event in found:
            counts = [
                sum(name_at(thing, t_s) == event.subject for thing in seen(scene, t_s))
                for t_s in (event.t_s - MOMENT_S, event.t_s + MOMENT_S)
            ]
            assert counts == [before, after]
            thing = named(scene, event.subject, event.t_s + (MOMENT_S if after else -MOMENT_S))
            assert min(edge_distances(config, scene, thing, event.t_s).values()) >= thing.half_px - 1e-6


def test_what_passes_behind_is_half_hidden_and_drawn_first(scenes):
    _, found = each(scenes, "passes")
    for scene, event in found:
        behind, front = named(scene, event.subject, event.t_s), named(scene, event.detail, event.t_s)
        assert scene.things.index(behind) < scene.things.index(front)
        assert math.dist(behind.place_at(event.t_s), front.place_at(event.t_s)) == pytest.approx(
            front.half_px, rel=1e-6
        )


def test_no_two_things_in_sight_are_the_same(scenes):
    config, planned = scenes
    for scene, tick in itertools.product(planned, range(round(4 * config.clip_s))):
        names = [name_at(thing, tick / 4) for thing in seen(scene, tick / 4)]
        assert len(names) == len(set(names)) <= config.dynamics.max_things


def test_nothing_happens_without_an_event(scenes):
    """Every change of motion, colour or presence that can be seen is at the time of an event."""
    config, planned = scenes
    for scene in planned:
        times_s = [event.t_s for event in scene.events]
        for thing in scene.things:
            changes = [segment[0] for segment in thing.segments[1:]] + [since_s for since_s, _ in thing.colours[1:]]
            for t_s in (thing.visible_from_s, thing.visible_until_s):
                x, y = in_frame(scene, thing, min(max(t_s, 0.0), config.clip_s))
                room = zip((y, x), config.frame_px)
                inside = all(-thing.half_px < v < side + thing.half_px for v, side in room)
                if 0 < t_s < config.clip_s and inside:
                    changes.append(t_s)
            for t_s in changes:
                assert t_s > config.clip_s or any(abs(t_s - event_s) < 1e-6 for event_s in times_s)


def test_things_meet_only_where_an_event_says_so(scenes):
    config, planned = scenes
    for scene in planned:
        meetings = [(e.subject, e.detail) for e in scene.events if e.kind in ("collides", "passes")]
        for a, b in itertools.combinations(scene.things, 2):
            names_a, names_b = ({f"{colour} {thing.shape}" for _, colour in thing.colours} for thing in (a, b))
            if any((m in names_a and n in names_b) or (m in names_b and n in names_a) for m, n in meetings):
                continue
            begin_s, end_s = (
                max(a.visible_from_s, b.visible_from_s, 0),
                min(a.visible_until_s, b.visible_until_s, config.clip_s),
            )
            for t_s in np.arange(begin_s, end_s, 0.1):
                apart_px = math.dist(a.place_at(t_s), b.place_at(t_s))
                assert apart_px > a.half_px + b.half_px, (scene.events, t_s)


def test_things_stay_in_the_frame_unless_they_enter_or_leave(scenes):
    config, planned = scenes
    for scene in planned:
        crossing = {(e.subject, e.kind) for e in scene.events}
        for tick in range(round(10 * config.clip_s)):
            for thing in seen(scene, tick / 10):
                if min(edge_distances(config, scene, thing, tick / 10).values()) < 0:
                    names = {f"{colour} {thing.shape}" for _, colour in thing.colours}
                    assert any((name, kind) in crossing for name in names for kind in ("enters", "leaves"))


def test_a_larger_frame_shows_the_same():
    for index in range(10):
        small, large = (plan_clip(WorldConfig(frame_px=px), 5, index)[0] for px in (64, 128))
        assert small.events == large.events
        for a, b in zip(small.things, large.things, strict=True):
            assert b.place_at(6.0) == pytest.approx([2 * v for v in a.place_at(6.0)])
