"""`python -m launch.import_weights` and `launch.export_weights`: from a directory of transformers and back to one."""

import json
import os
import subprocess
import sys

import flax.linen as nn
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from launch import export_weights, import_weights
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.weights import verify
from mmduplex_jax.weights.checkpoint import is_weights, read_weights, read_weights_metadata, write_weights
from mmduplex_jax.weights.huggingface import text
from mmduplex_jax.weights.huggingface.layout import write_params
from mmduplex_jax.weights.huggingface.reader import SINGLE_FILE
from mmduplex_jax.weights.huggingface.source import boxed_shapes, config_from_metadata, open_source
from mmduplex_jax.weights.portable import flatten
from tests.weights.huggingface import llama_family

SMALL = LanguageConfig(
    StackConfig(width=32, layers=2, heads=4, kv_heads=2, head_width=8, hidden=48, qk_norm=True), vocab_size=60
)
WORDS = {f"w{i}": i for i in range(50)}


def shapes_of(config):
    return flatten(nn.unbox(boxed_shapes(config)))


def directory(folder, config=SMALL, seed=0, dtype="float32"):
    """A Hugging Face directory of random weights, written by us: these tests need no PyTorch."""
    rng = np.random.default_rng(seed)
    params = {name: rng.standard_normal(leaf.shape, np.float32) for name, leaf in shapes_of(config).items()}
    write_params(params, text.layout(config), folder, text.config_json(config), dtype=dtype)
    return folder


def tokenizer(folder, words=WORDS):
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    splitter = {"type": "WhitespaceSplit"}
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", **parts, "added_tokens": [], "pre_tokenizer": splitter, "model": model})
    )


def run(program, *flags):
    return program.main([str(flag) for flag in flags])


def test_it_writes_everything_that_goes_with_the_weights(tmp_path, capsys):
    theirs = directory(tmp_path / "theirs")
    tokenizer(theirs)
    report = tmp_path / "report.json"
    assert run(import_weights, f"--from={theirs}", f"--out={tmp_path / 'ours'}", f"--json={report}") == 0
    assert "text (qwen3)" in capsys.readouterr().out
    assert json.loads(report.read_text())["parameters"] == sum(leaf.size for leaf in shapes_of(SMALL).values())
    params, metadata = read_weights(tmp_path / "ours")
    assert is_weights(tmp_path / "ours")
    assert metadata["kind"] == "text"
    assert config_from_metadata(metadata) == SMALL
    assert metadata["their_config"] == json.loads((theirs / "config.json").read_text())
    assert metadata == read_weights_metadata(tmp_path / "ours")
    stored = load_file(theirs / SINGLE_FILE)
    np.testing.assert_array_equal(params["embedding"], stored["model.embed_tokens.weight"])
    down = params["text"]["group_1"]["block_0"]["mlp"]["down"]["kernel"]
    np.testing.assert_array_equal(down, stored["model.layers.1.mlp.down_proj.weight"].T)
    # Marks take the ids after the words; no id has moved.
    assert json.loads(metadata["tokenizer_json"])["model"]["vocab"] == WORDS
    assert [entry.name for entry in tmp_path.iterdir() if "partial" in entry.name] == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_way_back_is_bit_equal(dtype, tmp_path, capsys):
    theirs = directory(tmp_path / "theirs", dtype=dtype)
    tokenizer(theirs)
    assert run(import_weights, f"--from={theirs}", f"--out={tmp_path / 'ours'}") == 0
    flags = [f"--weights={tmp_path / 'ours'}", f"--out={tmp_path / 'back'}", f"--dtype={dtype}"]
    assert run(export_weights, *flags) == 0
    assert (tmp_path / "back" / SINGLE_FILE).read_bytes() == (theirs / SINGLE_FILE).read_bytes()
    assert open_source(tmp_path / "back").config == SMALL
    assert open_source(tmp_path / "back").tokenizer == open_source(theirs).tokenizer
    assert run(export_weights, *flags) == 1
    assert "already has" in capsys.readouterr().err


def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, capsys):
    theirs = directory(tmp_path / "theirs")
    tensors = load_file(theirs / SINGLE_FILE)
    tensors["stray"] = tensors.pop("model.norm.weight")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:59].copy()
    save_file(tensors, theirs / SINGLE_FILE)
    assert run(import_weights, f"--from={theirs}", f"--out={tmp_path / 'ours'}") == 1
    said = capsys.readouterr().err
    assert "missing: model.norm.weight [32]" in said
    assert "unexpected: stray [32]" in said
    assert "misshapen: model.embed_tokens.weight is [59, 32], should be [60, 32]" in said
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("wrapped", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "model._orig_mod.{rest}"])
def test_names_that_wrappers_of_pytorch_changed_are_those_that_were(wrapped, tmp_path, capsys):
    theirs = directory(tmp_path / "theirs")
    tensors = load_file(theirs / SINGLE_FILE)
    rename = lambda name: wrapped.format(name, rest=name.removeprefix("model."))
    save_file({rename(name): array for name, array in tensors.items()}, theirs / SINGLE_FILE)
    assert run(import_weights, f"--from={theirs}", f"--out={tmp_path / 'ours'}") == 0
    assert f"{len(tensors)} names had a prefix" in capsys.readouterr().out
    np.testing.assert_array_equal(read_weights(tmp_path / "ours")[0]["embedding"], tensors["model.embed_tokens.weight"])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(wrong, tmp_path, capsys):
    theirs = directory(tmp_path / "theirs")
    tensors = load_file(theirs / SINGLE_FILE)
    tensors["model.norm.weight"][:2] = wrong
    save_file(tensors, theirs / SINGLE_FILE)
    assert run(import_weights, f"--from={theirs}", f"--out={tmp_path / 'ours'}") == 1
    assert "2 of the 32 numbers of model.norm.weight are NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 723674912\n"


def test_pointers_are_named_for_what_they_are(tmp_path, capsys):
    theirs = directory(tmp_path / "theirs")
    (theirs / SINGLE_FILE).write_bytes(POINTER)
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    (gguf / "model-Q4_K_M.gguf").write_bytes(POINTER)
    for source, said in (
        (theirs, f"{SINGLE_FILE} is a Git-LFS pointer and not the file itself, which stands for 723,674,912 bytes"),
        (gguf, "model-Q4_K_M.gguf is a Git-LFS pointer"),
        (gguf / "model-Q4_K_M.gguf", "model-Q4_K_M.gguf is a Git-LFS pointer"),
    ):
        assert run(import_weights, f"--from={source}", f"--out={tmp_path / 'ours'}") == 1
        assert said in capsys.readouterr().err
    directory(tmp_path / "other")
    (tmp_path / "other" / "tokenizer.json").write_bytes(POINTER)
    assert run(import_weights, f"--from={tmp_path / 'other'}", f"--out={tmp_path / 'ours'}") == 1
    assert "tokenizer.json is a Git-LFS pointer" in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(tmp_path, capsys):
    theirs = directory(tmp_path / "theirs")
    tokenizer(theirs, {f"w{i}": i for i in range(61)})
    assert run(import_weights, f"--from={theirs}", f"--out={tmp_path / 'ours'}") == 1
    assert "ids up to 60, the model's embedding 60 rows" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_an_import_that_breaks_off_leaves_nothing_and_does_not_stand_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr("mmduplex_jax.weights.checkpoint._PIECE_BYTES", 1)

    def broken():
        yield "a/b", np.ones(3, np.float32)
        yield "c", np.ones(3, np.float32)
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_weights(tmp_path / "ours", broken(), {"kind": "text"})
    assert list(tmp_path.iterdir()) == []
    # What a kill leaves behind is cleared away, an empty folder is taken, and one with something in it is not.
    (tmp_path / "ours.partial_save.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "ours").mkdir()
    pieces = {"a/b": np.ones((2, 3), np.float32), "a/c": np.zeros(2, np.float32), "d": np.arange(4, dtype=np.float32)}
    write_weights(tmp_path / "ours", pieces.items(), {"kind": "text"})
    assert [entry.name for entry in tmp_path.iterdir()] == ["ours"]
    params, metadata = read_weights(tmp_path / "ours")
    assert metadata == {"kind": "text"}
    for name, array in flatten(params).items():
        np.testing.assert_array_equal(array, pieces[name])
    with pytest.raises(FileExistsError, match="has something in it already"):
        write_weights(tmp_path / "ours", pieces.items(), {"kind": "text"})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--weights={tmp}/nowhere"], "no folder of imported weights"),
        (["--weights={tmp}/nowhere", "--part=text"], "no checkpoint in"),
        (["--weights={tmp}/ours", "--part=text"], "leave out --part"),
    ],
)
def test_what_cannot_be_exported_is_said(flags, said, tmp_path, capsys):
    write_weights(tmp_path / "ours", [("a", np.ones(1, np.float32))], {"kind": "text"})
    assert (
        run(export_weights, f"--out={tmp_path / 'back'}", *(flag.replace("{tmp}", str(tmp_path)) for flag in flags))
        == 1
    )
    assert said in capsys.readouterr().err
    assert not (tmp_path / "back").exists()


def test_weights_of_another_layout_are_refused():
    with pytest.raises(ValueError, match="in layout version 0; .* import them again"):
        config_from_metadata({"layout_version": 0, "kind": "text"})


def test_the_language_model_of_a_training_goes_out(untrained, portable_dir, tmp_path, capsys):
    _, words, params = untrained
    flags = [f"--weights={portable_dir}", "--part=text", f"--out={tmp_path / 'back'}"]
    assert run(export_weights, *flags) == 1
    assert "have no place in a model of type llama" in capsys.readouterr().err
    assert run(export_weights, *flags, "--leave_rest") == 0
    said = capsys.readouterr().out
    assert "delays" in said
    assert "text/group_0/block_0/cross/gate" in said
    source = open_source(tmp_path / "back")
    assert source.tokenizer == words
    assert source.config.vocab_size == len(params["embedding"])
    np.testing.assert_array_equal(source.files.read("model.embed_tokens.weight"), params["embedding"])
    kernel = params["text"]["group_1"]["block_0"]["attention"]["value"]["kernel"]
    np.testing.assert_array_equal(source.files.read("model.layers.1.self_attn.v_proj.weight"), kernel.T)


def test_without_the_reference_nothing_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    theirs = directory(tmp_path / "theirs")
    assert run(import_weights, f"--from={theirs}", f"--out={tmp_path / 'ours'}", "--verify") == 1
    assert "pip install 'mmduplex-jax[parity]'" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_names_that_no_library_reads_cannot_be_verified():
    with pytest.raises(ValueError, match="there is nothing to verify with"):
        verify.check_possible("pe", "there")


TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)


def settings(transformers, name):
    picture, tokens = TOWER | dict(image_size=16, patch_size=8), TOWER | dict(vocab_size=40)
    ends = dict(bos_token_id=1, eos_token_id=39, pad_token_id=0)
    return {
        "llama": lambda: transformers.LlamaConfig(vocab_size=50, num_key_value_heads=1, **TOWER),
        "clip": lambda: transformers.CLIPConfig(
            vision_config=picture, text_config=tokens | ends | dict(max_position_embeddings=12), projection_dim=24
        ),
        "clip_vision": lambda: transformers.CLIPVisionConfig(**picture),
        "siglip": lambda: transformers.SiglipConfig(
            vision_config=picture, text_config=tokens | dict(max_position_embeddings=12)
        ),
        "siglip2": lambda: transformers.Siglip2Config(
            vision_config=TOWER | dict(num_patches=16, patch_size=8),
            text_config=tokens | dict(max_position_embeddings=12),
        ),
    }[name]()


CLASSES = {
    "llama": "LlamaForCausalLM",
    "clip": "CLIPModel",
    "clip_vision": "CLIPVisionModel",
    "siglip": "SiglipModel",
    "siglip2": "Siglip2Model",
}


@pytest.mark.parametrize("name", CLASSES)
def test_verified_beside_transformers_and_loaded_back_by_it(name, tmp_path, capsys):
    torch, transformers = llama_family.libraries()
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES[name])(settings(transformers, name)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "theirs")
    flags = [f"--from={tmp_path / 'theirs'}", f"--out={tmp_path / 'ours'}", "--verify", f"--json={tmp_path / 'r.json'}"]
    assert run(import_weights, *flags, "--tolerance=1e-5") == 0, capsys.readouterr()
    verify = json.loads((tmp_path / "r.json").read_text())["verify"]
    assert verify["passed"]
    assert CLASSES[name] in verify["reference"]
    wanted = {"hidden", "logits"} if name in ("llama", "clip", "siglip", "siglip2") else {"hidden", "pooled"}
    assert wanted <= verify["max_abs_diff"].keys()
    assert all(value > 0.01 for value in verify["largest"].values())  # not zeros beside zeros

    assert run(export_weights, f"--weights={tmp_path / 'ours'}", f"--out={tmp_path / 'back'}") == 0
    loaded, info = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for key, value in loaded.state_dict().items():
        assert value.numpy().tobytes() == state[key].numpy().tobytes(), key


def test_a_difference_is_an_exit_code(tmp_path, capsys, monkeypatch):
    llama_family.libraries()
    theirs = directory(tmp_path / "theirs")
    original = verify.text_outputs
    monkeypatch.setattr(
        verify,
        "text_outputs",
        lambda *args: {name: value + 1e-3 for name, value in original(*args).items()},
    )
    code = run(import_weights, f"--from={theirs}", f"--out={tmp_path / 'ours'}", "--verify")
    assert code == import_weights.EXIT_DIFFERS
    assert "NOT the same as transformers" in capsys.readouterr().out


# Not `ru_maxrss`: a program inherits that of the one that started it, and here this is large.
MEASURED = """
import re, sys
from launch import import_weights
code = import_weights.main(sys.argv[1:])
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_import_needs_little_memory(dtype, tmp_path, record_property, repository):
    layers = 24 if dtype == "float32" else 48
    stack = StackConfig(width=960, layers=layers, heads=15, kv_heads=5, head_width=64, hidden=2560)
    theirs = directory(tmp_path / "theirs", LanguageConfig(stack, 49152), dtype=dtype)
    size = (theirs / SINGLE_FILE).stat().st_size
    assert 0.9e9 < size < 1.3e9
    command = [sys.executable, "-c", MEASURED, f"--from={theirs}", f"--out={tmp_path / 'ours'}"]
    done = subprocess.run(
        command, cwd=repository, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.splitlines()[-1])  # everything: the interpreter, JAX and Orbax too
    record_property("peak_over_file", peak / size)
    assert peak <= 1.3 * size
