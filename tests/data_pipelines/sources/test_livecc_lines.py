"""The index of a Live-CC file: any sample by a seek, errors that name the place."""

import io
import json
import os
import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.sources import livecc
from data_pipelines.sources.livecc import AnnotationError, LiveccLines
from tests.data_pipelines.sources.livecc_file import write_lines


def sample(number, words=20):
    return [{"role": "user", "number": number}, {"role": "assistant", "words": ["word"] * words}]


def write_with(path, samples, offsets_of, end=b"\n"):
    """Writes samples and what `offsets_of` makes of the begins of their lines and of the end of the last."""
    begins, body = [], b""
    for one in samples:
        begins.append(len(body))
        body += json.dumps(one).encode() + b"\n"
    path.write_bytes(body + json.dumps(offsets_of(begins, len(body))).encode() + end)
    return path


class CountingFile(io.FileIO):
    """Notes which bytes were read."""

    def __init__(self, path):
        super().__init__(path)
        self.spans = []

    def readinto(self, buffer):
        begin = self.tell()
        length = super().readinto(buffer)
        self.spans.append((begin, begin + length))
        return length


def test_the_fixture_opens_and_its_samples_are_read(shared_dir):
    lines = LiveccLines(shared_dir / "fixtures" / "livecc_format_sample.jsonl")
    assert len(lines) == 2
    assert lines[0][0]["content"][0]["video_start"] == 1.59
    assert lines[1][0]["content"][0]["video_end"] == 85.65
    assert lines.begin_bytes(1) == 2861


@pytest.mark.parametrize(
    ("offsets_of", "end"),
    [
        (lambda begins, end: begins, b"\n"),
        (lambda begins, end: begins, b""),
        (lambda begins, end: begins, b"\r\n\n"),
        (lambda begins, end: [*begins[1:], end], b"\n"),  # where lines end
        (lambda begins, end: [*begins, end], b"\n"),  # both
    ],
)
def test_lists_of_begins_and_of_ends_are_read(tmp_path, offsets_of, end):
    path = write_with(tmp_path / "a.jsonl", [sample(number, number) for number in range(7)], offsets_of, end)
    lines = LiveccLines(path)
    assert [lines[number][0]["number"] for number in range(len(lines))] == list(range(7))


@given(st.lists(st.text(max_size=30), min_size=1, max_size=30), st.data())
def test_any_sample_in_any_order(tmp_path_factory, texts, data):
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    write_lines(path, [[text] for text in texts])
    lines = LiveccLines(path)
    assert len(lines) == len(texts)
    for number in data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=10)):
        assert lines[number] == [texts[number]]


def test_only_the_end_and_the_lines_asked_for_are_read(tmp_path, monkeypatch):
    count = 100_000
    path = tmp_path / "many.jsonl"
    write_lines(path, [sample(number, words=10) for number in range(count)])
    size_bytes = path.stat().st_size
    files = []

    def open_counting(path):
        files.append(CountingFile(path))
        return io.BufferedReader(files[-1])

    monkeypatch.setattr(livecc, "open_binary", open_counting)
    begin_s = time.process_time()
    lines = LiveccLines(path)
    assert time.process_time() - begin_s < 1  # some hundredths are usual
    asked = [17, 12_345, 3, 99_998]
    assert [lines[number][0]["number"] for number in asked] == asked
    (file,) = files
    tail_bytes = size_bytes - (lines.begin_bytes(count - 1) + len(lines.line(count - 1)) + 1)
    read_bytes = sum(end - begin for begin, end in file.spans)
    # The list of offsets in blocks that double (less than twice its size), three samples that opening looks at, the
    # four asked for and the one just above, each with at most two buffers.
    assert read_bytes < 2 * tail_bytes + livecc._FIRST_BLOCK_BYTES + 8 * 2 * io.DEFAULT_BUFFER_SIZE
    assert read_bytes < size_bytes / 5


def test_a_file_without_offsets_says_what_to_do_and_can_be_scanned(tmp_path):
    path = tmp_path / "plain.jsonl"
    path.write_bytes(b"".join(json.dumps(sample(number)).encode() + b"\n" for number in range(5)))
    with pytest.raises(AnnotationError, match=r"plain\.jsonl.*no list of offsets.*--config\.build_index=True"):
        LiveccLines(path)
    lines = LiveccLines(path, build_index=True)
    assert [lines[number][0]["number"] for number in range(len(lines))] == list(range(5))
    assert pickle.loads(pickle.dumps(lines))[4] == sample(4)


def test_a_scan_leaves_blank_lines_and_wrong_offsets_out(tmp_path):
    path = tmp_path / "odd.jsonl"
    path.write_bytes(b'\n["a"]\n\n["b"]\n[0, 3]\n')
    with pytest.raises(AnnotationError, match="no line begins at byte 0"):
        LiveccLines(path)
    lines = LiveccLines(path, build_index=True)
    assert [lines[number] for number in range(len(lines))] == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("offsets_of", "said"),
    [
        (lambda begins, end: [begin + 5 for begin in begins[:-1]], "sample 0: no line begins at byte 5"),
        (lambda begins, end: [*begins, end + 40], "said to begin at byte .* cut or changed"),
        (lambda begins, end: [], "holds no sample"),
        (lambda begins, end: [0.5, 1.5], "no list of offsets"),
        (lambda begins, end: {"offsets": begins}, "no list of offsets"),
    ],
)
def test_offsets_that_do_not_fit_are_refused(tmp_path, offsets_of, said):
    path = write_with(tmp_path / "a.jsonl", [sample(number) for number in range(4)], offsets_of)
    with pytest.raises(AnnotationError, match=said):
        LiveccLines(path)


@pytest.mark.parametrize("tail", [b"[0,,27]", b"[0, 27,]", b"[0 27]"])
def test_a_broken_list_is_refused(tmp_path, tail):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'["a"]\n["b"]\n' + tail)
    with pytest.raises(AnnotationError, match=r"a\.jsonl.*broken"):
        LiveccLines(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"")
    with pytest.raises(AnnotationError, match=r"a\.jsonl.*no list of offsets"):
        LiveccLines(tmp_path / "a.jsonl")


def test_a_line_that_is_no_json_is_named_and_the_others_stand(tmp_path):
    path = write_with(tmp_path / "a.jsonl", [sample(number) for number in range(9)], lambda begins, end: begins)
    data = path.read_bytes().split(b"\n")
    data[3] = data[3][:-2] + b"  "
    path.write_bytes(b"\n".join(data))
    lines = LiveccLines(path)
    with pytest.raises(AnnotationError, match="sample 3: its line is no JSON"):
        lines[3]
    assert lines[5] == sample(5)
    with pytest.raises(IndexError, match="sample 9 .* there are 9"):
        lines[9]


def test_half_a_character_is_named_and_the_others_stand(tmp_path):
    path = tmp_path / "a.jsonl"
    write_lines(path, [["whole \U0001f600"], ["half \ud83d"], ["end"]])
    lines = LiveccLines(path)
    with pytest.raises(AnnotationError, match=r"sample 1: .* half a character, \\ud83d without its partner"):
        lines[1]
    assert (lines[0], lines[2]) == (["whole \U0001f600"], ["end"])


def test_lines_that_end_as_on_windows(tmp_path):
    samples = [sample(number) for number in range(5)]
    lines = [json.dumps(one).encode() + b"\r\n" for one in samples]
    begins = [sum(map(len, lines[:number])) for number in range(5)]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines) + json.dumps(begins).encode() + b"\r\n")
    for build_index in (False, True):
        found = LiveccLines(tmp_path / "a.jsonl", build_index=build_index)
        assert [found[number] for number in range(len(found))] == samples


def test_another_process_reads_the_offsets_itself(tmp_path):
    path = tmp_path / "a.jsonl"
    write_lines(path, [sample(number) for number in range(2000)])
    lines = LiveccLines(path)
    sent = pickle.dumps(lines)
    assert len(sent) < 1000
    assert pickle.loads(sent)[1234] == lines[1234] == sample(1234)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="was changed") as raised:
        pickle.loads(sent)[0]
    assert not isinstance(raised.value, AnnotationError)  # with which each sample would be rejected


@pytest.mark.parametrize(("offsets", "build_index"), [("[0, 11]", False), ("[3, 11]", False), ("", True)])
def test_a_mark_of_byte_order_is_no_part_of_the_first_line(tmp_path, offsets, build_index):
    path = tmp_path / "a.jsonl"
    lines = [b'{"a":1}', b'{"b":2}']
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(line + b"\n" for line in lines) + offsets.encode())
    read = LiveccLines(path, build_index=build_index)
    assert [read[number] for number in range(2)] == [{"a": 1}, {"b": 2}]


def test_a_pointer_of_git_lfs_is_named_for_what_it_is(tmp_path):
    (tmp_path / "a.jsonl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(AnnotationError, match="is a Git-LFS pointer, not the file itself"):
        LiveccLines(tmp_path / "a.jsonl")
