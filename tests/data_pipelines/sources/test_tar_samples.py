"""Tars: samples in one pass, where their bytes are, and that no break goes unseen."""

import functools
import http.server
import io
import threading

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.sources.pevideo import TarError, find_tars, fingerprint, headers_of, samples_of
from tests.data_pipelines.sources.tars import write_tar

PAIRS = [("a/1.mp4", b"m" * 700), ("a/1.json", b"{}"), ("a/2.json", b"[]"), ("a/2.mp4", b"n" * 1025)]


def read(path):
    """What the samples of a tar are, and the error at the end."""
    samples = []
    try:
        with open(path, "rb") as file:
            for sample in samples_of(file, path.name):
                samples.append((sample.key, {suffix: member.data for suffix, member in sample.members.items()}))
    except TarError as error:
        return samples, str(error)
    return samples, None


def test_neighbours_of_one_name_are_a_sample_in_either_order(tmp_path):
    samples, error = read(
        write_tar(tmp_path / "t.tar", [("a/", b""), *PAIRS, ("3.txt", b"x"), ("b.c/4.seg.mp4", b"y")])
    )
    assert error is None
    assert samples == [
        ("a/1", {"mp4": b"m" * 700, "json": b"{}"}),
        ("a/2", {"json": b"[]", "mp4": b"n" * 1025}),
        ("3", {"txt": b"x"}),
        ("b.c/4.seg", {"mp4": b"y"}),
    ]


def test_a_name_that_comes_again_is_another_sample(tmp_path):
    samples, _ = read(
        write_tar(tmp_path / "t.tar", [("1.mp4", b"a"), ("1.mp4", b"b"), ("2.mp4", b""), ("1.json", b"c")])
    )
    assert samples == [("1", {"mp4": b"a"}), ("1", {"mp4": b"b"}), ("2", {"mp4": b""}), ("1", {"json": b"c"})]


@given(st.lists(st.tuples(st.integers(1, 99), st.binary(max_size=1500)), max_size=8))
def test_the_byte_range_is_where_the_bytes_are(tmp_path_factory, contents):
    # Long names need headers of their own, which move what follows.
    members = [(f"{'d' * (number * 3)}/{index}.mp4", data) for index, (number, data) in enumerate(contents)]
    path = write_tar(tmp_path_factory.mktemp("tar") / "t.tar", members)
    whole = path.read_bytes()
    for reader in (samples_of, headers_of):
        with open(path, "rb") as file:
            found = [sample.members["mp4"] for sample in reader(file, "t")]
        assert [whole[one.byte_offset : one.byte_offset + one.byte_length] for one in found] == [d for _, d in members]


def test_headers_alone_leave_the_bytes_where_they_are(tmp_path):
    class Counting(io.FileIO):
        read_bytes = 0

        def read(self, size=-1):
            data = super().read(size)
            Counting.read_bytes += len(data)
            return data

    path = write_tar(tmp_path / "t.tar", [(f"{number}.mp4", bytes(1_000_000)) for number in range(5)])
    with Counting(path) as file:
        sizes = [sample.members["mp4"].byte_length for sample in headers_of(file, "t")]
    assert sizes == [1_000_000] * 5
    assert Counting.read_bytes < 10_000


@pytest.mark.parametrize("cut", [100, 512, 700, 1024, 1100, 1536, 2048, 2100, 2560, 3000, 4608, 5120])
def test_every_cut_is_seen_and_what_was_whole_stands(tmp_path, cut):
    path = write_tar(tmp_path / "t.tar", PAIRS)
    path.write_bytes(path.read_bytes()[:cut])
    samples, error = read(path)
    # A header has 512 bytes and bytes are filled up to 512: 1.mp4 ends at 1536, 1.json at 2560, 2.json at 3584, and
    # 2.mp4 at 5632. The bytes of 1.json (2) are whole at 2050 already.
    whole = [name for name, end in (("a/1.mp4", 1212), ("a/1.json", 2050), ("a/2.json", 3074)) if cut >= end]
    assert [f"{key}.{suffix}" for key, members in samples for suffix in members] == whole
    assert error is not None
    assert error.startswith(f"t.tar: after '{whole[-1]}'" if whole else "t.tar: ")


def test_a_tar_without_its_end_mark_is_seen(tmp_path):
    path = write_tar(tmp_path / "t.tar", PAIRS)
    path.write_bytes(path.read_bytes()[:5632])
    samples, error = read(path)
    assert [key for key, _ in samples] == ["a/1", "a/2"]
    assert "no mark at its end" in error


@pytest.mark.parametrize("at", [1536 + 5, 2560 + 150])
def test_a_broken_header_in_the_middle_is_no_end(tmp_path, at):
    path = write_tar(tmp_path / "t.tar", PAIRS)
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    samples, error = read(path)
    assert samples[0][0] == "a/1"
    assert len(samples) == 1
    assert "a header is broken" in error


def test_what_is_no_tar_is_named(tmp_path):
    (tmp_path / "t.tar").write_bytes(b"no tar at all" * 100)
    assert read(tmp_path / "t.tar") == ([], "t.tar: a header is broken: invalid header")


def test_tars_are_found_by_pattern_in_the_order_of_their_names(tmp_path):
    for name in ("train/2.tar", "train/10.tar", "test/1.tar", "train/notes.txt"):
        write_tar(tmp_path / name, PAIRS)
    tars = find_tars(str(tmp_path), ["train/*.tar", "test/1.tar"])
    assert [tar.name for tar in tars] == ["test/1.tar", "train/10.tar", "train/2.tar"]
    assert all(tar.is_local and tar.size_bytes == (tmp_path / tar.name).stat().st_size for tar in tars)
    before = fingerprint(tars)
    (tmp_path / "train" / "2.tar").write_bytes(b"")
    assert fingerprint(find_tars(str(tmp_path), ["train/*.tar", "test/1.tar"])) != before
    assert before["tars"] == 3


@pytest.mark.parametrize(("root", "pattern"), [(None, "*.tar"), (None, "gone.tar"), ("nosuch://x", "*.tar")])
def test_what_finds_nothing_says_so(tmp_path, root, pattern):
    with pytest.raises(ValueError, match="no tar .* under .*config.shards|cannot be opened.*nosuch"):
        find_tars(root or str(tmp_path), [pattern])


def test_tars_in_memory_are_read(tmp_path):
    data = write_tar(tmp_path / "t.tar", PAIRS).read_bytes()
    fsspec.filesystem("memory").pipe("/tars-of-a-test/train/0.tar", data)
    (tar,) = find_tars("memory://tars-of-a-test", ["train/*.tar"])
    assert (tar.name, tar.size_bytes, tar.is_local) == ("train/0.tar", len(data), False)
    with tar.open() as file:
        assert [sample.key for sample in samples_of(file, tar.name)] == ["a/1", "a/2"]


def test_tars_of_a_web_server_are_read(tmp_path):
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp (the extra `live`)")
    data = write_tar(tmp_path / "train" / "0.tar", PAIRS).read_bytes()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        root = f"http://127.0.0.1:{server.server_port}"
        (tar,) = find_tars(root, ["train/*.tar"])
        assert (tar.name, tar.size_bytes) == ("train/0.tar", len(data))
        with tar.open() as file:
            assert [sample.members["mp4"].byte_length for sample in samples_of(file, tar.name)] == [700, 1025]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("names", "samples"),
    [
        (["v.1.json", "v.1.mp4", "v.2.mp4", "v.2.json"], {"v.1": ["json", "mp4"], "v.2": ["mp4", "json"]}),
        (["v.1.json", "v.1.mp4", "v.json", "v.mp4"], {"v.1": ["json", "mp4"], "v": ["json", "mp4"]}),
        (["a.json", "a.meta.json", "a.mp4", "a.thumb.jpg"], {"a": ["json", "meta.json", "mp4", "thumb.jpg"]}),
        (["a.b.thumb.jpg", "a.b.mp4", "a.b.json"], {"a.b": ["thumb.jpg", "mp4", "json"]}),
        (["d.e/a.mp4", "d.e/a.json"], {"d.e/a": ["mp4", "json"]}),
    ],
)
def test_names_may_hold_dots(tmp_path, names, samples):
    found, error = read(write_tar(tmp_path / "t.tar", [(name, b"x") for name in names]))
    assert error is None
    assert {key: list(members) for key, members in found} == samples


def test_a_pointer_of_git_lfs_is_named_for_what_it_is(tmp_path):
    (tmp_path / "t.tar").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    (tar,) = find_tars(str(tmp_path), ["t.tar"])
    with pytest.raises(TarError, match="t.tar: is a Git-LFS pointer, not the file itself"):
        tar.open()
