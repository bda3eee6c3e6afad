"""Transcripts by value: the shared fixtures, and small files with what goes wrong in the wild."""

import difflib
import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.transcripts import TranscriptError, read_transcript


@pytest.fixture
def fixtures(shared_dir: Path) -> Path:
    return shared_dir / "fixtures"


@pytest.fixture
def read(tmp_path):
    def write_and_read(name: str, content: str | bytes | dict | list):
        path = tmp_path / name
        if isinstance(content, dict | list):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_transcript(path, name=name)

    return write_and_read


def triples(transcript):
    return [(word.text, word.start_s, word.end_s) for word in transcript.words]


def texts(transcript):
    return " ".join(word.text for word in transcript.words)


# The fixtures


def test_three_files_of_one_recording_agree(fixtures):
    srt, vtt, vosk = (read_transcript(fixtures / f"manifesto.{suffix}") for suffix in ("srt", "vtt", "json"))
    assert (srt.timing, vtt.timing, vosk.timing) == ("line", "word", "word")
    assert (srt.language, vtt.language) == ("", "en")
    assert texts(srt) == texts(vtt)
    assert len(vtt.words) == 206
    assert triples(vtt)[:3] == [("this", 1.599, 1.92), ("audiobook", 1.92, 2.48), ("is", 2.48, 2.56)]
    assert triples(vosk)[:2] == [("this", 1.59, 1.89), ("audiobook", 1.92, 2.49)]
    assert triples(vtt)[-1] == ("languages", 84.88, 87.84)
    # Lines begin at the same time; inside a line, words spread by their length are right to a second or so.
    differences_s = np.array([a.start_s - b.start_s for a, b in zip(srt.words, vtt.words)])
    assert np.abs(differences_s).max() < 2.0
    assert np.median(np.abs(differences_s)) < 0.15
    # A recogniser heard the same words within a tenth of a second or two of the captions.
    blocks = difflib.SequenceMatcher(
        None, [word.text for word in vtt.words], [word.text for word in vosk.words], autojunk=False
    ).get_matching_blocks()
    pairs = [(vtt.words[a + i].start_s, vosk.words[b + i].start_s) for a, b, size in blocks for i in range(size)]
    assert len(pairs) > 170
    assert np.percentile(np.abs(np.subtract(*np.transpose(pairs))), 95) < 0.25


def test_captions_of_films(fixtures):
    friday = read_transcript(fixtures / "friday.vtt")
    assert texts(friday).startswith("Hildy! How are you? Tell me, is the lord of the universe in?")
    assert (len(friday.words), friday.timing) == (27, "line")
    assert [word.start_s for word in friday.words if word.text in ("Hildy!", "How", "Tell", "Yes,")] == [0, 1, 1.5, 3]
    assert friday.words[-1].end_s == 6.0
    sintel = read_transcript(fixtures / "sintel-en.vtt")  # it has cue numbers, a comment, and a speaker's tag
    assert texts(sintel).startswith("[Test] This blade has a dark past.")
    assert "NOTE" not in texts(sintel)
    assert len(read_transcript(fixtures / "elephantsdream.captions.en.vtt").words) == 350
    able = read_transcript(fixtures / "ableplayer_itaccess_captions_en.vtt")
    assert texts(able).startswith("We are committed to the notion that everyone")


def test_commentary_without_words_in_its_segments_is_timed_by_the_line(fixtures):
    commentary = read_transcript(fixtures / "soccer_commentary" / "arsenal_chelsea_half1.json")
    assert (len(commentary.words), commentary.timing) == (6479, "line")
    assert all(a.start_s <= b.start_s for a, b in zip(commentary.words, commentary.words[1:]))


# SubRip and WebVTT


def test_words_of_a_line_take_their_share_by_length(read):
    srt = read("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nab cdef\n")
    assert triples(srt) == [("ab", 1.0, 1.375), ("cdef", 1.375, 2.0)]  # 3 of 8 characters, spaces counted
    assert srt.timing == "line"


def test_srt_as_it_is_found(read):
    srt = read(
        "a.srt",
        b"\xef\xbb\xbf1\r\n00:00:03,000 --> 00:00:04,000 X1:10 Y1:20\r\n<i>later</i>\r\n\r\n"
        b'2\r\n0:00:01.5 --> 00:00:02,000\r\n{\\an8}JOHN:\r\n\r\n<font color="#fff">a &lt; b</font>\r\n\r\n\r\n',
    )
    assert [text for text, _, _ in triples(srt)] == ["JOHN:", "a", "<", "b", "later"]
    assert (srt.words[0].start_s, srt.words[-1].start_s, srt.words[-1].end_s) == (1.5, 3.0, 4.0)


def test_one_word_a_cue_is_timed_by_the_word(read):
    srt = read("a.srt", "1\n00:00:01,000 --> 00:00:01,200\nhello\n\n2\n00:00:01,200 --> 00:00:02,000\nworld\n")
    assert (triples(srt), srt.timing) == ([("hello", 1.0, 1.2), ("world", 1.2, 2.0)], "word")


def test_lines_that_roll_up_are_said_once(read):
    vtt = read(
        "a.vtt",
        "WEBVTT\n\n"
        "00:01.000 --> 00:02.000\n \ngo<00:01.500><c> on</c>\n\n"
        "00:02.000 --> 00:02.010\ngo on\n \n\n"
        "00:02.010 --> 00:03.000\ngo on\ngo<00:02.500><c> on</c>\n\n"  # said again, not repeated
        "00:03.000 --> 00:03.010\ngo on\n \n\n"
        "00:03.010 --> 00:04.000\ngo on\nnow\n",
    )
    assert triples(vtt) == [
        ("go", 1.0, 1.5), ("on", 1.5, 2.0), ("go", 2.01, 2.5), ("on", 2.5, 3.0), ("now", 3.01, 4.0)
    ]  # fmt: skip
    assert vtt.timing == "word"


def test_a_line_that_is_said_twice_is_heard_twice(read):
    srt = read("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nno no\n\n2\n00:00:02,000 --> 00:00:03,000\nno no\n")
    assert texts(srt) == "no no no no"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.vtt", "00:01.000 --> 00:02.000\nhi\n", r"a.vtt:1: a WebVTT file begins with WEBVTT"),
        ("a.vtt", "WEBVTT\n\n00:01.000 -> 00:02.000\nhi\n", r"a.vtt:3: no times"),
        ("a.vtt", "WEBVTT\n\nNOTE well\n\n00:01.000 --> 00:02\nhi\n", r"a.vtt:5: these are no times"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:00,500\nhi\n", r"a.srt:2: ends before it starts"),
        ("a.srt", "1\n00:61:01,000 --> 00:62:00,500\nhi\n", r"a.srt:2: 00:61:01,000 is no time of day"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nhi\n2\n00:00:02,000 --> 00:00:03,000\nho\n", r"a.srt:5: a cue "),
        ("a.srt", "hello\nthere\n", r"a.srt:1: no times"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:03.000\na<00:02.500>b<00:02.000>c\n", r"a.vtt:3: a word's time 2.5 s"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:03.000\na<00:04.000>b\n", r"a.vtt:3: a word's time 4 s"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9\n", r"a.srt:3: is not in UTF-8 \(byte 0xe9\), perhaps"),
        ("a.txt", "hi".encode("utf-16"), r"a.txt:1: is in UTF-16; write it anew in UTF-8"),
        ("a.txt", b"hi\n\0\n", r"a.txt:2: holds a zero byte"),
        ("a.doc", "hi", r"a.doc: transcripts end in one of"),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_line(read, name, content, message):
    with pytest.raises(TranscriptError, match=message):
        read(name, content)


# JSON and captions


def test_whisperx_words_without_times_lie_between_their_neighbours(read):
    words = [
        {"word": "in", "start": 1.0, "end": 1.2, "score": 0.9},
        {"word": "2014"},
        {"word": "and"},
        {"word": "so", "start": 2.0},
        {"word": "on."},
    ]
    transcript = read(
        "a.json", {"segments": [{"start": 1.0, "end": 3.0, "text": "…", "words": words}], "language": "en"}
    )
    assert triples(transcript) == [
        ("in", 1.0, 1.2),
        ("2014", 1.2, pytest.approx(1.2 + 0.8 * 5 / 9)),
        ("and", pytest.approx(1.2 + 0.8 * 5 / 9), 2.0),
        ("so", 2.0, None),
        ("on.", 2.0, 3.0),
    ]
    assert (transcript.timing, transcript.language) == ("word", "en")


def test_a_segment_of_no_times_but_its_own(read):
    transcript = read("a.json", {"segments": [{"start": 1, "end": 2, "words": [{"word": " 1,000"}, {"word": "$5"}]}]})
    assert triples(transcript) == [("1,000", 1.0, 1.666667), ("$5", 1.666667, 2.0)]


def test_whisper_without_words_is_timed_by_the_line(read):
    segments = [{"start": 0.5, "end": 1.5, "text": " ab cd "}, {"start": 2, "end": 3, "text": ""}]
    transcript = read("a.json", {"segments": segments, "language": None})
    assert (triples(transcript), transcript.timing) == ([("ab", 0.5, 1.0), ("cd", 1.0, 1.5)], "line")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"a.json:1: is no JSON"),
        ('[{"start": 0, "end": 1, "text": "half \\ud83d"}]', r"half a character, .ud83d without its partner"),
        ('{"segments":\n [}', r"a.json:2: is no JSON"),
        ({"title": "x"}, "a transcript has a list of segments"),
        ([7], r"segments\[0\]: is no object"),
        ([{"text": "hi"}], r"segments\[0\]: has text, but no start"),
        ([{"start": 0, "end": 1, "text": 3}], r"segments\[0\].text: a text is expected, got 3"),
        ([{"start": 0, "end": "1", "text": "a"}], r"segments\[0\].end: seconds are expected, got '1'"),
        ([{"start": -1, "end": 1, "text": "a"}], r"segments\[0\].start: seconds are expected, got -1"),
        ([{"start": 2, "end": 1, "text": "a"}], r"segments\[0\]: ends at 1 s, before it starts at 2 s"),
        ([{"words": [{"word": "a"}]}], r"segments\[0\]: neither it nor its words have a start"),
        ([{"words": [{"word": "a", "start": 1, "end": 0}]}], r"segments\[0\].words\[0\]: ends at 0 s"),
        ([{"words": [{"text": "a", "start": 1, "end": 2}]}], r"segments\[0\].words\[0\].word: a text is expected"),
        ('[{"start": NaN, "end": 1, "text": "a"}]', r"segments\[0\].start: seconds are expected, got nan"),
    ],
)
def test_damaged_json_is_named_with_its_place(read, content, message):
    with pytest.raises(TranscriptError, match=message):
        read("a.json", content)


def test_a_caption_has_no_times(read):
    caption = read("a.txt", "A red car\n  turns left. \n")
    assert (caption.caption, caption.words, caption.timing) == ("A red car turns left.", (), "clip")
