"""Reading an arena's folder: what is shown, what is left out, and what is wrong with a file."""

import dataclasses
import json
from pathlib import Path

import pytest

from mmduplex_jax.arena.entries import TAIL_S, EntriesError, read_entries
from tests.arena.contest import VIDEO_S, write_contest, write_said


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_contest(tmp_path / "arena", stems=("beach",))


def test_videos_and_words_are_read(tmp_path: Path):
    entries = read_entries(write_contest(tmp_path / "arena", categories={"beach": "sea"}))
    assert entries.contestants == ("amber", "birch", "cedar")
    assert {stem: video.category for stem, video in entries.videos.items()} == {"beach": "sea", "street": "all"}
    beach = entries.videos["beach"]
    assert beach.duration_s == pytest.approx(VIDEO_S, abs=0.1)  # containers round to pictures
    assert beach.commentaries["birch"].words == ((0.4, "beach10"), (0.8, "beach11"), (1.2, "beach12"))
    assert len({one.sha256 for one in beach.commentaries.values()}) == 3
    assert entries.notes == ()


def test_a_word_of_captions_has_its_own_time_and_a_lines_words_come_no_earlier(root: Path):
    folder = root / "contestants" / "amber"
    (folder / "beach.json").unlink()
    (folder / "beach.vtt").write_text("WEBVTT\n\n00:00.500 --> 00:01.500\n>> One <00:00.900>two\n", encoding="utf-8")
    assert read_entries(root).videos["beach"].commentaries["amber"].words == ((0.5, ">>"), (0.671, "One"), (0.9, "two"))
    (folder / "beach.vtt").unlink()
    (folder / "beach.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nOne two\n", encoding="utf-8")
    words = read_entries(root).videos["beach"].commentaries["amber"].words
    assert [text for _, text in words] == ["One", "two"]
    assert all(0.5 <= t_s < 1.5 for t_s, _ in words)


def test_utterances_are_shown_word_by_word(root: Path):
    said = [{"start": 1.0, "end": 2.0, "text": "a goal"}, {"start": 0.2, "words": [{"text": "well", "start": 0.2}]}]
    (root / "contestants" / "amber" / "beach.json").write_text(json.dumps(said))
    words = read_entries(root).videos["beach"].commentaries["amber"].words
    assert words[:2] == ((0.2, "well"), (1.0, "a"))
    assert (words[2][1], 1.0 < words[2][0] < 2.0) == ("goal", True)


def test_who_names_a_contestant_is_left_out(root: Path):
    write_said(root / "contestants" / "amber" / "beach.json", [(0.1, "I,"), (0.2, "Birch,"), (0.3, "say")])
    entries = read_entries(root)
    assert sorted(entries.videos["beach"].commentaries) == ["birch", "cedar"]
    assert entries.notes == ("amber/beach.json says 'Birch', which tells whose it is; it is left out",)
    assert sorted(read_entries(root, ["beach11 beach12"]).videos["beach"].commentaries) == ["amber", "cedar"]


def test_part_of_a_word_is_no_name(root: Path):
    write_said(root / "contestants" / "amber" / "beach.json", [(0.1, "birches")])
    assert len(read_entries(root).videos["beach"].commentaries) == 3


def test_the_last_words_of_a_live_commentator_are_waited_for(root: Path):
    video = read_entries(root).videos["beach"]
    said = video.commentaries["amber"]
    for last_s, shown_s in ((1.0, video.duration_s), (video.duration_s + 1, video.duration_s + 1), (99, None)):
        late = {"amber": dataclasses.replace(said, words=((last_s, "end"),)), "birch": video.commentaries["birch"]}
        shown = dataclasses.replace(video, commentaries=late).shown_s("amber", "birch")
        assert shown == pytest.approx(shown_s if shown_s is not None else video.duration_s + TAIL_S)


def test_a_video_with_one_commentary_is_left_out_and_said(tmp_path: Path):
    root = write_contest(tmp_path / "arena", contestants=("amber", "birch"))
    (root / "contestants" / "amber" / "beach.json").unlink()
    entries = read_entries(root)
    assert list(entries.videos) == ["street"]
    assert "amber has no commentary on beach" in entries.notes
    (root / "contestants" / "amber" / "street.json").unlink()
    with pytest.raises(EntriesError, match="no video has two commentaries"):
        read_entries(root)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"words": [{"text": "a", "t_emit_s": -1}]},
            r"words\[0\]: the field t_emit_s should be seconds from 0 on, got -1",
        ),
        (
            {"words": [{"text": "a", "t_emit_s": 0}, {"text": 3, "t_emit_s": 1}]},
            r"words\[1\]: a word is an object with text and t_emit_s",
        ),
        ({"words": [{"text": "a", "t_emit_s": True}]}, r"words\[0\]: the field t_emit_s"),
        ({"words": ["a"]}, r"words\[0\]: a word is an object"),
        ({"text": "a"}, "holds a text without times"),
        ([{"text": "a"}], r"\[0\]: the field start should be seconds"),
        ("{", "is no JSON in UTF-8"),
        ("[" * 100_000, "is no JSON in UTF-8: lists or objects are nested too deeply"),
        ({"words": [{"text": "\ud800", "t_emit_s": 0}]}, "is no JSON in UTF-8: a text in it holds half a character"),
    ],
)
def test_damaged_commentaries_are_named(root: Path, content: object, said: str):
    path = root / "contestants" / "amber" / "beach.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(EntriesError, match=rf"beach\.json(:1: |: |){said}"):
        read_entries(root)


def test_what_is_no_arena_is_refused(tmp_path: Path, root: Path):
    with pytest.raises(EntriesError, match="videos is no folder"):
        read_entries(tmp_path)
    (root / "videos" / "empty.mp4").write_bytes(b"")
    for name in ("amber", "birch"):
        write_said(root / "contestants" / name / "empty.json", [(0.1, "well")])
    with pytest.raises(EntriesError, match=r"empty\.mp4: .*the file is empty"):
        read_entries(root)
    (root / "videos" / "empty.mp4").rename(root / "videos" / "beach.webm")
    with pytest.raises(EntriesError, match="beach is there twice"):
        read_entries(root)
    (root / "videos" / "beach.webm").unlink()
    (root / "categories.json").write_text('{"hill": "land"}')
    with pytest.raises(EntriesError, match="there is no video 'hill'"):
        read_entries(root)
    (root / "categories.json").write_text('{"beach": 3}')
    with pytest.raises(EntriesError, match="an object is expected"):
        read_entries(root)
