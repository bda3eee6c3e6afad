"""`config.init_from.text`: a language model, put into a model that watches, still computes what it did."""

import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import clip_quickstart, duplex_300m, quickstart
from mmduplex_jax.models.dual_stream import DualStream
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.tokenizer.bflow import Tokens
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.checkpoint import read_weights
from mmduplex_jax.weights.huggingface.source import open_source
from mmduplex_jax.weights.importing import import_weights
from mmduplex_jax.weights.init_from import InitFromError, make_start
from mmduplex_jax.weights.portable import flatten
from mmduplex_jax.weights.trained import load_tokenizer
from tests.launch import imported
from tests.launch.conftest import small_config
from tests.launch.test_init_from import started
from tests.weights.huggingface import llama_family

SMOLLM2_360M = dict(
    hidden_size=960,
    num_hidden_layers=32,
    num_attention_heads=15,
    num_key_value_heads=5,
    intermediate_size=2560,
    vocab_size=49152,
)
SMALL = dict(
    hidden_size=48,
    num_hidden_layers=8,
    num_attention_heads=3,
    num_key_value_heads=1,
    intermediate_size=64,
    vocab_size=200,
)


def duplex_config(shape, **text):
    """`duplex_300m` with a language model of `shape`; float32, as equal numbers are asked for."""
    config = duplex_300m.get_config()
    config.text.update(
        width=shape["hidden_size"],
        layers=shape["num_hidden_layers"],
        heads=shape["num_attention_heads"],
        kv_heads=shape["num_key_value_heads"],
        head_width=shape["hidden_size"] // shape["num_attention_heads"],
        hidden=shape["intermediate_size"],
        dtype="float32",
    )
    config.text.update(text)
    config.vocab_rows_min = shape["vocab_size"] + 3
    return config


def smaller(config):
    """The same with a tokenizer and a video stream that take no time."""
    small = quickstart.get_config()
    config.frame_px = small.frame_px
    config.tokenizer = small.tokenizer
    config.video_stream.update(width=32, layers=2, heads=2, kv_heads=1, head_width=16, hidden=32, dtype="float32")
    config.data.clip_s = 1.28
    return config


def smollm2(folder, shape, noise=0.05):
    """A random model of the shape, saved by transformers, and imported."""
    model = llama_family.random_model(
        model_type="llama", tie_word_embeddings=True, rms_norm_eps=1e-5, rope_theta=100_000.0, noise=noise, **shape
    )
    llama_family.save(model, folder / "theirs")
    import_weights(open_source(folder / "theirs"), folder / "weights")
    return model, folder / "weights"


def begun(config, task, log):
    """Random parameters, then what `init_from` makes of them."""
    start = make_start(config, task, load_tokenizer(config), log)
    boxed = jax.eval_shape(task.init, jax.random.key(0))
    replace = start(nn.unbox(boxed))
    rng = np.random.default_rng(1)
    # The gates stay as the config starts them; the rest is noise, so that nothing else could hide what is missing.
    draw = lambda path, leaf: jnp.asarray(
        np.full(leaf.shape, config.text.cross_gate, np.float32)
        if path[-1].key == "gate"
        else 0.05 * rng.standard_normal(leaf.shape, dtype=np.float32)
    )
    return replace(jax.tree_util.tree_map_with_path(draw, nn.unbox(boxed)))


def no_tokens(model, batch):
    """What the tokenizer gives where there is no video; and, filled with noise, where there is some."""
    c, count = model.tokenizer, 6
    rng = np.random.default_rng(2)
    zeros = lambda *shape: jnp.zeros((batch, count, *shape), jnp.int32)
    values = jnp.asarray(rng.standard_normal((batch, count, c.width)), jnp.dtype(c.dtype))
    empty = Tokens(values, jnp.zeros((batch, count), bool), zeros(), zeros(), zeros(2), zeros())
    return empty, empty._replace(valid=jnp.ones((batch, count), bool))


def same_next_token_logits(config, task, params, model, tokens):
    """Largest difference of logits with and without video, while the gates are closed."""
    torch, _ = llama_family.libraries()
    with torch.no_grad():
        wanted = model(torch.tensor(tokens).long()).logits.numpy()
    module = DualStream(task.config)

    @jax.jit
    def logits(params, video, slots, delay):
        def both(m):
            return m.language.logits(m.hidden(video, slots, delay))

        return module.apply({"params": params}, method=both)

    worst = 0.0
    for video in no_tokens(task.config, len(tokens)):
        for delay in (config.delay.min, config.delay.max):
            found = logits(params, video, tokens, np.full(len(tokens), delay, np.int32))
            rows = min(found.shape[-1], wanted.shape[-1])
            worst = max(worst, float(np.abs(np.asarray(found)[..., :rows] - wanted[..., :rows]).max()))
    return worst


@pytest.mark.parametrize("scan", [True, False])
def test_a_small_language_model_still_computes_what_it_did(scan, tmp_path, record_property):
    model, weights = smollm2(tmp_path, SMALL)
    config = smaller(duplex_config(SMALL, scan=scan, remat=scan))
    config.init_from.text = str(weights)
    task, told = build_task(config, load_tokenizer(config)), []
    params = begun(config, task, told.append)
    tokens = np.random.default_rng(0).integers(0, SMALL["vocab_size"], (2, 24)).astype(np.int32)
    difference = same_next_token_logits(config, task, params, model, tokens)
    record_property("max_abs_diff", difference)
    assert difference <= 1e-5  # sums in another order; the promise is 1e-4

    imported = flatten(read_weights(weights)[0])
    np.testing.assert_array_equal(np.asarray(params["embedding"])[:200], imported["embedding"])
    assert np.asarray(params["embedding"])[200:].any()  # rows of our marks are made
    lines = "\n".join(told)
    layers = "text/groups/block_*" if scan else "text/group_*/block_*"
    assert re.search(rf"text: taken from {weights}: embedding \(1\), .*{re.escape(layers)}/attention", lines)
    assert "text: made zero, so that it computes what it did: delays" in lines
    assert "text: left: nothing" in lines
    assert re.search(rf"made anew: .*{re.escape(layers)}/cross \(\d+\).*tokenizer \(\d+\), video \(\d+\)", lines)


@pytest.mark.slow
def test_duplex_300m_reproduces_a_model_of_smollm2_360ms_shape(tmp_path, record_property):
    model, weights = smollm2(tmp_path, SMOLLM2_360M, noise=0.0)
    config = smaller(duplex_config(SMOLLM2_360M))
    wanted = duplex_300m.get_config().text
    wanted.dtype = "float32"
    assert config.text == wanted  # the shape is the config's own
    assert config.vocab_rows_min == duplex_300m.get_config().vocab_rows_min
    config.init_from.text = str(weights)
    task = build_task(config, load_tokenizer(config))
    params = begun(config, task, print)
    tokens = np.random.default_rng(0).integers(0, SMOLLM2_360M["vocab_size"], (1, 32)).astype(np.int32)
    difference = same_next_token_logits(config, task, params, model, tokens)
    record_property("max_abs_diff", difference)
    assert difference <= 1e-4


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return smollm2(tmp_path_factory.mktemp("small"), SMALL)[1]


def start_with(config, told=None):
    task = build_task(config, load_tokenizer(config))
    start = make_start(config, task, load_tokenizer(config), (told if told is not None else []).append)
    return start(nn.unbox(jax.eval_shape(task.init, jax.random.key(0))))


def test_strict_names_everything_that_does_not_fit(small):
    config = smaller(duplex_config(SMALL, rope_base=10_000.0, layers=4, heads=6, head_width=8, tied=False))
    config.init_from.text = str(small)
    with pytest.raises(InitFromError) as error:
        start_with(config)
    said = str(error.value)
    for line in (
        "rope_base is 100000.0, the model's is 10000.0: set config.text.rope_base=100000.0",
        "layers is 8, the model's is 4",
        "heads is 3, the model's is 6",
        "its head is 'tied', the model's 'own': set config.text.tied accordingly",
        "it lacks what head is made of",
        "the model has no place for its text/group_7/block_0/mlp/down/kernel",
        "its text/group_0/block_0/attention/key/kernel is [16, 48], text/groups/block_0/attention/key/kernel needs",
        "--config.init_from.strict=False",
    ):
        assert line in said
    config.init_from.strict = False
    told: list[str] = []
    start_with(config, told)
    lines = "\n".join(told)
    assert "text: rope_base is 100000.0" in lines
    assert re.search(r"text: taken from .*: embedding \(1\), .*mlp", lines)
    assert re.search(r"text: left: .*text/group_\*", lines)


def test_an_open_gate_and_another_tokenizer_are_told(tmp_path):
    _, weights = smollm2(tmp_path, SMALL)
    vocabulary = {f"w{i}": i for i in range(200)}
    (tmp_path / "theirs" / "tokenizer.json").write_text(json.dumps(word_level(vocabulary)))
    import_weights(open_source(tmp_path / "theirs"), tmp_path / "speaking")
    config = smaller(duplex_config(SMALL, cross_gate=0.5))
    config.init_from.text = str(weights)
    told: list[str] = []
    start_with(config, told)
    assert any("config.text.cross_gate is 0.5" in line for line in told)
    assert any("no tokenizer came with it" in line for line in told)
    config.init_from.text = str(tmp_path / "speaking")
    with pytest.raises(InitFromError, match=f"set config.text_tokenizer={tmp_path / 'speaking'}"):
        start_with(config)
    config.text_tokenizer = str(tmp_path / "speaking")
    start_with(config)
    tokenizer = load_tokenizer(config)
    assert tokenizer.encode_word("w17") == [17]
    assert (tokenizer.pad_id, tokenizer.word_id, tokenizer.start_id) == (200, 201, 202)  # no id has moved
    config.text_tokenizer = str(weights)
    with pytest.raises(FileNotFoundError, match="came without a tokenizer.json"):
        load_tokenizer(config)


def word_level(vocabulary):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    }


def language_of_small_config(**changes):
    """The language model of `small_config()`, as one of the Llama family."""
    text = small_config().text
    shape = dict(width=text.width, layers=text.layers, heads=text.heads, kv_heads=text.kv_heads, hidden=text.hidden)
    return imported.llama(**(dict(vocab_size=67, head_width=text.head_width) | shape | changes))


def test_a_language_model_of_its_own_directory_without_pytorch(tmp_path):
    config = small_config()
    language = language_of_small_config(head="own")
    config.init_from.text = str(imported.import_language(language, tmp_path))
    with pytest.raises(InitFromError, match="its head is 'own', the model's 'tied': set config.text.tied accordingly"):
        started(config)
    config.text.tied = False
    params, _ = started(config)
    arrays = imported.random_arrays(language)
    for name in ("embedding", "head"):
        np.testing.assert_array_equal(params[name][:67], arrays[name])
        np.testing.assert_allclose(
            params[name][67:], np.broadcast_to(7 + arrays[name].mean(axis=0), (61, 64)), rtol=1e-6
        )
    for name, value in arrays.items():
        if name.startswith("text/"):
            np.testing.assert_array_equal(params[name], value)


def test_imported_rows_are_never_cut(tmp_path):
    config = small_config()
    language = language_of_small_config(vocab_size=130)
    config.init_from.text = str(imported.import_language(language, tmp_path))
    with pytest.raises(InitFromError, match=r"its embedding is \[130, 64\], embedding needs \[128, 64\]"):
        started(config)


@pytest.mark.parametrize("rows", [68, 200, 500])
def test_a_duplex_s_language_model_is_taken_without_its_eyes(rows, portable_dir, untrained):
    config = small_config()
    config.vocab_rows_min = rows  # another padding of the same ids
    config.text.scan = True
    config.text.cross_every = 2
    config.init_from.text = str(portable_dir)
    params, told = started(config)
    before = flatten(untrained[2])
    ids = min(128, params["embedding"].shape[0])
    np.testing.assert_array_equal(params["embedding"][:ids], before["embedding"][:ids])
    around = before["embedding"][:ids].mean(axis=0)
    made = params["embedding"][ids:]
    np.testing.assert_allclose(made, 7 + np.tile(around, (len(made), 1)), rtol=1e-6)
    kernels = [before[f"text/group_{layer}/block_0/mlp/up/kernel"] for layer in range(2)]
    for block, kernel in enumerate(kernels):
        np.testing.assert_array_equal(params[f"text/groups/block_{block}/mlp/up/kernel"][0], kernel)
    assert (params["text/groups/block_0/cross/query/kernel"] == 7).all()
    assert not params["delays"].any()
    assert any("text: left: " in line and "text/group_*/block_*/cross" in line for line in told)


def test_a_larger_padded_table_gives_the_rows_that_have_ids(tmp_path, untrained):
    config, tokenizer, params = untrained
    large = config.copy_and_resolve_references()
    large.vocab_rows_min = 200
    arrays = params | {"embedding": np.arange(256 * 64, dtype=np.float32).reshape(256, 64) / 256}
    told_of = dict(tokenizer=json.loads(tokenizer.to_json()), steps=1, data={}, scores={})
    portable.save(tmp_path, arrays, {"config": json.loads(large.to_json_best_effort()), **told_of}, dtype="float32")
    begun = small_config()
    begun.init_from.text = str(tmp_path)
    found, _ = started(begun)
    np.testing.assert_array_equal(found["embedding"], arrays["embedding"][:128])


def test_stages_and_folders_without_a_language_model_are_told(tmp_path, portable_dir):
    pair = clip_quickstart.get_config()
    pair.init_from.text = str(portable_dir)
    with pytest.raises(InitFromError, match="config.init_from.text: this stage has no language model"):
        started(pair)
    config = small_config()
    config.init_from.text = str(imported.import_tower(imported.siglip(), tmp_path))
    with pytest.raises(InitFromError, match="is of kind 'vision', wanted is 'text'"):
        started(config)


def test_a_training_that_speaks_otherwise_is_told(tmp_path, portable_dir):
    (tmp_path / "tokenizer.json").write_text(json.dumps(word_level({f"w{i}": i for i in range(60)})))
    config = small_config()
    config.text_tokenizer = str(tmp_path / "tokenizer.json")
    config.init_from.text = str(portable_dir)
    with pytest.raises(InitFromError, match="speaks another tokenizer than the run: set config.text_tokenizer=world"):
        started(config)


def test_a_run_may_have_sentence_ends_where_what_it_begins_with_has_none(portable_dir):
    """The mark is the last id: no row of the embedding moves for it."""
    config = small_config()
    config.init_from.text = str(portable_dir)
    config.sentence_ends = True
    words = load_tokenizer(config)
    assert words.end_id == words.vocab_size - 1
    found, _ = started(config)
    np.testing.assert_array_equal(found["embedding"], flatten(portable.load(portable_dir)[0])["embedding"])
