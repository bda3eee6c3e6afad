"""`configs/duplex_clip_llm.py` from directories of others: first what is new is trained, then text, then the tower."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import duplex_300m, duplex_clip_llm, quickstart
from launch.train import train
from mmduplex_jax.models.language import LanguageModel
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.towers.vision import VisionTower
from mmduplex_jax.train.optimizer import make_groups
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.weights.checkpoint import load_params, read_weights
from mmduplex_jax.weights.huggingface.source import open_source
from mmduplex_jax.weights.importing import import_weights
from mmduplex_jax.weights.init_from import InitFromError
from mmduplex_jax.weights.portable import flatten, unflatten
from mmduplex_jax.weights.trained import load_tokenizer
from tests import tiny
from tests.launch import imported
from tests.launch.test_init_from import started
from tests.launch.test_init_from_text import no_tokens
from tests.launch.test_train import CLIP_S, shards  # noqa: F401  (a fixture)
from tests.weights.huggingface import llama_family

TOWER, TEXT = "tokenizer/anchors/tower/", re.compile(r"text/(?!.*/cross)")
LANGUAGE = dict(width=32, layers=2, heads=2, kv_heads=1, head_width=16, hidden=48, rope_base=100_000.0)


def small_config(tower=None, language=LANGUAGE):
    """The config with everything but its groups made small; `tower` is a `VisionConfig`."""
    config = duplex_clip_llm.get_config("clip" if tower and tower.pool == "class" else "siglip")
    small = quickstart.get_config()
    config.frame_px = small.frame_px
    shape = config.tokenizer.anchor.tower
    kept = config.tokenizer.anchor
    config.tokenizer = small.tokenizer
    config.tokenizer.anchor = kept
    config.tokenizer.anchor.tokens = 4
    for name in ("patch_px", "width", "layers", "heads", "hidden"):
        shape[name] = getattr(tower or imported.siglip(), name)
    if "projection" in shape:
        shape.projection = 20
    shape.dtype = "float32"
    config.video_stream.update(width=32, layers=1, heads=2, kv_heads=1, head_width=16, hidden=32, dtype="float32")
    config.text.update(dtype="float32", cross_every=2, **language)
    config.vocab_rows_min = 0
    config.data.update(clip_s=CLIP_S, batch_size=4, workers=0)
    return config


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of an imported tower and of an imported language model that comes with its tokenizer."""
    tokenizer = load_tokenizer(quickstart.get_config())
    language = imported.llama(tokenizer.base_vocab_size, **LANGUAGE)
    return (
        imported.import_tower(imported.siglip(), tmp_path_factory.mktemp("tower")),
        imported.import_language(language, tmp_path_factory.mktemp("language"), tokenizer.to_json()),
    )


def begins_with(config, parts):
    config.init_from.vision, config.init_from.text = map(str, parts)
    config.text_tokenizer = str(parts[1])
    return config


def one_token_a_tick(config):
    config.tokenizer.kind = "per_frame"
    config.tokenizer.anchor.readout = "pooled"
    return config


@pytest.mark.parametrize("tower", ["siglip", "clip"])
def test_the_shapes_are_the_published_ones(tower):
    config = duplex_clip_llm.get_config(tower)
    boxed = abstract_params(build_task(config, load_tokenizer(config)))
    shapes = flatten(nn.unbox(boxed))
    seen = {name: leaf for name, leaf in shapes.items() if name.startswith(TOWER)}
    # ViT-B/16 without its head: 12 layers of 7.09 M, patches, positions.
    assert sum(leaf.size for leaf in seen.values()) == pytest.approx(85.8e6, rel=0.005)
    assert config.text == duplex_300m.get_config().text
    groups = make_groups(config.train, boxed)
    of = {name: group.name for name, group in groups.of.items()}
    for name, group in of.items():
        wanted = "tower" if name in seen else "text" if TEXT.match(name) else "rest"
        assert group == ("embedding" if name == "embedding" else wanted), name
    assert {of[name] for name in of if name.startswith("text/") and "/cross" in name} == {"rest"}
    starts = {group.name: group.start_step for group in groups.groups}
    assert starts["embedding"] < starts["text"] < starts["tower"] < config.train.steps


def test_first_what_is_new_then_text_then_the_tower(parts, shards, tmp_path):  # noqa: F811
    config = one_token_a_tick(begins_with(small_config(), parts))
    config.text.update(scan=False, remat=False, cross_every=1)  # layers by the names that they were imported under
    config.video_stream.update(scan=False, remat=False)
    config.tokenizer.anchor.tower.remat = False
    config.data.dirs = str(shards)
    config.train.update(steps=6, warmup_steps=0, log_every=1, checkpoint_every=2, keep=9)
    config.train.groups.text.start_step = 2
    config.train.groups.tower.start_step = 4
    told: list[str] = []
    assert train(config, tmp_path, told.append) == 0
    at = {step: flatten(load_params(tmp_path / "checkpoints" / str(step))[0]) for step in (2, 4, 6)}
    begun = {TOWER + name: value for name, value in flatten(read_weights(parts[0])[0]).items()}
    begun |= {name: value for name, value in flatten(read_weights(parts[1])[0]).items() if name != "embedding"}
    assert sum(name.startswith("text/") for name in begun) > 10

    def changed(name, step):
        return np.asarray(at[step][name]).tobytes() != np.asarray(begun[name]).tobytes()

    for name in begun:
        start_step = 4 if name.startswith(TOWER) else 2
        assert not changed(name, start_step), name
        # A bias of all keys shifts the logits of a softmax together: it has no gradient.
        assert changed(name, start_step + 2) or name.endswith("key/bias"), name
    new = [name for name in at[2] if name not in begun]
    assert {"embedding", "projector/kernel", "tokenizer/anchors/out/kernel"} <= set(new)
    gates = [name for name in new if name.endswith("cross/gate")]
    assert gates
    for name in (*gates, "embedding"):
        assert (np.asarray(at[2][name]) != np.asarray(at[4][name])).any(), name
    assert any(re.match(r"group tower: [\d,]+ parameters in \d+ arrays, from step 4 at 0.05", line) for line in told)


@pytest.mark.parametrize("kind", ["bflow", "per_frame"])
def test_without_video_it_is_the_language_model_and_the_anchors_are_the_tower_s(kind, parts):
    config = begins_with(small_config(), parts)
    if kind == "per_frame":
        one_token_a_tick(config)
    params, told = started(config)
    lines = "\n".join(told)
    assert "text: left: nothing" in lines
    assert ("vision: left: pool (" in lines) == (kind == "bflow")
    for name, value in flatten(read_weights(parts[0])[0]).items():
        if kind == "per_frame" or not name.startswith("pool/"):
            np.testing.assert_array_equal(params[TOWER + name], value)
    model = build_task(config, load_tokenizer(config)).model
    slots = np.random.default_rng(0).integers(0, 60, (2, 20)).astype(np.int32)
    language = imported.llama(load_tokenizer(config).base_vocab_size, **LANGUAGE)
    weights = read_weights(parts[1])[0]
    alone = LanguageModel(language)
    wanted = jax.jit(lambda p: alone.apply({"params": p}, slots, method=lambda m, ids: m.logits(m(ids))))(weights)
    logits = lambda m, *inputs: m.language.logits(m.hidden(*inputs))
    compiled = jax.jit(lambda p, *inputs: model.apply({"params": p}, *inputs, method=logits))
    tree = _with_closed_gates(params)
    for video in no_tokens(model.config, 2):
        found = compiled(tree, video, slots, np.full(2, 4))
        np.testing.assert_allclose(found[..., : wanted.shape[-1]], wanted, atol=2e-5)


def _with_closed_gates(params):
    """A tree of the parameters, their gates as the config starts them (`started` fills them with sevens)."""
    gates = {name: np.zeros_like(value) for name, value in params.items() if name.endswith("cross/gate")}
    return unflatten(params | gates)


def test_the_other_tower_does_not_fit_and_says_what_to_set(parts, tmp_path):
    clip = imported.import_tower(imported.clip(), tmp_path)
    config = begins_with(small_config(), (clip, parts[1]))
    with pytest.raises(InitFromError) as error:
        started(config)
    for line in ("class_token is True", "mean of its pixels is (0.4814547,", "activation is quick_gelu"):
        assert f"vision: {line}" in str(error.value)
    config = begins_with(small_config(imported.clip()), (clip, parts[1]))
    params, _ = started(config)
    np.testing.assert_array_equal(params[TOWER + "class_token"], flatten(read_weights(clip)[0])["class_token"])


def saved_by_transformers(folder):
    """A random SigLIP pair and a random Llama, saved by transformers and imported."""
    torch, transformers = llama_family.libraries()
    side = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2)
    settings = transformers.SiglipConfig(
        vision_config=side | dict(image_size=64, patch_size=16), text_config=side | dict(vocab_size=40)
    )
    torch.manual_seed(0)
    pair = transformers.SiglipModel(settings).eval()
    pair.save_pretrained(folder / "pair")
    transformers.SiglipImageProcessor(size=dict(height=64, width=64)).save_pretrained(folder / "pair")
    language = llama_family.random_model(
        model_type="llama",
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        rope_theta=100_000.0,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=48,
        vocab_size=64,
    )
    language.save_pretrained(folder / "llama")
    for name in ("pair", "llama"):
        import_weights(open_source(folder / name), folder / f"{name}_weights")
    return pair, language


def test_from_what_transformers_wrote_it_sees_and_speaks_as_transformers_does(tmp_path):
    pair, language = saved_by_transformers(tmp_path)
    torch, _ = llama_family.libraries()
    config = one_token_a_tick(small_config())
    config.init_from.vision, config.init_from.text = (str(tmp_path / f"{n}_weights") for n in ("pair", "llama"))
    params, told = started(config)
    assert any(re.search(r"vision: left: .*logit_scale \(1\).*text \(\d+\)", line) for line in told)
    frames = tiny.clips(1, 3, side=64)[0]
    pictures = ((frames / 255 - 0.5) / 0.5).astype(np.float32)
    tower = {name.removeprefix(TOWER): value for name, value in params.items() if name.startswith(TOWER)}
    task = build_task(config, load_tokenizer(config))
    seen = VisionTower(task.config.tokenizer.anchor.tower).apply({"params": unflatten(tower)}, jnp.asarray(pictures))
    with torch.no_grad():
        theirs = pair.vision_model(torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy())).pooler_output.numpy()
    assert np.abs(np.asarray(seen.embedding) - theirs).max() <= 1e-4
    slots = np.random.default_rng(0).integers(0, 60, (2, 20)).astype(np.int32)
    with torch.no_grad():
        wanted = language(torch.tensor(slots).long()).logits.numpy()
    tree = _with_closed_gates(params)
    for video in no_tokens(task.config, 2):
        found = jax.jit(
            lambda p, *a: task.model.apply({"params": p}, *a, method=lambda m, *b: m.language.logits(m.hidden(*b)))
        )(tree, video, slots, np.full(2, 4))
        assert np.abs(np.asarray(found)[..., :64] - wanted).max() <= 1e-4
