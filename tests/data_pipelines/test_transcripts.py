"""Transcripts by value: the shared fixtures, and small files with what goes wrong in the wild."""

import difflib
import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sources import causes
from data_pipelines.transcripts import NoTranscriptError, TranscriptError, read_transcript


@pytest.fixture
def fixtures(shared_dir: Path) -> Path:
    return shared_dir / "fixtures"


@pytest.fixture
def read(tmp_path):
    def write_and_read(name: str, content: str | bytes | dict | list, **options):
        path = tmp_path / name
        if isinstance(content, dict | list):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_transcript(path, name=name, **options)

    return write_and_read


def triples(transcript):
    return [(word.text, word.start_s, word.end_s) for word in transcript.words]


def notes(transcript):
    counts = {}
    for note in transcript.notes:
        counts[note.cause] = counts.get(note.cause, 0) + note.count
    return counts


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
    assert notes(friday) == {causes.MARKS: 1}  # a dash
    assert (len(friday.words), friday.timing) == (26, "line")
    assert [word.start_s for word in friday.words if word.text in ("Hildy!", "How", "Tell", "Yes,")] == [0, 1, 1.5, 3]
    assert friday.words[-1].end_s == 6.0
    sintel = read_transcript(fixtures / "sintel-en.vtt")  # it has cue numbers, a comment, and a speaker's tag
    assert texts(sintel).startswith("This blade has a dark past.")
    assert notes(sintel) == {causes.MARKS: 1}
    marked = read_transcript(fixtures / "sintel-en.vtt", keep_marks=True)
    assert texts(marked).startswith("[Test] This blade has a dark past.")
    assert "NOTE" not in texts(sintel)
    assert len(read_transcript(fixtures / "elephantsdream.captions.en.vtt").words) == 345
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
        b'2\r\n0:00:01.5 --> 00:00:02,000\r\n{\\an8}John:\r\n\r\n<font color="#fff">a &lt; b</font>\r\n\r\n\r\n',
    )
    assert [text for text, _, _ in triples(srt)] == ["John:", "a", "<", "b", "later"]
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
        ("a.vtt", "WEBVTT\n\n00:01.000 -> 00:02.000\nhi\n", r"a.vtt:3: these are no times"),
        ("a.vtt", "WEBVTT\n\nNOTE well\n\n00:01.000 --> 00:b2\nhi\n", r"a.vtt:5: these are no times"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:00,500\nhi\n", r"a.srt:2: ends before it starts"),
        ("a.srt", "1\n00:61:01,000 --> 00:62:00,500\nhi\n", r"a.srt:2: these are no times.*seconds go to 59"),
        ("a.srt", "hello\nthere\n", r"a.srt:1: no times"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9\n", r"a.srt:3: is not in UTF-8 \(byte 0xe9\), perhaps"),
        ("a.txt", "hi".encode("utf-16"), r"a.txt:1: is in UTF-16; write it anew in UTF-8"),
        ("a.txt", b"hi\n\0\n", r"a.txt:2: holds a zero byte"),
        ("a.doc", "hi", r"a.doc: transcripts end in one of"),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_line(read, name, content, message):
    with pytest.raises(TranscriptError, match=message):
        read(name, content)


A, B, C = (
    "1\n00:00:01,000 --> 00:00:03,000\na red block\n\n",
    "2\n{times}\nit moves\n\n",
    "3\n00:00:07,000 --> 00:00:09,000\nand stops\n\n",
)


@pytest.mark.parametrize(
    "times",
    [
        "00:00:04,000 -> 00:00:06,000",
        "00:00:04,000 —> 00:00:06,000",
        "00：00：04,000 — 00：00：06,000",
        "00：00：04,000 --> 00：00：06,000",
        "0:00:04.000,0:00:06.000",
        "00:00:04,000 -->",
        "--> 00:00:06,000",
        "00:00:O4,000 --> 00:00:06,000",
        "00.00.04,000 --> 00.00.06,000",
        "00:00:04;000 -> 00:00:06;000",
        "[00:00:04.000] - [00:00:06.000]",
        "00:00:64,000 --> 00:00:66,000",
        "00:00:06,000 --> 00:00:04,000",
        "Downloaded from www.subtitles.example.com",
        "no times at all",
    ],
)
@pytest.mark.parametrize("separator", ["\n\n", "\n"])
def test_a_damaged_cue_is_left_out_and_noted_and_the_others_keep_their_times(read, times, separator):
    if separator == "\n" and not any(map(str.isdigit, times)):
        return  # without empty lines nothing tells a text from the next
    srt = read("a.srt", (A + B.format(times=times) + C).replace("\n\n", separator))
    assert texts(srt) == "a red block and stops"
    assert [word.start_s for word in srt.words if word.text in ("a", "and")] == [1.0, 7.0]
    assert srt.words[2].end_s == 3.0
    assert notes(srt) == {causes.BROKEN_CUE: 1}
    (note,) = srt.notes
    assert note.detail.startswith("a.srt:")


@pytest.mark.parametrize(
    "text", ["12:30 - 14:45", "press --> to go", "2:10:33, 2:11:04 were the times", "3", "at 12:30"]
)
def test_what_only_resembles_times_is_said(read, text):
    srt = read(
        "a.srt", A + B.format(times="00:00:04,000 --> 00:00:06,000").replace("it moves", text) + C, keep_marks=True
    )
    assert texts(srt) == f"a red block {text} and stops"
    assert notes(srt) == {}


def test_numbers_and_advertisements_that_trail_are_not_said(read):
    for end in ("4\n", "\n4\n", "\n\nwww.subs.example.com subtitles\n", "\n4\nlost its times\n"):
        srt = read(
            "a.srt", A + C.replace("3", "2", 1).replace("0\nand", "0\nand").rstrip("\n") + "\n" + end.replace("4", "3")
        )
        assert texts(srt) == "a red block and stops", end
        assert notes(srt) == {causes.BROKEN_CUE: 1}, end
    srt = read(
        "a.srt", A + B.format(times="00:00:04,000 --> 00:00:06,000").replace("it moves", "Subtitles by someone.org")
    )
    assert (texts(srt), notes(srt)) == ("a red block", {causes.SITE_ADVERTISEMENT: 1})


def test_times_without_fractions_and_cues_without_empty_lines_are_read(read):
    srt = read("a.srt", "1\n00:00:01 --> 00:00:03\na b\n2\n00:00:04 --> 00:00:06\nc\n")
    assert triples(srt) == [("a", 1.0, 2.0), ("b", 2.0, 3.0), ("c", 4.0, 6.0)]
    vtt = read(
        "a.vtt", "WEBVTT\n00:01.000 --> 00:03.000\na\n00:04.000 --> 00:06.000 line:5%\n\nb\n\n\n0:7 --> 0:8\nc\n"
    )
    assert triples(vtt) == [("a", 1.0, 3.0), ("b", 4.0, 6.0), ("c", 7.0, 8.0)]
    assert (notes(srt), notes(vtt)) == ({}, {})


def test_one_time_backwards_costs_one_cue_or_word(read):
    vtt = read(
        "a.vtt", "WEBVTT\n\n00:01.000 --> 00:03.000\na\n\n00:05.320 --> 00:04.100\noops\n\n00:06.000 --> 00:08.000\nb\n"
    )
    assert (texts(vtt), notes(vtt)) == ("a b", {causes.BROKEN_CUE: 1})
    vtt = read("a.vtt", "WEBVTT\n\n00:01.000 --> 00:03.000\na<00:02.500>b<00:02.000>c<00:04.000>d\n")
    assert (texts(vtt), vtt.words[1].start_s, notes(vtt)) == ("a bcd", 2.5, {causes.BROKEN_CUE: 2})
    words = [{"word": word, "start": start_s, "end": end_s} for word, start_s, end_s in
             (("a", 1, 1.2), ("red", 1.5, 1.3), ("block", float("nan"), float("nan")), ("it", 4, 4.2))]  # fmt: skip
    json_file = read("a.json", [{"start": 1, "end": 5, "words": words}, {"start": 6, "end": 5, "text": "x"}])
    assert [(word.text, word.start_s) for word in json_file.words] == [("a", 1.0), ("block", 1.2), ("it", 4.0)]
    assert notes(json_file) == {causes.BROKEN_CUE: 2}


def test_what_nobody_says_is_left_out_unless_it_is_kept(read):
    content = A.replace("a red block", "[Applause]") + (
        "2\n00:00:04,000 --> 00:00:06,000\n>> JOHN: red (loud\ncrash) block\n- goes -5 m\n- MAN 2: right\n\n"
        "3\n00:00:07,000 --> 00:00:09,000\n♪ la well-known ♪\nNote: A\n"
    )
    srt = read("a.srt", content)
    assert texts(srt) == "red block goes -5 m right la well-known Note: A"
    assert notes(srt) == {causes.MARKS: 9}
    assert "a.srt:2: '[Applause]'" in srt.notes[0].detail
    kept = read("a.srt", content, keep_marks=True)
    assert texts(kept).startswith("[Applause] >> JOHN: red (loud crash) block - goes")
    assert notes(kept) == {}
    timed = read(
        "a.vtt",
        "WEBVTT\n\n00:01.000 --> 00:03.000\n"
        "&gt;&gt; go<00:01.500><c> [loud</c><00:02.000><c> bang]</c><00:02.500> on\n",
    )
    assert triples(timed) == [("go", 1.0, 1.5), ("on", 2.5, 3.0)]
    assert texts(read("a.json", [{"start": 0, "end": 1, "text": "[a] - (b)"}])) == "[a] - (b)"  # a recogniser's words


def test_characters_that_only_steer_are_not_in_words(read):
    srt = read("a.srt", "1\n00:00:01,000 --> 00:00:03,000\n\u202bab\u2067c\u2069 d\u061c\u202c \u200f\n")
    assert triples(srt) == [("abc", 1.0, 2.333333), ("d", 2.333333, 3.0)]
    assert read("a.txt", "\u2067ab\u2069 \u202c").caption == "ab"
    assert texts(read("a.json", [{"words": [{"word": "\u200eab", "start": 1, "end": 2}]}])) == "ab"
    assert texts(read("a.srt", "1\n00:00:01,000 --> 00:00:03,000\nمی\u200cخواهم\n")) == "می\u200cخواهم"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("红色方块。向右", ["红", "色", "方", "块。", "向", "右"]),
        ("「そして」きょう ビデオー", ["「そ", "し", "て」", "きょ", "う", "ビ", "デ", "オー"]),
        ("手机iPhone 15很好", ["手", "机", "iPhone", "15", "很", "好"]),
        ("เขาไป", ["เขา", "ไป"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("plain words", ["plain", "words"]),
    ],
)
def test_scripts_without_spaces_are_cut(read, text, words):
    srt = read("a.srt", f"1\n00:00:01,000 --> 00:00:03,000\n{text}\n")
    assert [word.text for word in srt.words] == words
    assert srt.timing == "line"


def test_cues_on_the_screen_at_once_are_said_in_turn(read):
    srt = read(
        "a.srt",
        "1\n00:00:01,000 --> 00:00:05,000\na b\n\n2\n00:00:03,000 --> 00:00:06,000\nc d\n\n"
        "4\n00:00:08,000 --> 00:00:09,000\ng\n\n3\n00:00:08,000 --> 00:00:10,000\nh\n\n"
        "2\n00:00:07,000 --> 00:00:08,000\nf\n",
    )
    assert texts(srt) == "a b c d f g h"
    assert [word.start_s for word in srt.words] == [1.0, 2.0, 3.0, 4.5, 7.0, 8.0, 9.0]
    assert notes(srt) == {causes.OVERLAP: 2, causes.OUT_OF_ORDER: 1}


def test_subtitles_with_the_other_suffix_are_read_as_what_they_are(read):
    vtt, srt = "WEBVTT\nLanguage: en\n\n00:01.000 --> 00:03.000\nhi there\n", A
    for name, content, words in (("a.srt", vtt, "hi there"), ("a.txt", vtt, "hi there"), ("a.json", vtt, "hi there"),
                                 ("a.vtt", srt, "a red block"), ("a.txt", srt, "a red block")):  # fmt: skip
        transcript = read(name, content)
        assert (texts(transcript), transcript.caption) == (words, ""), name
        assert notes(transcript) == {causes.OTHER_FORMAT: 1}


def test_the_time_map_of_hls_is_read(read):
    cue = "\n\n00:01.000 --> 00:03.000\nhi\n"
    assert read("a.vtt", "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000" + cue).mpegts_s == 10.0
    assert read("a.vtt", "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:04.000, MPEGTS:900000" + cue).mpegts_s == 6.0
    broken = read("a.vtt", "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:x" + cue)
    assert (broken.mpegts_s, notes(broken), texts(broken)) == (None, {causes.BROKEN_CUE: 1}, "hi")


# JSON and captions


def test_words_out_of_order_are_sorted_and_noted(read):
    words = [{"word": "b", "start": 4.6, "end": 4.8}, {"word": "?"}, {"word": "a", "start": 2.1, "end": 2.3}]
    transcript = read("a.json", {"segments": [{"start": 1.0, "end": 5.0, "words": words}]})
    assert (texts(transcript), notes(transcript)) == ("a b ?", {causes.OUT_OF_ORDER: 1})


def test_a_json_file_of_a_data_set_gives_its_caption(read):
    assert (
        read("a.json", {"videoLoc": "x.mp4", "caption": "A red block.", "yt_meta_dict": None}).caption == "A red block."
    )
    assert read("a.json", {"human_caption": None, "model_caption": "M", "description": "D"}).caption == "M"
    with pytest.raises(NoTranscriptError, match="this JSON has neither"):
        read("a.json", {"title": "x"})


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
        ('[{"start": NaN, "end": 1, "text": "a"}]', r"segments\[0\]: has text, but no start or no end"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
            "a.json: is a Git-LFS pointer.*git lfs pull",
        ),
    ],
)
def test_damaged_json_is_named_with_its_place(read, content, message):
    with pytest.raises(TranscriptError, match=message):
        read("a.json", content)


def test_a_caption_has_no_times(read):
    caption = read("a.txt", "A red car\n  turns left. \n")
    assert (caption.caption, caption.words, caption.timing) == ("A red car turns left.", (), "clip")
