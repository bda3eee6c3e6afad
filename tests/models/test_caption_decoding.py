"""Decoding against what can be counted out: every caption of a tiny vocabulary, and a beam in plain Python."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.stages.vlm.captioner import Decoding, Written, decode, nucleus

VOCAB, END, LENGTH = 4, 3, 4
WORDS = range(VOCAB - 1)
ALL = np.ones(VOCAB, bool)


def world(seed: int, rows: int = 5, sharp: float = 1.5):
    """A model whose next token hangs on the last two: logits [rows, V + 1, V + 1, V]; V stands for no token yet."""
    return np.random.default_rng(seed).normal(0, sharp, (rows, VOCAB + 1, VOCAB + 1, VOCAB)).astype(np.float32)


@pytest.fixture(scope="module")
def run():
    """The compiled `decode` over tables as of `world`: `(tables, decoding, allowed, keys) -> Written`."""

    def write(memory, token):
        table, before, last = memory
        return (table, last, token), table[jnp.arange(len(token)), last, token]

    def gather_cache(memory, rows):
        return jax.tree.map(lambda a: a[rows], memory)

    def go(decoding, tables, allowed, keys):
        nothing = jnp.full(len(tables), VOCAB)
        memory = (tables, nothing, nothing)
        return decode(
            decoding,
            write,
            gather_cache,
            memory,
            tables[:, VOCAB, VOCAB],
            allowed=allowed,
            end_id=END,
            length=LENGTH,
            keys=keys,
        )

    compiled = jax.jit(go, static_argnums=0)

    def called(tables, decoding, allowed=ALL, seed=0) -> Written:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(len(tables)))
        return jax.tree.map(np.asarray, compiled(decoding, tables, allowed, keys))

    return called


def log_probs(table, before, last):
    logits = table[before, last].astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


def log_prob(table, caption) -> float:
    """Of a caption by its definition: the product of its tokens' probabilities."""
    given = [VOCAB, VOCAB, *caption]
    return sum(log_probs(table, given[i], given[i + 1])[token] for i, token in enumerate(caption))


def every_caption():
    for words in range(LENGTH):
        for said in itertools.product(WORDS, repeat=words):
            yield (*said, END)


def caption_of(written: Written, row: int) -> tuple[int, ...]:
    return tuple(written.ids[row, : written.length[row]].tolist())


def plain_beam(table, width, penalty):
    """The same search with lists: [(caption, log-probability)], finished ones keep their places."""
    beam = [((), 0.0)]
    while not all(caption and caption[-1] == END for caption, _ in beam):
        found = []
        for caption, value in beam:
            if caption and caption[-1] == END:
                found.append((caption, value))
                continue
            given = [VOCAB, VOCAB, *caption]
            nexts = (END,) if len(caption) == LENGTH - 1 else range(VOCAB)
            found += [((*caption, t), value + log_probs(table, given[-2], given[-1])[t]) for t in nexts]
        beam = sorted(found, key=lambda item: -item[1] / len(item[0]) ** penalty)[:width]
    return max(beam, key=lambda item: item[1] / len(item[0]) ** penalty)


@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0])
def test_a_beam_as_wide_as_the_world_finds_the_best_of_all_captions(run, penalty):
    tables = world(1)
    captions = list(every_caption())
    assert len(captions) == 1 + 3 + 9 + 27
    written = run(tables, Decoding("beam", width=len(captions), length_penalty=penalty))
    for row, table in enumerate(tables):
        best = max(captions, key=lambda caption: log_prob(table, caption) / len(caption) ** penalty)
        assert caption_of(written, row) == best
        assert written.log_prob[row] == pytest.approx(log_prob(table, best), abs=1e-5)  # float32 sums
    assert len(set(written.length.tolist())) > 1


@pytest.mark.parametrize(("width", "penalty"), [(2, 0.0), (2, 1.0), (3, 0.5)])
def test_a_narrow_beam_is_what_it_is_in_plain_python(run, width, penalty):
    tables = np.concatenate([world(seed) for seed in range(2, 10)])
    written = run(tables, Decoding("beam", width=width, length_penalty=penalty))
    wanted = [plain_beam(table, width, penalty) for table in tables]
    assert [caption_of(written, row) for row in range(len(tables))] == [caption for caption, _ in wanted]
    np.testing.assert_allclose(written.log_prob, [value for _, value in wanted], atol=1e-5)
    greedy = run(tables, Decoding())
    assert any(caption_of(written, row) != caption_of(greedy, row) for row in range(len(tables)))


@pytest.mark.parametrize("penalty", [0.0, 1.5])
def test_a_beam_of_one_is_greedy(run, penalty):
    tables = np.concatenate([world(seed) for seed in range(2, 10)])
    greedy = run(tables, Decoding())
    beam = run(tables, Decoding("beam", width=1, length_penalty=penalty))
    np.testing.assert_array_equal(greedy.ids, beam.ids)
    np.testing.assert_array_equal(greedy.length, beam.length)
    np.testing.assert_allclose(greedy.log_prob, beam.log_prob, atol=1e-6)


def test_greedy_takes_the_likeliest_and_ends_in_time(run):
    tables = np.concatenate([world(seed) for seed in range(2, 10)])
    written = run(tables, Decoding())
    for row, table in enumerate(tables):
        said: list[int] = []
        while len(said) < LENGTH - 1 and (not said or said[-1] != END):
            given = [VOCAB, VOCAB, *said]
            said.append(int(log_probs(table, given[-2], given[-1]).argmax()))
        said += [] if said[-1] == END else [END]
        assert caption_of(written, row) == tuple(said)
        assert written.log_prob[row] == pytest.approx(log_prob(table, said), abs=1e-5)
        assert (written.ids[row, written.length[row] - 1 :] == END).all()
    assert {len(caption_of(written, row)) for row in range(len(tables))} >= {2, 4}


@pytest.mark.parametrize("decoding", [Decoding(), Decoding("sample"), Decoding("beam", width=3)])
def test_what_is_not_allowed_is_not_said(run, decoding):
    tables = world(3, rows=40)
    tables[..., 1] += 4
    assert (run(tables, decoding).ids == 1).any()
    written = run(tables, decoding, allowed=np.array([True, False, True, False]))
    assert not (written.ids == 1).any()
    assert (written.ids[:, -1] == END).all()


def test_samples_come_as_often_as_the_model_says(run):
    table = world(5, rows=1, sharp=0.7)
    written = run(np.repeat(table, 20_000, axis=0), Decoding("sample"))
    captions, counts = np.unique(written.ids, axis=0, return_counts=True)
    found = {tuple(ids.tolist()): count / 20_000 for ids, count in zip(captions, counts)}
    for caption in every_caption():
        wanted = math.exp(log_prob(table[0], caption))
        if len(caption) == LENGTH:  # its end came because there was no more room
            wanted = math.exp(log_prob(table[0], caption[:-1]))
        spread = math.sqrt(wanted * (1 - wanted) / 20_000)
        padded = (*caption, *[END] * (LENGTH - len(caption)))
        assert abs(found.get(padded, 0) - wanted) < 4.5 * spread + 1e-6, caption


def test_a_sample_is_a_row_s_own(run):
    tables = world(6, rows=9)
    one, same, other = (run(tables, Decoding("sample", 1.3), seed=seed).ids for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    np.testing.assert_array_equal(run(tables[:4], Decoding("sample", 1.3)).ids, one[:4])
    cold = run(tables, Decoding("sample", temperature=1e-4))
    np.testing.assert_array_equal(cold.ids, run(tables, Decoding()).ids)


def test_the_nucleus_is_the_fewest_likeliest():
    logits = jnp.log(jnp.array([[0.5, 0.1, 0.3, 0.1], [0.05, 0.05, 0.1, 0.8]]))
    kept = lambda p: np.exp(nucleus(logits, p))
    np.testing.assert_allclose(kept(0.6), [[0.625, 0, 0.375, 0], [0, 0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(kept(0.4), [[1, 0, 0, 0], [0, 0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(kept(0.85)[0], [0.5, 0.1, 0.3, 0.1], atol=1e-6)  # of equals all or none
    np.testing.assert_allclose(kept(1.0), np.exp(logits), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(how="best"), "greedy, sample, beam, not 'best'"),
        (dict(temperature=0.0), "temperature must be over 0"),
        (dict(top_p=0.0), "top_p must be over 0 and at most 1"),
        (dict(top_p=1.2), "top_p must be over 0 and at most 1"),
        (dict(width=0), "a width of at least 1"),
        (dict(length_penalty=-1.0), "length_penalty must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Decoding(**changes)
