"""Language models of transformers, saved by it and read by us, compute the same; and the way back."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.weights.huggingface import text
from mmduplex_jax.weights.huggingface.layout import check_fits, iterate_params, read_params, write_params
from mmduplex_jax.weights.huggingface.reader import TensorFiles, WeightsError
from mmduplex_jax.weights.huggingface.source import boxed_shapes, open_source
from mmduplex_jax.weights.verify import text_outputs
from tests.weights.huggingface import llama_family
from tests.weights.huggingface.llama_family import SHAPES
from tests.weights.huggingface.parity_cases import QUANTITIES
from tests.weights.huggingface.text_cases import BY_SHAPE, TOKENS, differences, theirs

# Sums in another order: float32 gives 1e-6 at values of a few units. The promise to users is 1e-4.
TOLERANCE = 1e-5


def compare(found, wanted):
    """Fails where something differs by more than TOLERANCE."""
    worst = differences(found, wanted)
    assert max(worst.values()) <= TOLERANCE, worst


@pytest.mark.parametrize("shape", SHAPES)
def test_it_computes_the_same_and_goes_back(shape, tmp_path):
    _, transformers = llama_family.libraries()
    worst, source, params = BY_SHAPE[shape].run(tmp_path / "theirs")
    assert max(worst.values()) <= TOLERANCE, worst
    assert set(worst) == set(QUANTITIES) - {"pooled"}

    back = tmp_path / "back"
    write_params(params, source.layout, back, text.config_json(source.config))
    again = TensorFiles(back)
    assert set(again.names) == set(source.files.names)
    for name in again.names:
        assert again.read(name).tobytes() == source.files.read(name).tobytes()
    assert open_source(back).config == source.config
    load = lambda folder: transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True
    )
    (first, _), (loaded, info) = load(tmp_path / "theirs"), load(back)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    wanted = theirs(first.eval())
    for name, found in theirs(loaded.eval()).items():
        np.testing.assert_array_equal(found, wanted[name])


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_base_model_has_flat_names(kind, tied, tmp_path):
    model = llama_family.random_model(
        head=False, model_type=kind, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied
    )
    source = open_source(llama_family.save(model, tmp_path))
    assert "embed_tokens.weight" in source.files
    assert source.config.head == ("tied" if tied else "none")
    params = read_params(source.files, source.layout, source.shapes)
    found = text_outputs(source.config, params, TOKENS)
    compare({name: value for name, value in found.items() if "hidden" in name}, theirs(model, head=False))


def test_a_scanned_stack_reads_the_same_file(tmp_path):
    model = llama_family.random_model(num_hidden_layers=4, **SHAPES["qwen3_tied"])
    source = open_source(llama_family.save(model, tmp_path))
    for cross_every in (0, 2):
        stack = dataclasses.replace(source.config.text, scan=True, cross_every=cross_every)
        layout = text.stream_layout(stack, tied=True)
        grouped = read_params(source.files, layout, _without_cross(stack))
        assert grouped["text"]["groups"]["block_0"]["attention"]["query"]["kernel"].shape == (
            stack.groups,
            stack.width,
            stack.heads * stack.head_width,
        )
        if not cross_every:
            config = LanguageConfig(stack, source.config.vocab_size)
            compare(text_outputs(config, grouped, TOKENS), theirs(model))
        write_params(grouped, layout, tmp_path / str(cross_every), {})
        again = TensorFiles(tmp_path / str(cross_every))
        assert all(again.read(name).tobytes() == source.files.read(name).tobytes() for name in again.names)


def _without_cross(stack):
    """Shapes of a scanned stack's self-attention layers, those with cross-attention among them."""
    plain = dataclasses.replace(stack, cross_every=0, layers=stack.groups)
    shapes = boxed_shapes(LanguageConfig(plain, 99))
    one = shapes["text"]["groups"]["block_0"]
    shapes["text"]["groups"] = {f"block_{i}": one for i in range(stack.group_size)}
    return nn.unbox(shapes)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_files_are_widened_and_come_back_bit_for_bit(dtype, tmp_path):
    torch, transformers = llama_family.libraries()
    model = llama_family.random_model(**SHAPES["llama_15_5"]).to(getattr(torch, dtype))
    source = open_source(llama_family.save(model, tmp_path / "theirs", max_shard_size="40KB"))
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    params = read_params(source.files, source.layout, source.shapes)
    wide = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "theirs", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    compare(text_outputs(source.config, params, TOKENS), theirs(wide))
    write_params(params, source.layout, tmp_path / "back", {}, dtype=dtype)
    again, state = TensorFiles(tmp_path / "back"), model.state_dict()
    assert {again.dtype(name) for name in again.names} == {{"bfloat16": "BF16", "float16": "F16"}[dtype]}
    assert all(np.array_equal(again.read(name), state[name].float().numpy()) for name in again.names)


@pytest.mark.parametrize("shape", ["llama_3_heads", "llama3_scaled", "qwen3_untied"])
def test_configs_of_before_version_5_say_the_same(shape, tmp_path):
    model = llama_family.random_model(**SHAPES[shape])
    llama_family.save(model, tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    files = TensorFiles(tmp_path)
    old = dict(new)
    rope = dict(old.pop("rope_parameters"))
    old["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    assert text.architecture(old | {"rope_scaling": None}, files) == text.architecture(
        new | ({"rope_parameters": {**new["rope_parameters"], "rope_type": "default"}}), files
    )
    if kind == "llama3":
        for key in ("rope_type", "type"):
            scaling = rope | {key: "llama3"}
            assert text.architecture(old | {"rope_scaling": scaling}, files) == text.architecture(new, files)


def test_a_copy_of_a_tied_embedding_may_be_there_if_it_is_one(tmp_path):
    model = llama_family.random_model(**SHAPES["llama_15_5"])
    source = open_source(llama_family.save(model, tmp_path / "theirs"))
    assert text.LM_HEAD not in source.files
    params = read_params(source.files, source.layout, source.shapes)
    with_head = dataclasses.replace(source.config, head="own")
    config_json = text.config_json(source.config)
    copy = {**params, "head": params["embedding"]}
    write_params(copy, text.layout(with_head), tmp_path / "copied", config_json)
    found = open_source(tmp_path / "copied")
    assert found.config.head == "tied"
    assert "head" not in dict(iterate_params(found.files, found.layout, found.shapes))
    write_params({**copy, "head": params["embedding"] + 1}, text.layout(with_head), tmp_path / "other", config_json)
    with pytest.raises(WeightsError, match=r"ties the head .* lm_head.weight differs from model.embed_tokens.weight"):
        open_source(tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "xielu"}, "hidden_act is 'xielu'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_parameters": None}, "rope_type is 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"model_type": "mamba"}, "model_type is 'mamba'"),
        ({"num_hidden_layers": 3}, "missing: model.layers.2.mlp.gate_proj.weight"),
        (
            {"intermediate_size": 70},
            r"misshapen: model.layers.0.mlp.up_proj.weight is \[72, 40\], should be \[70, 40\]",
        ),
        ({"num_hidden_layers": 1}, r"unexpected: model.layers.1.input_layernorm.weight \[40\]"),
        ({"tie_word_embeddings": False}, "missing: lm_head.weight"),
    ],
)
def test_what_cannot_be_imported_is_said(change, said, tmp_path):
    llama_family.save(llama_family.random_model(**SHAPES["llama3_scaled"]), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(WeightsError, match=said):
        open_source(tmp_path)


PUBLISHED = {
    "SmolLM2-135M": dict(
        model_type="llama",
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
    "SmolLM2-360M": dict(
        model_type="llama",
        hidden_size=960,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        intermediate_size=2560,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
    "Qwen3-0.6B": dict(
        model_type="qwen3",
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        vocab_size=151936,
        tie_word_embeddings=True,
    ),
    "Llama-3.2-1B": dict(
        model_type="llama",
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        intermediate_size=8192,
        vocab_size=128256,
        tie_word_embeddings=True,
    ),
}
PARAMETERS = {
    "SmolLM2-135M": 134_515_008,
    "SmolLM2-360M": 361_821_120,
    "Qwen3-0.6B": 596_049_920,
    "Llama-3.2-1B": 1_235_814_400,
}


class Table:
    """Names and shapes as of a file, of a model without memory."""

    path = "a published model"

    def __init__(self, state):
        self._shapes = {name: tuple(value.shape) for name, value in state.items()}

    names = property(lambda self: tuple(self._shapes))
    __contains__ = lambda self, name: name in self._shapes
    shape = lambda self, name: self._shapes[name]
    dtype = lambda self, name: "BF16"
    is_floating = lambda self, name: True


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_fit_name_by_name(name):
    torch, transformers = llama_family.libraries()
    config = transformers.AutoConfig.for_model(**PUBLISHED[name])
    with torch.device("meta"):
        state = transformers.AutoModelForCausalLM.from_config(config).state_dict()
    del state[text.LM_HEAD]  # tied: files lack it
    table = Table(state)
    ours = text.architecture(config.to_dict(), table)
    shapes = boxed_shapes(ours)
    check_fits(table, text.layout(ours), nn.unbox(shapes))
    assert sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(shapes))) == PARAMETERS[name]
