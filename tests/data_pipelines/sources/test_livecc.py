"""Live-CC lines over small videos whose pictures are numbered: right pictures, right words, every cause counted."""

import itertools
import json
import pickle

import numpy as np
import pytest

from configs.data import livecc
from data_pipelines.dataset import open_dataset
from data_pipelines.loader import make_loader
from data_pipelines.schema import Record, Word
from data_pipelines.shards import write_shards
from data_pipelines.sources import Rejected, causes
from data_pipelines.sources.livecc import AnnotationError, livecc_source, parse_sample
from mmduplex_jax.clock import Clock
from mmduplex_jax.text_tokenizer import TextTokenizer
from tests.data_pipelines.numbered_video import SIDE_PX, number_in, write_numbered
from tests.data_pipelines.sources.livecc_file import write_lines

CLOCK = Clock()
VIDEO_S = 8.0


def line(video, start_s, end_s, words, **about):
    """A sample in the publishers' shape; a word without an end lasts a tenth of a second."""
    stream = [[word[0], word[0] + 0.1, word[1]] if len(word) == 2 else list(word) for word in words]
    return [
        {
            "role": "user",
            "content": [
                {"type": "video", "video": video, "video_start": start_s, "video_end": end_s},
                {"type": "text", "text": "", "previous": "", **about},
            ],
        },
        {"role": "assistant", "content": [{"type": "text_stream", "text_stream": stream}]},
    ]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder with two sound videos of 8 s and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "youtube").mkdir()
    for name in ("a", "b"):
        write_numbered(folder / "youtube" / f"{name}.mp4", count=200, rate=25)
    (folder / "youtube" / "broken.mp4").write_bytes(b"no video" * 100)
    return folder


@pytest.fixture
def source(tmp_path, videos):
    """Makes a source of samples, with changes to the configuration."""

    def make(samples, **changes):
        path = tmp_path / "lines.jsonl"
        write_lines(path, samples)
        return livecc_source(config_of(path, videos, **changes))

    return make


def config_of(path, videos, **changes):
    config = livecc.get_config()
    config.annotations, config.root = str(path), str(videos)
    config.frame_px = (SIDE_PX, SIDE_PX)
    config.clip = {"window_s": None, "overlap_s": 0.0, "shortest_s": 0.5}
    config.filters.duration_min_s = config.filters.duration_max_s = None
    config.update(changes)
    return config.to_dict()


def contents(source):
    return [item.content for item in source.items(0, len(source))]


def seen_at(record, start_s):
    """The pictures that the ticks of a clip from `start_s` on must show: at 25 a second, the last at or before it."""
    return [int((start_s + CLOCK.tick_time_s(tick)) * 25 + 1e-6) for tick in range(record.num_ticks)]


def test_a_line_is_a_stretch_of_its_video_with_words_that_count_from_its_begin(source):
    words = [(1.0, 1.3, "this"), (2.52, 2.9, "is"), (4.92, 5.2, "live")]
    sample = line("youtube/a.mp4", 1.0, 5.0, words, title="A title", category="Sports", previous="said before")
    (item,) = source([sample]).items(0, 1)
    record = item.content
    assert item.key == record.key == "livecc/lines/0000000"
    assert record.num_ticks == CLOCK.ticks_in(4.0)
    assert [number_in(frame) for frame in record.frames] == seen_at(record, 1.0)
    assert record.words == (Word("this", 0.0, 0.3, True), Word("is", 1.52, 1.9, True), Word("live", 3.92, 4.2, True))
    assert (record.timing, record.words_from_s, record.caption, record.language) == ("line", 0.0, "", "")
    facts = record.provenance
    assert (facts["source"], facts["file"], facts["start_s"], facts["end_s"]) == ("livecc", "youtube/a.mp4", 1.0, 5.0)
    assert (facts["title"], facts["category"], facts["previous"]) == ("A title", "Sports", "said before")
    assert len(facts["sha256"]) == 64
    assert "words_outside" not in facts


def test_every_cause_is_counted_and_nothing_is_put_in_its_place(tmp_path, source, videos):
    one = [(2.0, "one"), (3.0, "two")]
    samples = [
        line("youtube/a.mp4", 1.0, 5.0, one),
        line("youtube/gone.mp4", 1.0, 5.0, one),
        line("youtube/gone.mp4", 5.0, 7.0, [(5.0, "x")]),
        line("youtube/broken.mp4", 1.0, 5.0, one),
        line("youtube/a.mp4", 1.0, 5.0, []),
        line("youtube/a.mp4", 4.0, 7.0, one),
        line("youtube/a.mp4", 1.0, 1.4, [(1.1, "x")]),
        line("youtube/a.mp4", 20.0, 30.0, [(21.0, "x")]),
        line("youtube/b.mp4", 1.0, 5.0, [(0.5, "early"), (2.0, "in"), (5.0, "late"), (3.0, " ")]),
        line("youtube/b.mp4", 2.0, 8.3, [(7.9, "end")]),  # ends 0.3 s after the video: with it
        [{"role": "user", "content": []}],
        line("youtube/b.mp4", 5.0, 1.0, one),
    ]
    made = source(samples)
    report = write_shards(made, tmp_path / "out", config={}, units_per_shard=5)
    rejected = [json.loads(row) for row in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["samples"] == 3
    assert summary["rejected"] == {
        causes.MISSING_VIDEO: 2,
        causes.CANNOT_DECODE: 2,
        causes.NO_WORDS: 1,
        causes.WORDS_OUTSIDE: 1,
        causes.TOO_SHORT: 1,
        causes.BROKEN_ANNOTATION: 2,
    }
    assert {row["key"][-2:]: row["cause"] for row in rejected} == {
        "01": causes.MISSING_VIDEO,
        "02": causes.MISSING_VIDEO,
        "03": causes.CANNOT_DECODE,
        "04": causes.NO_WORDS,
        "05": causes.WORDS_OUTSIDE,
        "06": causes.TOO_SHORT,
        "07": causes.CANNOT_DECODE,
        "10": causes.BROKEN_ANNOTATION,
        "11": causes.BROKEN_ANNOTATION,
    }
    assert "youtube/gone.mp4" in rejected[0]["detail"]
    # Where the files lie on this machine is in no message, so that the same files elsewhere give the same bytes.
    assert not any(str(folder) in row["detail"] for row in rejected for folder in (tmp_path, videos))
    assert rejected[2]["detail"].startswith("sample 3: youtube/broken.mp4: cannot be opened as a video")
    assert report.manifest.num_units == 12
    data = open_dataset(tmp_path / "out")
    records = {data.key(index)[-2:]: data.read(index) for index in range(len(data))}
    assert sorted(records) == ["00", "08", "09"]
    assert records["08"].words == (Word("in", 1.0, 1.1, ends_sentence=True),)
    assert records["08"].provenance["words_outside"] == 2
    assert records["08"].provenance["words_blank"] == 1
    assert records["09"].provenance["end_s"] == VIDEO_S
    assert records["09"].num_ticks == CLOCK.ticks_in(6.0)


def test_windows_hold_each_word_once(source):
    words = [(0.3 * number, f"w{number}") for number in range(26)]
    clip = {"window_s": 3.0, "overlap_s": 0.5, "shortest_s": 1.0}
    (*records,) = contents(source([line("youtube/a.mp4", 0.0, 8.0, words)], clip=clip))
    assert [record.key for record in records] == [f"livecc/lines/0000000/{number:03d}" for number in range(3)]
    assert [record.provenance["start_s"] for record in records] == [0.0, 2.5, 5.0]
    assert [record.words_from_s for record in records] == [0.0, 0.5, 0.5]
    assert [word.text for record in records for word in record.words] == [text for _, text in words]
    said = {word.text: record.provenance["start_s"] + word.start_s for record in records for word in record.words}
    assert all(said[text] == pytest.approx(start_s, abs=1e-6) for start_s, text in words)
    for record in records:
        assert [number_in(frame) for frame in record.frames] == seen_at(record, record.provenance["start_s"])


def test_a_silent_window_is_rejected_and_the_others_stand(source):
    clip = {"window_s": 2.0, "overlap_s": 0.0, "shortest_s": 1.0}
    got = contents(source([line("youtube/a.mp4", 0.0, 6.0, [(0.5, "a"), (5.0, "b")])], clip=clip))
    assert [type(content) for content in got] == [Record, Rejected, Record]
    assert got[1].cause == causes.NO_WORDS


def test_filters_are_asked(source):
    fast = line("youtube/a.mp4", 0.0, 4.0, [(0.1 * number, "x") for number in range(40)])
    slow = line("youtube/a.mp4", 0.0, 8.0, [(number, "x") for number in range(8)])
    got = contents(source([fast, slow], filters={"words_per_s_max": 4.0}))
    assert [content.cause if isinstance(content, Rejected) else None for content in got] == [causes.SPEECH_RATE, None]
    got = contents(source([fast, slow], filters={"duration_min_s": 5.0}))
    assert [content.cause if isinstance(content, Rejected) else None for content in got] == [causes.TOO_SHORT, None]


def test_the_last_word_is_said_once(tmp_path, source):
    """Upstream's loader says the last word again in every second that follows."""
    sample = line("youtube/a.mp4", 0.0, 8.0, [(0.5, "red"), (1.0, "circle")])
    write_shards(source([sample]), tmp_path / "out", config={}, units_per_shard=1)
    tokenizer = TextTokenizer.word_level(["red", "circle"])
    (batch,) = make_loader(tmp_path / "out", tokenizer, batch_size=1, repeat=1, shuffle=False)
    slots = batch["slots"][0].tolist()
    assert [slots.count(tokenizer.encode_word(word)[0]) for word in ("red", "circle")] == [1, 1]
    assert [slot for slot, _ in itertools.groupby(slots)].count(tokenizer.word_id) == 2


def test_repeats_are_found_by_hash_where_they_are_asked_for(source):
    first, other = (line("youtube/a.mp4", 1.0, end_s, [(2.0, "one")]) for end_s in (5.0, 5.1))
    samples = [first, other, first, [], line("youtube/a.mp4", 1.0, 5.0, [(2.0, "two")]), first]
    got = contents(source(samples, duplicates="hash"))
    repeats = {
        number: content.detail
        for number, content in enumerate(got)
        if isinstance(content, Rejected) and content.cause == causes.DUPLICATE
    }
    assert repeats == {2: "sample 2 says what sample 0 says", 5: "sample 5 says what sample 0 says"}
    assert sum(isinstance(content, Record) for content in contents(source(samples))) == 5


def test_an_item_does_not_depend_on_the_process_or_the_order(source):
    samples = [line("youtube/a.mp4", 0.5 * number, 4.0 + number, [(3.5, "x")]) for number in range(4)]
    made = source(samples)
    sent = pickle.loads(pickle.dumps(made))
    whole = list(made.items(0, 4))
    apart = [item for number in (3, 1, 2, 0) for item in sent.items(number, number + 1)]
    assert sorted(item.key for item in apart) == [item.key for item in whole]
    for item in apart:
        one = whole[item.unit].content
        np.testing.assert_array_equal(item.content.frames, one.frames)
        assert (item.content.words, item.content.provenance) == (one.words, one.provenance)
    assert made.describe() == sent.describe()
    assert json.loads(json.dumps(made.describe()))["annotations"]["samples"] == 4


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda sample: sample[:1], "one video and one text_stream"),
        (lambda sample: "text", "the sample must be a list"),
        (lambda sample: [{"role": "user"}], "'content' is missing"),
        (lambda sample: line(None, 0, 1, []), "video must be a path"),
        (lambda sample: line("/a.mp4", 0, 1, []), "video must be a path below the folder of videos"),
        (lambda sample: line("b/../../a.mp4", 0, 1, []), "video must be a path below the folder of videos"),
        (lambda sample: line("a", 3, 1, []), "the clip is from 3.0 to 1.0 s"),
        (lambda sample: line("a", "0", 1, []), "video_start must be a time"),
        (lambda sample: line("a", float("nan"), 1, []), "video_start must be a time"),
        (lambda sample: line("a", 0, 1, [(0.5, 0.4, "x")]), "word 0 .'x'. is from 0.5 to 0.4 s"),
        (lambda sample: line("a", 0, 1, [(None, 0.4, "y"), (0.5, 0.4, "x")]), "word 0 .'y'. is from None"),
        (lambda sample: line("a", 0, 1, [(0.5, 0.6, 7)]), "word 0 must be"),
    ],
)
def test_what_is_not_in_the_format_is_named(break_it, said):
    with pytest.raises(AnnotationError, match=said):
        parse_sample(break_it(line("a.mp4", 0.0, 1.0, [])))


def test_words_are_put_in_the_order_of_their_starts():
    sample = parse_sample(line("a.mp4", None, None, [(2.0, "b"), (1.0, " a "), (2.0, "c")]))
    assert [(word.text, word.start_s) for word in sample.words] == [("a", 1.0), ("b", 2.0), ("c", 2.0)]
    assert (sample.begin_s, sample.end_s) == (None, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"timing": "minute"}, "config.timing"),
        ({"root": "nowhere"}, "config.root"),
        ({"duplicates": "maybe"}, "config.duplicates"),
        ({"clip": {"window_s": 1.0, "overlap_s": 2.0}}, "overlap_s"),
        ({"clip": {"shortest_s": 0.15}}, "shortest_s must be at least 0.16 s, a tick, got 0.15"),
        ({"fit": "squeeze"}, "squeeze"),
    ],
)
def test_a_wrong_configuration_says_what(source, changes, said):
    with pytest.raises(ValueError, match=said):
        source([line("youtube/a.mp4", 0.0, 4.0, [(1.0, "x")])], **changes)


def test_the_published_format_without_its_videos_is_counted_as_missing(shared_dir, videos):
    path = shared_dir / "fixtures" / "livecc_format_sample.jsonl"
    got = contents(livecc_source(config_of(path, videos, timing="word")))
    assert [content.cause for content in got] == [causes.MISSING_VIDEO] * 2


def test_lines_about_real_clips(tmp_path, media_dir, shared_dir):
    """The published sample's words over real footage that is as long: every word of the stretch at its time."""
    samples = [
        line("sample-videos__car-detection.mp4", 3.0, 20.0, [(3.0 + number, f"w{number}") for number in range(17)]),
        line("learning-area__frog.webm", 0.0, 3.0, [(1.5, "frog")]),
        line("gone.mp4", 0.0, 3.0, [(1.5, "frog")]),
    ]
    path = tmp_path / "real.jsonl"
    write_lines(path, samples)
    cars, frog, gone = contents(livecc_source(config_of(path, media_dir)))
    assert [word.start_s for word in cars.words] == [float(number) for number in range(17)]
    assert cars.num_ticks == CLOCK.ticks_in(17.0)
    assert np.all(cars.tick_times_s <= np.array([CLOCK.tick_time_s(tick) for tick in range(cars.num_ticks)]) + 1e-9)
    assert frog.words == (Word("frog", 1.5, 1.6, ends_sentence=True),)
    assert gone.cause == causes.MISSING_VIDEO


def test_a_broken_word_is_left_out_and_noted_and_the_others_are_kept():
    words = [(0.9, 1.0, "b"), (0.5, 0.4, "x"), (0.1, float("nan"), "\u202ba\u202c"), (0.2, "?", "y"), (0.3, 0.4, " ")]
    sample = parse_sample(line("a", 0, 1, words))
    assert [(word.text, word.start_s, word.end_s) for word in sample.words] == [("a", 0.1, None), ("b", 0.9, 1.0)]
    assert sample.words_blank == 1
    assert [(note.cause, note.count) for note in sample.notes] == [
        (causes.BROKEN_CUE, 1), (causes.BROKEN_CUE, 1), (causes.OUT_OF_ORDER, 1)
    ]  # fmt: skip
