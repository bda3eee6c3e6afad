"""GGUF files of llama.cpp, as a Hugging Face directory would have what is in them.

A GGUF file holds a model's fields, its tokenizer and its tensors, mostly quantised. Here it gets the `config.json`, the
tokenizer (`gguf_tokenizer.py`) and the names of transformers, so that all that knows these serves. Numbers are
dequantised, a tensor at a time, by the package `gguf` of the format's authors.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmduplex_jax.layers.rotary import stretched
from mmduplex_jax.weights.huggingface.layout import rotary_places
from mmduplex_jax.weights.huggingface.reader import Tensors, WeightsError, import_optional

SUFFIX = ".gguf"
ARCHITECTURES = ("llama", "qwen3")
# llama.cpp turns neighbours of a head by rotary angles where the family is Llama, halves where it is Qwen3.
_NEIGHBOURS_TURN = ("llama",)
_INTEGERS = ("I8", "I16", "I32", "I64")
# Theirs, then the names of transformers; `N` is the layer's number.
_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "blk.N.attn_norm.weight": "model.layers.N.input_layernorm.weight",
    "blk.N.ffn_norm.weight": "model.layers.N.post_attention_layernorm.weight",
    "blk.N.attn_q.weight": "model.layers.N.self_attn.q_proj.weight",
    "blk.N.attn_k.weight": "model.layers.N.self_attn.k_proj.weight",
    "blk.N.attn_v.weight": "model.layers.N.self_attn.v_proj.weight",
    "blk.N.attn_output.weight": "model.layers.N.self_attn.o_proj.weight",
    "blk.N.attn_q_norm.weight": "model.layers.N.self_attn.q_norm.weight",
    "blk.N.attn_k_norm.weight": "model.layers.N.self_attn.k_norm.weight",
    "blk.N.ffn_gate.weight": "model.layers.N.mlp.gate_proj.weight",
    "blk.N.ffn_up.weight": "model.layers.N.mlp.up_proj.weight",
    "blk.N.ffn_down.weight": "model.layers.N.mlp.down_proj.weight",
}
# How much each rotary frequency is stretched; Llama 3 has it, and its config.json four numbers that say the same.
_ROPE_FACTORS = "rope_freqs.weight"
# The numbers of Llama 3.1 and 3.2 but for the factor, which is the largest of those factors.
_LLAMA3_BAND = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclasses.dataclass(frozen=True)
class Quantised:
    """A tensor of a GGUF file.

    Attributes:
      shape: as NumPy has it, rows first.
      kind: of its numbers, e.g. "Q4_1", "F32".
      nbytes: bytes as it is stored.
      read: gives it dequantised, float32.
    """

    shape: tuple[int, ...]
    kind: str
    nbytes: int
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """What a GGUF file holds.

    Attributes:
      path: of the file.
      fields: by key, e.g. `llama.block_count`; arrays as lists.
      tensors: by their names.
    """

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, Quantised]


def find_file(path: str | Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only one in a folder without safetensors; None where it is none.

    Raises:
      WeightsError: the folder has several.
    """
    path = Path(path)
    if path.is_file():
        return path if path.suffix == SUFFIX else None
    if not path.is_dir() or any(path.glob("*.safetensors*")):
        return None
    files = sorted(path.glob(f"*{SUFFIX}"))
    if len(files) > 1:
        raise WeightsError(f"{path} has {[file.name for file in files]}: name one of these files")
    return files[0] if files else None


def read_file(path: Path) -> GgufFile:
    """Opens a file; tensors are read when they are asked for.

    Raises:
      WeightsError: the package `gguf` is not installed, the file is damaged, or a part of several.
    """
    gguf = import_optional("gguf", "gguf", f"reading {path}")
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, KeyError, IndexError, OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is no whole GGUF file ({error}): fetch it again") from error
    if fields.get("split.count", 1) > 1:
        raise WeightsError(f"{path} is one of {fields['split.count']} parts: join them with `llama-gguf-split --merge`")

    def reading(tensor: Any, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            try:
                numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError as error:
                raise WeightsError(
                    f"{path}: {tensor.name} is {tensor.tensor_type.name}, which the package gguf does not dequantise: "
                    "take a file with Q4_0, Q4_1, Q8_0 or K-quants"
                ) from error
            return np.asarray(numbers, np.float32).reshape(shape)

        return read

    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        tensors[tensor.name] = Quantised(shape, tensor.tensor_type.name, int(tensor.n_bytes), reading(tensor, shape))
    return GgufFile(path, fields, tensors)


class GgufTensors(Tensors[Quantised]):
    """The tensors of a GGUF file under the names of transformers; rows as transformers has them.

    Raises:
      WeightsError: the file is of no family that is read, or does not say how many heads there are.
    """

    def __init__(self, file: GgufFile):
        named = {their_name(name): tensor for name, tensor in file.tensors.items() if name != _ROPE_FACTORS}
        super().__init__(file.path, named)
        family = _family(file)
        self._turned: dict[str, int] = {}
        if family in _NEIGHBOURS_TURN:
            heads = int(_field(file, "attention.head_count"))
            key_heads = int(_field(file, "attention.head_count_kv", heads))
            self._turned = {"q_proj.weight": heads, "k_proj.weight": key_heads}

    def dtype(self, name: str) -> str:
        return self._tensors[name].kind

    def is_floating(self, name: str) -> bool:
        return self._tensors[name].kind not in _INTEGERS

    def read(self, name: str) -> np.ndarray:
        """One tensor, dequantised; rows of queries and keys whose neighbours turn are put into halves of heads."""
        numbers = self._tensors[name].read()
        for suffix, heads in self._turned.items():
            if name.endswith(suffix):
                to_halves, _ = rotary_places(heads)
                return to_halves(numbers)
        return numbers


def their_name(name: str) -> str:
    """The name that transformers has for a tensor; the same name where there is none, which then fits nothing."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) > 2:
        general = _NAMES.get(".".join(["blk", "N", *parts[2:]]))
        return name if general is None else general.replace("N", parts[1], 1)
    return _NAMES.get(name, name)


def config_json(file: GgufFile) -> dict[str, Any]:
    """The `config.json` that a file's fields make.

    Raises:
      WeightsError: it is of no family that is read, lacks a field, or asks for something that is not computed.
    """
    family = _family(file)
    wrong = []
    for key in ("expert_count", "attention.sliding_window"):
        if _field(file, key, 0):
            wrong.append(f"{family}.{key} is {_field(file, key)}, which is not computed")
    scaling = _field(file, "rope.scaling.type", "none")
    if scaling != "none":
        wrong.append(f"{family}.rope.scaling.type is {scaling!r}, which is not computed")
    width, heads = int(_field(file, "embedding_length")), int(_field(file, "attention.head_count"))
    head_width = int(_field(file, "attention.key_length", width // heads))
    for key in ("rope.dimension_count", "attention.value_length"):
        if _field(file, key, head_width) != head_width:
            wrong.append(f"{family}.{key} is {_field(file, key)}, computed is the width of a head, {head_width}")
    if "token_embd.weight" not in file.tensors:
        wrong.append("there is no tensor token_embd.weight")
    if wrong:
        raise WeightsError(f"{file.path} cannot be imported:\n  " + "\n  ".join(wrong))
    base = _decimal(_field(file, "rope.freq_base", 10_000.0))
    rope: dict[str, Any] = {"rope_type": "default"}
    if _ROPE_FACTORS in file.tensors:
        rope = _llama3(file, base, head_width)
    ids = {f"{name}_token_id": file.fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in (
        ("bos", "bos"), ("eos", "eos"), ("pad", "padding")
    )}  # fmt: skip
    return {
        "model_type": family,
        "architectures": [{"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[family]],
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": width,
        "num_hidden_layers": int(_field(file, "block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(_field(file, "attention.head_count_kv", heads)),
        "head_dim": head_width,
        "intermediate_size": int(_field(file, "feed_forward_length")),
        "hidden_act": "silu",
        "rms_norm_eps": _decimal(_field(file, "attention.layer_norm_rms_epsilon")),
        "rope_theta": base,
        "rope_scaling": None if rope["rope_type"] == "default" else rope,
        "max_position_embeddings": int(_field(file, "context_length")),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **{name: int(number) for name, number in ids.items() if number is not None},
    }


def about(file: GgufFile) -> Iterator[str]:
    """What a file says of itself and its licence, a line for each field."""
    for key in (
        "name",
        "organization",
        "author",
        "license",
        "license.link",
        "source.url",
        "source.huggingface.repository",
    ):
        if f"general.{key}" in file.fields:
            yield f"general.{key}: {file.fields[f'general.{key}']}"


def _family(file: GgufFile) -> str:
    family = str(file.fields.get("general.architecture"))
    if family not in ARCHITECTURES:
        raise WeightsError(
            f"{file.path}: general.architecture is {family!r}; read are GGUF files of {', '.join(ARCHITECTURES)}"
        )
    return family


_NEEDED = object()


def _field(file: GgufFile, key: str, otherwise: Any = _NEEDED) -> Any:
    """A field of the family, e.g. `llama.block_count` for "block_count"."""
    name = f"{_family(file)}.{key}"
    if name not in file.fields and otherwise is _NEEDED:
        raise WeightsError(f"{file.path} lacks the field {name}: fetch it again, or take another conversion")
    return file.fields.get(name, otherwise)


def _decimal(value: float) -> float:
    """A number that was rounded to float32, as it was written: 1e-05 and not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _llama3(file: GgufFile, base: float, head_width: int) -> dict[str, Any]:
    """Llama 3's rope scaling, of the factors that the file has for each frequency."""
    factors = file.tensors[_ROPE_FACTORS].read()
    factor = float(factors.max())
    frequency = base ** (-np.arange(0, head_width, 2, dtype=np.float64) / head_width)
    expected = frequency / stretched(frequency, (factor, *_LLAMA3_BAND.values()))
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-4):
        raise WeightsError(
            f"{file.path}: {_ROPE_FACTORS} stretches rotary frequencies in another way than Llama 3 does, which is not "
            "computed"
        )
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3_BAND}
