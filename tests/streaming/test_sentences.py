"""Words are shown and written in sentences where a stream says where these end, and as before where it does not."""

import json
import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.decode import Tick
from mmduplex_jax.clock import Clock
from mmduplex_jax.pages.watched import Commentary
from mmduplex_jax.streaming.captions import CaptionFile, CueGrouper, Terminal
from mmduplex_jax.streaming.sentences import SentenceWriter, capitalised, closed, written_sentences
from mmduplex_jax.streaming.slot import NO_TOKENS, TickResult
from mmduplex_jax.streaming.statistics import RunStatistics
from mmduplex_jax.word_decoder import TimedWord
from tests.written_captions import read_captions

WORDS_JS = Path(__file__).parents[2] / "mmduplex_jax/serving/static/words.js"
NODE = shutil.which("node")


def said(text: str, begin_s: float = 0.0, gap_s: float = 0.3, delay_s: float = 0.32) -> list[TimedWord]:
    """Words one after another; a sentence ends at "/"; in a text without any, nobody knows of sentences."""
    words: list[TimedWord] = []
    for part in text.split():
        if part == "/":
            words[-1] = words[-1]._replace(ends_sentence=True)
        else:
            t_s = begin_s + gap_s * len(words)
            words.append(TimedWord(part, max(t_s - delay_s, 0.0), t_s, False if "/" in text else None))
    return words


STREET = said("red car enters left / person enters / white car leaves right /", 1.0)
UNMARKED = said("red car enters left person enters white car leaves right", 1.0)


def of_scenes(*scenes: tuple[float | None, list[TimedWord]]) -> list[TimedWord]:
    """Words of one scene after another, each with when it begins."""
    return [word._replace(scene_s=scene_s) for scene_s, words in scenes for word in words]


# The second scene begins 0.1 s after "enters", and the third one while nothing is being said.
CUT = of_scenes(
    (None, said("a dog starts / red car enters x /", 1.0)[:6]),
    (2.6, said("person x /", 2.8)[:1]),
    (3.6, said("white car leaves /", 3.9)),
)
CUT_UNMARKED = [word._replace(ends_sentence=None) for word in CUT]


def lines_of(words: list[TimedWord], ticks_s: tuple[float, ...] = ()) -> list[str]:
    file = StringIO()
    terminal = Terminal(file)
    for word in words:
        terminal.on_tick(Tick(0, word.t_emit_s, None), TickResult([word], NO_TOKENS, [], (), word.scene_s), 0)
    for t_s in ticks_s:
        terminal.on_tick(Tick(0, t_s, None), TickResult([], NO_TOKENS, []), 0)
    terminal.close([])
    return file.getvalue().splitlines()


def captions_of(words: list[TimedWord], path: Path) -> str:
    file = CaptionFile(path)
    for word in words:
        file.add([word], word.t_emit_s, word.scene_s)
    file.close()
    return path.read_text(encoding="utf-8")


def test_the_terminal_has_a_line_a_sentence():
    assert lines_of(STREET) == [
        "[   0.68s] Red car enters left.   (said 1.00s)",
        "[   1.88s] Person enters.   (said 2.20s)",
        "[   2.48s] White car leaves right.   (said 2.80s)",
    ]
    # Without the mark nothing is known of sentences: as many words as stand without a pause, and no more than twelve.
    assert lines_of(UNMARKED) == ["[   0.68s] red car enters left person enters white car leaves right   (said 1.00s)"]


def test_captions_are_sentences(tmp_path: Path):
    cues = read_captions(captions_of(STREET, tmp_path / "words.vtt"))
    assert [cue.text for cue in cues] == ["Red car enters left.", "Person enters.", "White car leaves right."]
    assert [t_s for cue in cues for _, t_s in cue.words] == [pytest.approx(word.t_emit_s) for word in STREET]
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in zip(cues, cues[1:]))
    assert [cue.text for cue in read_captions(captions_of(STREET, tmp_path / "words.srt"))] == [c.text for c in cues]
    # (A full line breaks where it is full.)
    unmarked = read_captions(captions_of(UNMARKED, tmp_path / "unmarked.vtt"))
    assert [cue.text for cue in unmarked] == ["red car enters left person enters white", "car leaves right"]


def test_a_sentence_that_is_longer_than_a_line_goes_on_in_the_next_caption(tmp_path: Path):
    long = said("a very long sentence that goes on and on, and does not end before the second line / then another /")
    texts = [cue.text for cue in read_captions(captions_of(long, tmp_path / "words.vtt"))]
    assert texts == [
        "A very long sentence that goes on and on,",
        "and does not end before the second line.",
        "Then another.",
    ]
    assert len(lines_of(long)) == 2


def test_a_silence_ends_a_sentence_whose_mark_did_not_come(tmp_path: Path):
    words = [*said("a car / red car stops /")[:3], *said("a dog starts /", 6.0)]
    assert words[2].ends_sentence is False
    assert [line.split("] ")[1].split("   ")[0] for line in lines_of(words)] == ["A car.", "Red.", "A dog starts."]
    texts = [cue.text for cue in read_captions(captions_of(words, tmp_path / "words.vtt"))]
    assert texts == ["A car.", "Red.", "A dog starts."]
    # A second of silence within a sentence does not: whoever speaks thinks.
    slow = [*said("we see a / x /")[:2], *said("red car /", 2.0)]
    assert [line.split("] ")[1].split("   ")[0] for line in lines_of(slow)] == ["We see red car."]
    assert lines_of(slow[:2], ticks_s=(1.4, 2.2, 2.4)) == ["[   0.00s] We see.   (said 0.00s)"]


def test_what_was_shown_is_not_lost_where_the_stream_ends(tmp_path: Path):
    assert lines_of(STREET[:5])[-1] == "[   1.88s] Person.   (said 2.20s)"
    assert [cue.text for cue in read_captions(captions_of(STREET[:5], tmp_path / "w.vtt"))][-1] == "Person."


def test_a_cut_closes_the_line_and_the_next_one_begins_with_a_capital():
    assert lines_of(CUT) == [
        "[   0.68s] A dog starts.   (said 1.00s)",
        "[   1.58s] Red car enters.   (said 1.90s)",
        "[   2.48s] Person.   (said 2.80s)",
        "[   3.58s] White car leaves.   (said 3.90s)",
    ]
    assert [line.split("] ")[1].split("   ")[0] for line in lines_of(CUT_UNMARKED)] == [
        "a dog starts red car enters", "person", "white car leaves"
    ]  # fmt: skip


def test_a_cut_closes_the_line_at_once_though_nothing_is_said():
    file = StringIO()
    terminal = Terminal(file)
    for word in CUT[:6]:
        terminal.on_tick(Tick(0, word.t_emit_s, None), TickResult([word], NO_TOKENS, []), 0)
    assert file.getvalue().endswith("Red car enters")
    terminal.on_tick(Tick(0, 2.6, None), TickResult([], NO_TOKENS, [], (), 2.6), 0)
    assert file.getvalue().endswith("Red car enters.   (said 1.90s)\n")
    # Where a word of either scene comes with the cut's own tick, each is in its own line.
    terminal.on_tick(Tick(0, 3.6, None), TickResult([CUT[6], CUT[7]], NO_TOKENS, [], (), 3.6), 0)
    assert file.getvalue().splitlines()[-2:] == ["[   2.48s] Person.   (said 2.80s)", "[   3.58s] White"]


def test_captions_end_where_their_scene_does(tmp_path: Path):
    for suffix in ("vtt", "srt"):
        cues = read_captions(captions_of(CUT, tmp_path / f"words.{suffix}"))
        assert [cue.text for cue in cues] == ["A dog starts.", "Red car enters.", "Person.", "White car leaves."]
        # The last word can be read for a quarter of a second; the last caption ends as it does without a cut.
        assert [cue.end_s for cue in cues] == pytest.approx([1.9, 2.75, 3.6, 5.5])
    unmarked = read_captions(captions_of(CUT_UNMARKED, tmp_path / "unmarked.vtt"))
    assert [cue.text for cue in unmarked] == ["a dog starts red car enters", "person", "white car leaves"]
    assert [cue.end_s for cue in unmarked] == pytest.approx([2.75, 3.6, 5.5])


def test_a_caption_is_in_the_file_soon_after_the_cut_that_ends_it(tmp_path: Path):
    path = tmp_path / "words.vtt"
    file = CaptionFile(path)
    for word in CUT[:6]:
        file.add([word], word.t_emit_s)
    file.add([], 2.6, 2.6)
    assert "Red" not in path.read_text()
    file.add([], 2.76, 2.6)
    assert [(cue.text, cue.end_s) for cue in read_captions(path.read_text())][-1] == ("Red car enters.", 2.75)
    file.close()
    # One that is cut short at the end of the stream, too.
    file = CaptionFile(tmp_path / "b.vtt")
    file.add(CUT[:1], 1.0)
    file.add([], 1.1, 1.1)
    file.close()
    assert [cue.end_s for cue in read_captions((tmp_path / "b.vtt").read_text())] == [1.25]


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("dog", "dog."),
        ("dog.", "dog."),
        ("why?", "why?"),
        ('"no!"', '"no!"'),
        ("yes,", "yes."),
        ("and so -", "and so ."),
    ],
)
def test_what_closes_a_sentence(text, whole):
    assert closed(text) == whole


def test_capitals():
    assert [capitalised(text) for text in ("dog", '"dog"', "élan", "3rd", "...", "McX", "")] == [
        "Dog", '"Dog"', "Élan", "3rd", "...", "McX", ""
    ]  # fmt: skip


spoken = st.lists(
    st.tuples(st.sampled_from(["red", "dog,", "enters", "Why?", "left"]), st.integers(80, 4000), st.booleans()),
    min_size=1,
    max_size=30,
)


@given(spoken, st.booleans())
def test_every_word_is_written_once_at_its_time(timed, marked):
    now_ms, words = 0, []
    for text, gap_ms, ends in timed:
        now_ms += gap_ms
        words.append(TimedWord(text, 0.0, now_ms / 1000, ends if marked else None))
    grouper = CueGrouper()
    cues = [cue for word in words for cue in grouper.add(word)] + grouper.finish()
    assert [t_s for cue in cues for _, t_s in cue.words] == [word.t_emit_s for word in words]
    plain = lambda text: text.rstrip(".,?").lower()
    assert [plain(text) for cue in cues for text, _ in cue.words] == [plain(word.text) for word in words]
    sentences = written_sentences(words)
    assert [written.word for sentence in sentences for written in sentence] == words
    if marked:
        for sentence in sentences:
            assert sentence[0].text[0].isupper()
            assert sentence[-1].text[-1] in ".?"
            assert not any(written.word.ends_sentence for written in sentence[:-1])
        # A caption begins where a sentence does, or where a line is full.
        begins = {sentence[0].word.t_emit_s for sentence in sentences}
        assert begins <= {cue.start_s for cue in cues}
    else:
        assert [written.text for sentence in sentences for written in sentence] == [word.text for word in words]


spoken_in_scenes = st.lists(
    st.tuples(st.integers(80, 2500), st.booleans(), st.none() | st.floats(0.0, 1.0)), min_size=1, max_size=20
)


@given(spoken_in_scenes, st.booleans())
def test_captions_are_the_same_whether_or_not_somebody_looks_on(timed, marked):
    """Live there are ticks in between; of a stream that is over only its words are left, and its last scene."""
    words, now_s, scene_s, cuts = list[TimedWord](), 0.0, None, list[float]()
    for gap_ms, ends, cut in timed:
        if cut is not None:  # within the gap, which it does not end
            scene_s = round(now_s + cut * gap_ms / 1000, 3)
            cuts.append(scene_s)
        now_s = round(now_s + gap_ms / 1000, 3)
        words.append(TimedWord("red", 0.0, now_s, ends if marked else None, scene_s))
    live, later = CueGrouper(), CueGrouper()
    shown, waiting = list(), list(words)
    for tick in range(round(now_s / 0.04) + 100):
        t_s = tick * 0.04
        while waiting and waiting[0].t_emit_s <= t_s:
            shown += live.add(waiting.pop(0))
        shown += live.advance(t_s, max((cut_s for cut_s in cuts if cut_s <= t_s), default=None))
    assert shown == [cue for word in words for cue in later.add(word)] + later.finish()
    assert all(a.end_s <= b.start_s for a, b in zip(shown, shown[1:]))
    assert all(cue.start_s < cue.end_s for cue in shown)
    scenes = {word.t_emit_s: word.scene_s for word in words}
    assert all(len({scenes[t_s] for _, t_s in cue.words}) == 1 for cue in shown)


def report_of(words: list[TimedWord]) -> dict:
    statistics = RunStatistics(Clock())
    statistics.add(words, 0, [1.0, 1.0], 0.0)
    return statistics.report(duration_s=5.0, wall_s=1.0, compile_s=0.0, dropped_frames=0)


def test_the_notebooks_page_has_sentences():
    page = Commentary("one", None, Path("x"), report_of(STREET), (), 0.16)
    assert [text for text, _ in page.starts] == ["Red car enters left.", "Person enters.", "White car leaves right."]
    assert [phrase[0].t_emit_s for phrase in page.phrases] == [1.0, pytest.approx(2.2), pytest.approx(2.8)]
    for words, texts in (
        (CUT, ["A dog starts.", "Red car enters.", "Person.", "White car leaves."]),
        (CUT_UNMARKED, ["a dog starts red car enters", "person", "white car leaves"]),
    ):
        cut = Commentary("two", None, Path("x"), report_of(words), (), 0.16)
        assert [text for text, _ in cut.starts] == texts


SCRIPT = """
import { Words, textOf } from "./words.mjs";
import { readFileSync } from "node:fs";
const shown = JSON.parse(readFileSync(0, "utf8")).map((stream) => {
  const words = new Words();
  for (const event of stream) if (event.text === undefined) words.watch(event); else words.add(event);
  const files = { vtt: words.file("vtt"), json: JSON.parse(words.file("json")) };
  words.end();
  return { phrases: words.phrases.map(textOf), ...files };
});
console.log(JSON.stringify(shown));
"""


@pytest.mark.skipif(NODE is None, reason="there is no node on this machine, which runs the page's words.js")
def test_the_page_shows_and_writes_what_the_library_does(tmp_path: Path):
    long = said("a very long sentence that goes on and on, and does not end before the second line / then another /")
    silence = [*said("a car / red car stops /")[:3], *said("a dog starts /", 6.0)]
    streams = [STREET, UNMARKED, long, silence, STREET[:5], CUT, CUT[:7], CUT_UNMARKED]
    shutil.copy(WORDS_JS, tmp_path / "words.mjs")
    (tmp_path / "script.mjs").write_text(SCRIPT, encoding="utf-8")
    fields = lambda word: {name: value for name, value in word._asdict().items() if value is not None}
    given_words = json.dumps([[fields(word) for word in stream] for stream in streams])
    done = subprocess.run(
        [NODE, "script.mjs"], input=given_words, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    for number, (stream, shown) in enumerate(zip(streams, json.loads(done.stdout), strict=True)):
        vtt = captions_of(stream, tmp_path / f"{number}.vtt")
        assert [cue.text for cue in read_captions(shown["vtt"])] == [cue.text for cue in read_captions(vtt)]
        assert shown["json"]["words"] == [fields(word) for word in stream]
        if stream not in (UNMARKED, CUT_UNMARKED):  # (which the page's list breaks where a line is full)
            sentences = [" ".join(written.text for written in one) for one in written_sentences(stream)]
            assert shown["phrases"] == sentences


CUT_SCRIPT = """
import { Words, textOf } from "./words.mjs";
import { readFileSync } from "node:fs";
const words = new Words();
let seq = 0;
const add = (word) => words.add({ seq: ++seq, ...word });
JSON.parse(readFileSync(0, "utf8")).forEach(add);
const seen = () => textOf(words.phrases.at(-1));
const watched = (scene_s, said = seq) => [words.watch({ scene_s, seq: said }), seen()];
const told = [
  watched(), words.shown(2.5), watched(2.6), watched(2.6), words.shown(2.7), words.shown(2.8),
  words.file("vtt"),
];
const next = { text: "person", t_video_s: 2.6, t_emit_s: 2.9, ends_sentence: false, scene_s: 2.6 };
// The status of the tick before comes after a word of the new scene.
told.push(add(next).begins, watched(undefined, seq - 1), watched(2.6), seen());
// A reset, after which nothing is known of scenes, and times begin anew.
told.push(watched(), watched(), seen());
// The first word after it is of another scene than the status that comes late.
told.push(add({ ...next, text: "tree", t_emit_s: 0.5, scene_s: 0.32 }).begins, watched(undefined, seq - 1));
console.log(JSON.stringify(told));
"""


@pytest.mark.skipif(NODE is None, reason="there is no node on this machine, which runs the page's words.js")
def test_the_page_closes_a_sentence_at_the_cut_though_nothing_is_said(tmp_path: Path):
    shutil.copy(WORDS_JS, tmp_path / "words.mjs")
    (tmp_path / "script.mjs").write_text(CUT_SCRIPT, encoding="utf-8")
    fields = lambda word: {name: value for name, value in word._asdict().items() if value is not None}
    given_words = json.dumps([fields(word) for word in CUT[:6]])
    done = subprocess.run(
        [NODE, "script.mjs"], input=given_words, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    before, shown, at_cut, later, held, gone, vtt, *rest = json.loads(done.stdout)
    assert (before, shown) == ([False, "Red car enters"], "Red car enters")
    assert (at_cut, later) == ([True, "Red car enters."], [False, "Red car enters."])
    # On the picture it can be read for a quarter of a second, and so it can in the file.
    assert (held, gone) == ("Red car enters.", "")
    assert read_captions(vtt)[-1].end_s == 2.75
    at_cut, at_reset, after_it = rest[:4], rest[4:7], rest[7:]
    assert at_cut == [True, [False, "Person"], [False, "Person"], "Person"]
    assert at_reset == [[True, "Person."], [False, "Person."], "Person."]
    assert after_it == [True, [False, "Tree"]]


def test_a_stream_begins_with_a_capital_only_where_it_has_sentences():
    assert SentenceWriter().write(TimedWord("red", 0.0, 1.0, False))[::2] == ("Red", True)
    assert SentenceWriter().write(TimedWord("red", 0.0, 1.0))[::2] == ("red", True)


@pytest.mark.parametrize("ends", [None, False])
def test_a_word_that_is_later_than_its_tick_is_not_the_last(ends):
    """As in real time, where words are stamped by the clock on the wall."""
    writer = SentenceWriter()
    writer.write(TimedWord("red", 1.0, 1.4, ends))
    assert not writer.is_over(1.28, None)
    assert not writer.write(TimedWord("circle", 1.2, 1.7, ends)).begins
    assert writer.is_over(9.0, None)
