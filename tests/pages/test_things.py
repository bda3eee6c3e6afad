"""Clips on the page of `launch.inspect`: things in boxes, a picture of each event, a tick to discard narrated ones."""

import base64
import dataclasses
import re

import cv2
import numpy as np
import pytest

from data_pipelines.schema import Event, Record, Thing, Word
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.dataset_report import clip_facts
from mmduplex_jax.pages.dataset import dataset_page, page_clip
from mmduplex_jax.pages.things import moments_of, with_boxes
from tests.pages.tags import EVIL, Tags

SIDE_PX = 64
CLOCK = Clock()
TRACK = {"track": 0, "class": "car", "boxes": [[1.0, 0.25, 0.5, 0.5, 0.75], [1.5, 0.5, 0.5, 0.75, 0.75]]}
YELLOW = (255, 213, 0)  # of track 0


def a_record(source: str = "narrated", key: str = "narrated/a.mp4") -> Record:
    return Record(
        key=key,
        frames=np.full((19, SIDE_PX, SIDE_PX, 3), 90, np.uint8),
        clock=CLOCK,
        words=(Word("car", 1.0, 1.2), Word("enters", 1.25, 1.5, True)),
        events=(Event(1.0, "enters", "car", ""), Event(2.0, "leaves", "car", "right")),
        provenance={"source": source, "file": "a.mp4", "tracks": [TRACK]},
    )


def page_of(*records: Record) -> str:
    clips = [page_clip(one, clip_facts(one, np.zeros((19, 4, 4, 4), np.int8), None)) for one in records]
    report = {
        "directory": "data/x", "frame_px": SIDE_PX, "clock": {"tick_hz": 6.25, "step_hz": 12.5}, "words": 2,
        "shards": 1, "samples": 1, "hours": 0.001, "bytes": 10, "bytes_an_hour": 10, "words_a_second": 1.0,
        "rejected_samples": 0, "rejected": {}, "measured": None,
    }  # fmt: skip
    return dataset_page(report, clips).html


def test_boxes_are_drawn_where_and_when_things_were():
    frame, record = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8), a_record()
    drawn = with_boxes(frame, record, 1.0)
    assert not frame.any()
    assert tuple(drawn[40, 16]) == YELLOW
    assert tuple(drawn[48, 24]) == YELLOW
    assert not drawn[40, 24].any()
    between = with_boxes(frame, record, 1.25)
    assert tuple(between[40, 24]) == YELLOW
    later = with_boxes(frame, record, 1.6)
    assert tuple(later[40, 48]) == YELLOW
    assert not later[40, 16].any()
    assert not with_boxes(frame, record, 2.5).any()  # it has gone
    assert not with_boxes(frame, dataclasses.replace(record, provenance={"source": "narrated"}), 1.0).any()


def test_boxes_of_things_that_were_put_there():
    boxes = np.zeros((19, 4), np.float32)
    boxes[5:10] = (0.5, 0.25, 0.75, 0.5)  # top, left, bottom, right
    record = dataclasses.replace(a_record("world"), things=(Thing("car", boxes),))
    frame = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    drawn = with_boxes(frame, record, CLOCK.tick_s * 7.5)
    assert tuple(drawn[40, 16]) == YELLOW
    assert not drawn[40, 24].any()
    assert not with_boxes(frame, record, CLOCK.tick_s * 12.5).any()
    assert [one.text for one in moments_of(record, shown_s=3.0)] == ["car enters", "car leaves right"]
    assert len([one for one in Tags(page_of(record)).named("img") if one["alt"].startswith("car ")]) == 2


def test_a_picture_of_each_event():
    enters, leaves = moments_of(a_record(), shown_s=3.0)
    assert (enters.text, leaves.text) == ("car enters", "car leaves right")
    for moment in (enters, leaves):  # what has left is shown while it was there
        picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(moment.picture, np.uint8), 1), cv2.COLOR_BGR2RGB)
        # Of the box's lines; JPEG smears colours over a few pixels.
        assert (np.abs(picture.astype(int) - YELLOW).sum(axis=-1) < 120).sum() > 100
    assert [one.t_s for one in moments_of(a_record(), shown_s=1.5)] == [1.0]


def test_the_page_lets_a_person_discard_narrated_clips():
    html = page_of(a_record(key=f"narrated/{EVIL}.mp4"), a_record("folder", "folder/b.mp4"))
    tags = Tags(html)
    [tick] = tags.named("input", type="checkbox")
    assert tick["data-key"] == f"narrated/{EVIL}.mp4"
    assert tags.named("textarea", id="discarded")
    assert [one["download"] for one in tags.named("a", id="save")] == ["discarded.txt"]
    assert len([one for one in tags.named("img") if one["alt"].startswith("car ")]) == 2
    assert '"tracks"' not in html.split("Where it comes from")[1]  # drawn, not written
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|https?://", html)


def test_other_clips_stay_as_they_were():
    tags = Tags(page_of(a_record("folder", "folder/b.mp4")))
    assert not tags.named("input")
    assert not tags.named("textarea")


@pytest.mark.parametrize("source", ["narrated", "folder"])
def test_boxes_only_where_places_are_known(source):
    [sheet] = [one for one in Tags(page_of(a_record(source))).named("img") if one["alt"].startswith("Pictures of")]
    data = base64.b64decode(sheet["src"].partition(",")[2])
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB).astype(int)
    colourful = (picture.max(axis=-1) - picture.min(axis=-1) > 60).any()
    assert colourful == (source == "narrated")
