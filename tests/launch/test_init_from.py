"""`config.init_from`: an imported language model, put into a model that watches, still computes what it did."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import duplex_300m, quickstart
from launch.import_weights import import_weights
from launch.init_from import InitFromError, make_start
from launch.stages import build_task, load_tokenizer
from mmduplex_jax.interop.huggingface.source import open_source
from mmduplex_jax.interop.portable import flatten
from mmduplex_jax.models.dual_stream import DualStream
from mmduplex_jax.tokenizer.bflow import Tokens
from mmduplex_jax.towers.vision import VisionConfig, VisionTower
from mmduplex_jax.train.checkpoint import read_weights
from tests.interop.huggingface import llama_family

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
    empty = Tokens(values, jnp.zeros((batch, count), bool), zeros(), zeros(), zeros(2))
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
            return m._logits(m.hidden(video, slots, delay))

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
def imported(tmp_path_factory):
    return smollm2(tmp_path_factory.mktemp("small"), SMALL)[1]


def start_with(config, told=None):
    task = build_task(config, load_tokenizer(config))
    start = make_start(config, task, load_tokenizer(config), (told if told is not None else []).append)
    return start(nn.unbox(jax.eval_shape(task.init, jax.random.key(0))))


def test_strict_names_everything_that_does_not_fit(imported):
    config = smaller(duplex_config(SMALL, rope_base=10_000.0, layers=4, heads=6, head_width=8, tied=False))
    config.init_from.text = str(imported)
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": "nowhere"}, "nowhere holds no imported weights"),
        ({"vision": "nowhere"}, "this stage has no vision tower"),
    ],
)
def test_folders_that_cannot_be_used_are_told(change, said):
    config = smaller(duplex_config(SMALL))
    config.init_from.update(change)
    with pytest.raises(InitFromError, match=said):
        start_with(config)
    config.init_from.update(text="", vision="")
    assert make_start(config, build_task(config, load_tokenizer(config)), load_tokenizer(config), print) is None


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


PLACED = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from launch.init_from import _placed
from mmduplex_jax.sharding import make_mesh

mesh = make_mesh(2, 2, 2)
old, new = np.arange(96, dtype=np.float32).reshape(12, 8), -np.arange(80, dtype=np.float32).reshape(10, 8)
for spec in (P(), P("tensor"), P(("data", "fsdp")), P("tensor", "fsdp"), P(None, ("fsdp", "tensor"))):
    sharding = NamedSharding(mesh, spec)
    for rows in (12, 10, 3, 0):
        wanted = np.concatenate([np.concatenate([new, new])[:rows], old[rows:]])
        found = _placed(jax.device_put(old, sharding), np.concatenate([new, new])[:rows])
        assert found.sharding == sharding, spec
        np.testing.assert_array_equal(np.asarray(found), wanted)
        for shard in found.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), wanted[shard.index])
scalar = _placed(jax.device_put(np.float32(1), NamedSharding(mesh, P())), np.float32(2))
assert scalar.shape == () and float(scalar) == 2
"""


def test_parameters_are_placed_as_the_mesh_has_them(repository):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PLACED]
    done = subprocess.run(command, cwd=repository, env=os.environ | flags, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


class TowerTask:
    """A stage whose model has a vision tower."""

    def __init__(self, config):
        self.config = TowerModel(config)

    def init(self, key):
        pictures = jnp.zeros((1, self.config.vision.image_px, self.config.vision.image_px, 3))
        return {"vision": VisionTower(self.config.vision).init(key, pictures)["params"]}


@dataclasses.dataclass(frozen=True)
class TowerModel:
    vision: VisionConfig


def test_a_vision_tower_is_taken_from_a_tower_or_a_pair(tmp_path):
    _, transformers = llama_family.libraries()
    side = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    settings = transformers.SiglipConfig(
        vision_config=side | dict(image_size=16, patch_size=8), text_config=side | dict(vocab_size=40)
    )
    transformers.SiglipModel(settings).save_pretrained(tmp_path / "theirs")
    source = open_source(tmp_path / "theirs")
    import_weights(source, tmp_path / "pair")
    import_weights(open_source(tmp_path / "theirs", only_vision=True), tmp_path / "tower")
    task = TowerTask(source.config.vision)
    target = nn.unbox(jax.eval_shape(task.init, jax.random.key(0)))
    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), target)
    config = duplex_config(SMALL)
    found = []
    for folder, left in (("pair", r"left: .*text \(\d+\)"), ("tower", "left: nothing")):
        config.init_from.vision, told = str(tmp_path / folder), []
        params = make_start(config, task, load_tokenizer(config), told.append)(target)(blank)
        found.append({name: np.asarray(value) for name, value in flatten(params).items()})
        assert any(re.search(rf"vision: {left}", line) for line in told)
        assert any("made anew: nothing" in line for line in told)
    imported = flatten(read_weights(tmp_path / "tower")[0])
    for name, value in imported.items():
        np.testing.assert_array_equal(found[0]["vision/" + name], value)
        np.testing.assert_array_equal(found[1]["vision/" + name], value)
    other = TowerTask(dataclasses.replace(source.config.vision, norm_epsilon=1e-5, layers=1))
    with pytest.raises(InitFromError, match=r"(?s)layers is 2, the model's is 1.*norm_epsilon is 1e-06.*has no place"):
        make_start(config, other, load_tokenizer(config), print)(
            nn.unbox(jax.eval_shape(other.init, jax.random.key(0)))
        )
