"""Words become captions that can be read back."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmduplex_jax.streaming.captions import CaptionFile
from mmduplex_jax.word_decoder import TimedWord
from tests.written_captions import read_captions

times_ms = st.lists(st.integers(80, 4000), min_size=1, max_size=40)


@given(times_ms, st.sampled_from(["red", "circle", "<&>", "über-long-word-of-many-letters", "-->"]))
def test_a_vtt_gives_every_word_back_with_its_time(tmp_path_factory, gaps_ms: list[int], text: str):
    path = tmp_path_factory.mktemp("vtt") / "words.vtt"
    words = [TimedWord(text, 0.0, t / 1000) for t in np.cumsum(gaps_ms).tolist()]
    file = CaptionFile(path)
    for word in words:
        file.add([word], word.t_emit_s)
    file.close()
    cues = read_captions(path.read_text(encoding="utf-8"))
    back = [word for cue in cues for word in cue.words]
    assert back == [(text, pytest.approx(word.t_emit_s)) for word in words]
    assert all(cue.start_s < cue.end_s for cue in cues)
    assert all(a.end_s <= b.start_s + 1e-9 for a, b in zip(cues, cues[1:]))
    for cue in cues:
        said = [t for _, t in cue.words]
        assert all(b - a < 1.0 for a, b in zip(said, said[1:]))


def test_an_srt_gives_the_lines_back(tmp_path: Path):
    path = tmp_path / "words.srt"
    file = CaptionFile(path)
    file.add([TimedWord("red", 0, 1.0), TimedWord("circle", 0, 1.2), TimedWord("left", 0, 3725.5)], 3725.5)
    file.close()
    assert path.read_text() == (
        "1\n00:00:01,000 --> 00:00:02,200\nred circle\n\n2\n01:02:05,500 --> 01:02:06,500\nleft\n"
    )
    assert [(c.start_s, c.text) for c in read_captions(path.read_text())] == [(1.0, "red circle"), (3725.5, "left")]


def test_a_caption_is_in_the_file_as_soon_as_it_is_complete(tmp_path: Path):
    path = tmp_path / "words.vtt"
    file = CaptionFile(path)
    assert path.read_text() == "WEBVTT\n"
    file.add([TimedWord("red", 0, 1.0)], 1.0)
    file.add([], 2.9)
    assert read_captions(path.read_text()) == []
    file.add([], 3.1)
    assert [cue.text for cue in read_captions(path.read_text())] == ["red"]
    file.close()
    file.close()


def test_only_formats_that_are_known(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\.vtt or \.srt"):
        CaptionFile(tmp_path / "words.txt")
