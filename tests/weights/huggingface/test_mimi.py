"""Mimi's weights: ours computes what transformers does; moshi's file is the same codec as transformers' directory."""

import re

import jax
import numpy as np
import pytest

from launch import export_weights, import_weights
from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.weights import verify
from mmduplex_jax.weights.checkpoint import read_weights
from mmduplex_jax.weights.huggingface import mimi
from mmduplex_jax.weights.huggingface.layout import read_params, write_params
from mmduplex_jax.weights.huggingface.reader import TensorFiles, WeightsError
from mmduplex_jax.weights.huggingface.source import config_from_metadata, open_source
from mmduplex_jax.weights.portable import flatten
from tests.codec.tiny_codec import CONFIG, random_params

LIMIT = 1e-4
# With moshi's heads and context, which no tensor tells.
MOSHI = CodecConfig(
    filters=2, width=16, layers=1, hidden=8, codebooks=3, codebook_size=4, codebook_width=5, kernel=5, last_kernel=5
)


@pytest.fixture(scope="module")
def params():
    return jax.device_get(random_params(MOSHI))


@pytest.fixture(scope="module")
def directory(params, tmp_path_factory):
    """As transformers writes it, without transformers."""
    folder = tmp_path_factory.mktemp("mimi") / "theirs"
    write_params(params, mimi.layout(MOSHI), folder, mimi.config_json(MOSHI))
    return folder


def moshi_tensors(files: TensorFiles, newer: bool = False) -> dict[str, np.ndarray]:
    """transformers' tensors under moshi's names and in its order of rotary channels, by plain rules of its own."""
    renamed: dict[str, np.ndarray] = {}
    rules = [
        (r"^(en|de)coder\.layers", r"\1coder.model"),
        (r"transformer\.layers", "transformer.transformer.layers"),
        (r"^(encoder.*)\.conv\.(weight|bias)$", r"\1.conv.conv.\2"),
        (r"^(decoder.*block.*|decoder\.model\.(?:0|14))\.conv\.(weight|bias)$", r"\1.conv.conv.\2"),
        (r"^(decoder\.model\.\d+)\.conv\.(weight|bias)$", r"\1.convtr.convtr.\2"),
        (r"^downsample\.conv", "downsample.conv.conv.conv"),
        (r"^upsample\.conv", "upsample.convtr.convtr.convtr"),
        (r"semantic_residual_vector_quantizer\.layers", "rvq_first.vq.layers"),
        (r"acoustic_residual_vector_quantizer\.layers", "rvq_rest.vq.layers"),
        (r"semantic_residual_vector_quantizer", "rvq_first"),
        (r"acoustic_residual_vector_quantizer", "rvq_rest"),
        (r"codebook\.initialized", "_codebook._initialized"),
        (r"codebook\.embed_sum", "_codebook.embedding_sum"),
        (r"codebook\.cluster_usage", "_codebook.cluster_usage"),
        ("input_layernorm", "norm1"),
        ("post_attention_layernorm", "norm2"),
        ("self_attn_layer_scale", "layer_scale_1"),
        ("mlp_layer_scale", "layer_scale_2"),
        (r"mlp\.fc(\d)", r"linear\1"),
        ("self_attn.o_proj", "self_attn.out_projs.0" if newer else "self_attn.out_proj"),
    ]
    for name in files.names:
        new = name
        for pattern, by in rules:
            new = re.sub(pattern, by, new)
        renamed[new] = files.read(name)
    half = MOSHI.width // MOSHI.heads // 2
    # Channel i of a half is its neighbour's pair: 0, h, 1, h + 1, …
    order = np.arange(MOSHI.width).reshape(MOSHI.heads, 2, half).swapaxes(1, 2).ravel()
    for part in ("encoder", "decoder"):
        stem = f"{part}_transformer.transformer.layers.0.self_attn"
        query, key, value = (renamed.pop(f"{stem}.{which}_proj.weight") for which in "qkv")
        fused = np.concatenate([query[order], key[order], value])
        renamed[f"{stem}.in_projs.0.weight" if newer else f"{stem}.in_proj_weight"] = fused
    return renamed


def write_moshi(folder, tensors):
    from safetensors.numpy import save_file

    folder.mkdir()
    file = folder / "tokenizer-e351c8d8-checkpoint125.safetensors"
    save_file(tensors, file)
    return file


def test_a_directory_comes_in_and_goes_out_to_the_bit(params, directory, tmp_path, capsys):
    assert import_weights.main([f"--from={directory}", f"--out={tmp_path / 'ours'}"]) == 0
    assert "codec (mimi), " in capsys.readouterr().out
    ours, metadata = read_weights(tmp_path / "ours")
    assert config_from_metadata(metadata) == MOSHI
    for name, value in flatten(ours).items():
        np.testing.assert_array_equal(value, flatten(params)[name], err_msg=name)
    assert export_weights.main([f"--weights={tmp_path / 'ours'}", f"--out={tmp_path / 'back'}"]) == 0
    before, after = TensorFiles(directory), TensorFiles(tmp_path / "back")
    assert sorted(before.names) == sorted(after.names)
    for name in before.names:
        np.testing.assert_array_equal(before.read(name), after.read(name), err_msg=name)


@pytest.mark.parametrize("newer", [False, True])
def test_moshis_file_is_the_same_codec(newer, params, directory, tmp_path):
    file = write_moshi(tmp_path / "moshi", moshi_tensors(TensorFiles(directory), newer))
    for path in (file, file.parent):
        source = open_source(path)
        assert (source.kind, source.family, source.config) == ("codec", mimi.MOSHI, MOSHI)
        found = flatten(read_params(source.files, source.layout, source.shapes))
        for name, value in flatten(params).items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    with pytest.raises(WeightsError, match="kyutai/mimi"):
        verify.check_possible(mimi.MOSHI, file)


def test_a_tensor_too_few_or_too_many_is_named(directory, tmp_path):
    tensors = moshi_tensors(TensorFiles(directory))
    gone = "encoder.model.4.block.3.conv.conv.bias"
    tensors["left.over"] = tensors.pop(gone)
    with pytest.raises(WeightsError) as error:
        open_source(write_moshi(tmp_path / "moshi", tensors))
    assert gone in str(error.value)
    assert "left.over" in str(error.value)


def test_another_shape_than_mimis_is_read_from_its_config(directory):
    files = TensorFiles(directory)
    assert mimi.layout(MOSHI, files) is not None
    assert mimi.config_of_json(mimi.config_json(CONFIG) | {"frame_rate": 12.5}) == CONFIG
    published = {"model_type": "mimi", "frame_rate": 12.5, "upsample_groups": 512, "rope_theta": 10000.0}
    assert mimi.config_of_json(published) == CodecConfig()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"use_causal_conv": False}, "use_causal_conv is False, read is True"),
        ({"pad_mode": "reflect"}, "pad_mode is 'reflect'"),
        ({"upsample_groups": 4}, "upsample_groups is 4, read are 1 and hidden_size"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1"),
        ({"vector_quantization_hidden_dimension": 16, "codebook_dim": 16}, "no projections"),
        ({"frame_rate": 10}, "frame_rate is 10"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
    ],
)
def test_a_config_that_asks_for_more_is_refused(fields, said):
    with pytest.raises(WeightsError, match=said):
        mimi.config_of_json(mimi.config_json(MOSHI) | fields)


def test_only_a_vision_tower_is_no_codec(directory):
    with pytest.raises(WeightsError, match="model_type is 'mimi'"):
        open_source(directory, only_vision=True)


# Beside transformers.

SMALL = {
    "hidden_size": 32,
    "num_filters": 4,
    "num_quantizers": 6,
    "codebook_size": 16,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "upsample_groups": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
VARIANTS = {
    "a context of 5 steps": {"sliding_window": 10},
    "two residual layers, dense upsampling": {"num_residual_layers": 2, "upsample_groups": 1},
    "three ratios, three semantic codebooks": {"upsampling_ratios": [4, 3, 2], "num_semantic_quantizers": 3},
}


def random_mimi(folder, fields) -> None:
    """A model with random numbers everywhere; as it is made, all codebooks are zeros and no code differs."""
    torch = pytest.importorskip("torch", reason="the reference is made with it")
    transformers = pytest.importorskip("transformers", reason="the reference is made with it")
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = transformers.MimiModel(transformers.MimiConfig(**fields)).eval()
    noise = lambda tensor: torch.randn(tensor.shape, generator=generator)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("embed_sum"):
                buffer.copy_(noise(buffer))
            elif name.endswith("cluster_usage"):
                buffer.copy_(0.5 + noise(buffer).abs())
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.copy_(0.3 * noise(parameter))
            elif "norm" in name:
                parameter.add_(0.2 * noise(parameter))
    model.save_pretrained(folder)


def margin(params, latents) -> float:
    """The least difference of squared distances between the nearest entry and the next, over all codes."""
    least = np.inf
    for part in ("semantic", "acoustic"):
        own = params["quantizer"][part]
        left = latents @ np.asarray(own["project_in"]["kernel"], np.float64)
        for sums, usage in zip(own["sums"], own["usage"]):
            book = np.asarray(sums, np.float64) / np.asarray(usage)[:, None]
            distance = np.square(book).sum(axis=-1) - 2 * left @ book.T  # but for the vector's own square
            nearest = np.partition(distance, 1, axis=-1)
            least = min(least, float((nearest[..., 1] - nearest[..., 0]).min()))
            left = left - book[distance.argmin(axis=-1)]
    return least


@pytest.mark.parametrize("variant", VARIANTS)
def test_ours_computes_what_transformers_does(variant, tmp_path):
    assert_parity(tmp_path, SMALL | VARIANTS[variant], steps=12)


@pytest.mark.slow
def test_mimi_itself_computes_what_transformers_does(tmp_path):
    """Of full size, with random weights, past its context of 125 steps."""
    assert_parity(tmp_path, {}, steps=128)


def assert_parity(folder, fields, steps):
    random_mimi(folder, fields)
    source = open_source(folder)
    assert source.kind == "codec"
    params = read_params(source.files, source.layout, source.shapes)
    config = source.config
    samples = np.random.default_rng(0).uniform(-1, 1, (1, steps * config.step_samples)).astype(np.float32)
    theirs, _ = verify._their_codec(folder, samples)
    ours = verify.codec_outputs(config, params, samples, theirs["codes"].astype(np.int32))
    for name in ("latents", "wave"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=LIMIT, err_msg=name)
        assert theirs[name].std() > 0.01
    differ = ours["codes"] != theirs["codes"]
    assert not differ.any(), f"{differ.sum()} codes differ; the least margin is {margin(params, ours['latents'])}"
    assert len(np.unique(theirs["codes"])) > config.codebook_size / 2
