"""The depth transformer: Moshi's numbers, one codebook after the other as all at once, delays and losses by value."""

import functools
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from mmduplex_jax.models.depth import (
    UNGENERATED,
    ZERO,
    DepthConfig,
    DepthTransformer,
    code_weights,
    delayed_codes,
    masked_nll,
    undelayed_codes,
    weighted_mean,
)
from tests import tiny

CONFIG = DepthConfig(
    codebooks=3, card=7, text_rows=5, width=8, layers=2, heads=2, hidden=12, schedule=(0, 1, 1), low_rank=4
)
BATCH, STEPS, HIDDEN = 2, 3, 6


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((BATCH, STEPS, HIDDEN)).astype(np.float32)
    text = rng.integers(ZERO, CONFIG.text_rows, (BATCH, STEPS)).astype(np.int32)
    return hidden, text, rng.integers(ZERO, CONFIG.card + 1, (BATCH, STEPS, CONFIG.codebooks)).astype(np.int32)


def params_of(config=CONFIG):
    hidden, text, codes = inputs()
    codes = codes[..., : config.codebooks]
    return tiny.random_params(lambda key: DepthTransformer(config).init(key, hidden, text, codes)["params"])


@functools.cache
def whole(config=CONFIG):
    """The compiled model over whole clips: `(params, hidden, text, codes) -> logits`."""
    return tiny.jit(lambda params, *given: DepthTransformer(config).apply({"params": params}, *given))


@functools.cache
def one_by_one():
    """The compiled model over steps, teacher-forced: `(params, hidden, text, codes) -> (codes, logits)`."""

    def said(params, hidden, text, codes):
        choose = lambda k, logits: codes[:, k]
        return DepthTransformer(CONFIG).apply({"params": params}, hidden, text, choose, method="generate")

    return tiny.jit(said)


def test_codes_one_after_the_other_have_the_logits_of_all_at_once():
    params, (hidden, text, codes) = params_of(), inputs()
    expected = whole()(params, hidden, text, codes)
    assert expected.shape == (BATCH, STEPS, 3, 7)
    for s in range(STEPS):
        said, logits = one_by_one()(params, hidden[:, s], text[:, s], codes[:, s])
        np.testing.assert_array_equal(said, codes[:, s])
        # Batched products and single ones round differently.
        np.testing.assert_allclose(logits, expected[:, s], atol=1e-6)


def test_a_code_knows_the_text_token_and_the_codes_before_it():
    params, (hidden, text, codes) = params_of(), inputs()
    logits = lambda *given: np.asarray(whole()(params, *given))
    base = logits(hidden, text, codes)
    changed = lambda other: np.abs(other - base).max(axis=-1) > 1e-4  # [B, S, K]
    later = codes.copy()
    later[:, :, 1] = (later[:, :, 1] + 1) % 7
    assert changed(logits(hidden, text, later)).tolist() == [[[False, False, True]] * STEPS] * BATCH
    last = codes.copy()
    last[:, :, 2] = (last[:, :, 2] + 1) % 7
    np.testing.assert_array_equal(logits(hidden, text, last), base)
    said = text.copy()
    said[:, 1] = (said[:, 1] + 1) % 5  # a step knows nothing of the others
    assert changed(logits(hidden, said, codes)).tolist() == [[[False] * 3, [True] * 3, [False] * 3]] * BATCH


def test_codebooks_of_a_schedule_share_weights_and_heads_are_their_own():
    params = params_of()
    assert params["block_0"]["gate"]["kernel"].shape == (2, 8, 12)
    assert params["hidden_in"]["kernel"].shape == (2, HIDDEN, 8)
    assert params["codes"]["embedding"].shape == (2, 8, 4)  # 7 codes and what stands before the first; none of the last
    assert params["codes"]["low_rank"]["kernel"].shape == (2, 4, 8)
    assert params["heads"]["kernel"].shape == (3, 8, 7)


def test_one_codebook_is_enough():
    alone = DepthConfig(codebooks=1, card=7, text_rows=5, width=8, layers=1, heads=2, hidden=12)
    hidden, text, codes = inputs()
    params = params_of(alone)
    assert "codes" not in params
    logits = whole(alone)(params, hidden, text, codes[..., :1])
    assert logits.shape == (BATCH, STEPS, 1, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": (0, 1)}, "each of the 3 codebooks"),
        ({"schedule": (0, 2, 2)}, "without gaps"),
        ({"norm": "batch"}, "one of rms, layer, not 'batch'"),
        ({"heads": 3}, r"width \(8\) that its heads \(3\) divide"),
        ({"activation": "step"}, "depth transformer's activation is one of"),
    ],
)
def test_shapes_that_do_not_go_together_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        DepthConfig(**(vars(CONFIG) | changes))


def test_delays_move_each_codebook_and_back():
    codes = np.arange(1, 9).reshape(1, 4, 2)
    moved, back, kept, (gone, went) = tiny.jit(
        lambda codes: (
            delayed_codes(codes, (0, 2), 99),
            *undelayed_codes(delayed_codes(codes, (0, 2), 99), (0, 2), UNGENERATED),
            undelayed_codes(delayed_codes(codes, (0, 5), 99), (0, 5), ZERO),
        )
    )(codes)
    assert moved[0].tolist() == [[1, 99], [3, 99], [5, 2], [7, 4]]
    assert back[0].tolist() == [[1, 2], [3, 4], [5, UNGENERATED], [7, UNGENERATED]]
    assert kept.tolist() == [[True, True], [True, True], [True, False], [True, False]]
    assert gone[0, :, 1].tolist() == [ZERO] * 4
    assert not went[:, 1].any()
    with pytest.raises(ValueError, match="2 codebooks need a delay each"):
        delayed_codes(codes, (0, 1, 1), 99)
    with pytest.raises(ValueError, match="0 steps or more"):
        undelayed_codes(codes, (0, -1), 99)


def test_the_loss_is_the_weighted_mean_of_what_is_known():
    logits = np.log(np.array([[[0.5, 0.5], [0.25, 0.75]], [[0.1, 0.9], [np.nan, np.nan]]]))  # [S, K, C]
    target, valid = np.array([[0, 1], [1, ZERO]]), np.array([[True, True], [True, False]])

    def loss(logits, some):
        nll, weights = masked_nll(logits, target, valid), some * code_weights(valid, 100.0)
        return weighted_mean(nll, weights), (nll, weights)

    loss = tiny.jit(jax.value_and_grad(loss, has_aux=True))
    (mean, (nll, weights)), gradient = loss(logits, 1.0)
    np.testing.assert_allclose(nll, -np.log([[0.5, 0.75], [0.9, 1.0]]), rtol=1e-6)
    assert weights.tolist() == [[100, 1], [100, 0]]
    expected = -(100 * np.log(0.5) + np.log(0.75) + 100 * np.log(0.9)) / 201
    assert float(mean) == pytest.approx(expected, rel=1e-6)
    assert float(loss(logits, 0.0)[0][0]) == 0
    assert np.isfinite(gradient).all()
    assert not gradient[1, 1].any()


# Moshi's own test (kyutai-labs/moshi e6a55d2, moshi/tests/test_lm.py): a tiny model with its codes and logits.

DELAYS, WIDTH, CONTEXT, CARD, TEXT_CARD = (0, 1, 2, 4), 16, 4, 32, 48
EPSILON = 1e-5


def layer_norm(x, weights, name):
    x = x - x.mean(axis=-1, keepdims=True)
    normed = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON)
    return normed * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def sinusoids(length, width):
    """float64 [length, width]: the fixed positions of the fixture's two transformers, cosines first."""
    phase = np.arange(length)[:, None] / 10_000 ** (np.arange(width // 2) / (width // 2 - 1))
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=1)


def temporal_transformer(weights, codes):
    """Hidden states float64 [B, S, D] of the fixture's temporal transformer, of given codes `[B, S, 4]`, text first.

    Ours have rotary positions, RMSNorm and a gated MLP, and this one has none of them; so it is written out here.
    """
    tables = [weights["text_emb.weight"], *(weights[f"emb.{k}.weight"] for k in range(3))]
    x = sum(table[codes[..., k]] for k, table in enumerate(tables)) + sinusoids(codes.shape[1], WIDTH)
    age = np.arange(x.shape[1])[:, None] - np.arange(x.shape[1])
    gelu = lambda a: a * 0.5 * (1 + np.vectorize(math.erf)(a / 2**0.5))
    for i in range(2):
        layer = f"transformer.layers.{i}"
        normed = layer_norm(x, weights, f"{layer}.norm1")
        query, key, value = np.split(normed @ weights[f"{layer}.self_attn.in_proj_weight"].T, 3, axis=-1)
        logits = np.where((age >= 0) & (age < CONTEXT), query @ key.swapaxes(1, 2) / WIDTH**0.5, -np.inf)
        share = np.exp(logits - logits.max(axis=-1, keepdims=True))
        share /= share.sum(axis=-1, keepdims=True)
        x = x + share @ value @ weights[f"{layer}.self_attn.out_proj.weight"].T
        up = layer_norm(x, weights, f"{layer}.norm2") @ weights[f"{layer}.linear1.weight"].T
        x = x + gelu(up) @ weights[f"{layer}.linear2.weight"].T
    return layer_norm(x, weights, "out_norm")


def depth_params(weights):
    """The fixture's depth transformer as parameters of ours.

    It adds fixed positions to what comes in, for which ours has no place: a position is a codebook, so they go into the
    embeddings, as one more number of their low rank, which is 1 for all ids.
    """
    at = sinusoids(3, WIDTH)
    stacked = lambda name, count: np.stack([weights[f"{name}.{i}.weight"].T for i in range(count)])
    joined = lambda name, parts: np.split(weights[name].reshape(2, parts * WIDTH, WIDTH).swapaxes(1, 2), parts, axis=-1)

    def embedding(names, positions):
        rows = np.stack([weights[f"{name}.weight"] for name in names])
        ranks = np.stack([weights[f"{name}.low_rank.weight"].T for name in names])
        rows = np.concatenate([rows, np.ones((*rows.shape[:2], 1))], axis=2)
        return {"embedding": rows, "low_rank": {"kernel": np.concatenate([ranks, positions[:, None]], axis=1)}}

    params = {
        "hidden_in": {"kernel": stacked("depformer_in", 2)},
        "text": embedding(["depformer_text_emb"], at[:1]),
        "codes": embedding(["depformer_emb.0", "depformer_emb.1"], at[1:]),
        "heads": {"kernel": stacked("linears", 3)},
    }
    for i in range(2):
        layer = f"depformer.layers.{i}"
        query, key, value = joined(f"{layer}.self_attn.in_proj_weight", 3)
        (out,) = joined(f"{layer}.self_attn.out_proj.weight", 1)
        into = np.stack([weights[f"{layer}.gating.{w}.linear_in.weight"].T for w in range(2)])
        gate, up = np.split(into, 2, axis=-1)
        down = np.stack([weights[f"{layer}.gating.{w}.linear_out.weight"].T for w in range(2)])
        kernels = {"query": query, "key": key, "value": value, "out": out, "gate": gate, "up": up, "down": down}
        norm = lambda name, layer=layer: {
            "scale": weights[f"{layer}.{name}.weight"],
            "bias": weights[f"{layer}.{name}.bias"],
        }
        params[f"block_{i}"] = {name: {"kernel": kernel} for name, kernel in kernels.items()} | {
            "attention_norm": norm("norm1"),
            "mlp_norm": norm("norm2"),
        }
    return jax.tree.map(lambda a: np.asarray(a, np.float32), params)


def read(path: Path) -> dict[str, np.ndarray]:
    numpy_files = pytest.importorskip("safetensors.numpy")
    if not path.is_file():
        pytest.skip(f"no {path.name} in `shared`: this test needs Moshi's own numbers")
    return numpy_files.load_file(path)


def test_cross_entropies_are_moshis(shared_dir):
    folder = shared_dir / "fixtures" / "speech"
    weights, codes, expected = (
        read(folder / f"moshi_test_lm_{name}.safetensors") for name in ("model", "codes", "out")
    )
    codes = codes["codes"].swapaxes(1, 2).astype(np.int32)  # [B, S, 4], text first
    sound = tiny.jit(lambda codes: delayed_codes(codes, DELAYS[1:], CARD))(codes[..., 1:])
    said = np.concatenate([codes[..., :1], sound], axis=2)  # text is not delayed
    given = np.concatenate([np.broadcast_to([TEXT_CARD, CARD, CARD, CARD], said[:, :1].shape), said[:, :-1]], axis=1)
    wide = {name: weight.astype(np.float64) for name, weight in weights.items()}
    hidden = temporal_transformer(wide, given)
    config = DepthConfig(
        codebooks=3,
        card=CARD,
        text_rows=TEXT_CARD + 1,
        width=WIDTH,
        layers=2,
        heads=1,
        hidden=10,  # two thirds of the 16 that its configuration names
        schedule=(0, 1, 1),
        low_rank=9,
        norm="layer",
        norm_epsilon=EPSILON,
    )

    @tiny.jit
    def outputs(params, hidden, said, codes):
        logits = DepthTransformer(config).apply({"params": params}, hidden, said[..., 0], said[..., 1:])
        logits, kept = undelayed_codes(logits, DELAYS[1:], np.nan)
        return logits, kept, masked_nll(logits, codes, kept & (codes != ZERO))

    logits, kept, nll = outputs(depth_params(wide), hidden.astype(np.float32), said, codes[..., 1:])
    theirs = {name: array.swapaxes(1, 2) for name, array in expected.items()}
    valid = np.broadcast_to(kept, sound.shape) & (codes[..., 1:] != ZERO)
    np.testing.assert_array_equal(valid, theirs["mask"])
    np.testing.assert_array_equal(np.isnan(logits), np.isnan(theirs["logits"]))

    def cross_entropy(logits, target, valid):
        """float64 [K]: the mean of each stream, as their test takes it."""
        logits = np.where(valid[..., None], np.asarray(logits, np.float64), 0)
        total = np.log(np.exp(logits).sum(axis=-1))
        right = np.take_along_axis(logits, np.where(valid, target, 0)[..., None], axis=-1)[..., 0]
        return np.where(valid, total - right, 0).mean(axis=(0, 1))

    ours, right = (cross_entropy(some, codes[..., 1:], valid) for some in (logits, theirs["logits"]))
    np.testing.assert_allclose(ours, right, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(nll, np.float64).mean(axis=(0, 1)), right, rtol=1e-6)
    words = hidden @ wide["text_linear.weight"].T, theirs["text_logits"][:, :, 0]
    ours, right = (cross_entropy(some[:, :, None], codes[..., :1], theirs["text_mask"]) for some in words)
    np.testing.assert_allclose(ours, right, rtol=1e-6)
