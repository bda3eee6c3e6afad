"""Language models of the Llama family: Llama (SmolLM2 and Llama 3 among them) and Qwen3.

Both are RMSNorm, rotary positions, grouped-query attention and a gated MLP (Touvron et al., 2023); Qwen3 (Yang et al.,
2025) also normalises queries and keys a head. Names and config fields are those of transformers.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.language import LanguageConfig
from mmduplex_jax.weights.huggingface.layout import Entry, Layout, same, stacked, transposed
from mmduplex_jax.weights.huggingface.reader import TensorFiles, Tensors, WeightsError

MODEL_TYPES = ("llama", "qwen3")
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}
_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
# What transformers takes where a config.json does not say; rope_theta where neither form of it is there.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": False, "head_dim": None},
    "qwen3": {"rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": False, "head_dim": 128},
}
# Fields that change what is computed and that our stack does not have: they must be off.
_MUST_BE_OFF = ("attention_bias", "mlp_bias", "use_sliding_window", "quantization_config")
# Buffers that older versions of transformers saved.
_BUFFERS = (r"(.*\.)?rotary_emb\.inv_freq",)

BASE_PREFIX = "model."
LM_HEAD = "lm_head.weight"


def prefix_of(names: Iterable[str]) -> str:
    """`model.` of a model with a head, or nothing: a base model saved by itself has flat names."""
    return BASE_PREFIX if any(name.startswith(BASE_PREFIX) for name in names) else ""


def architecture(config: Mapping[str, Any], files: Tensors) -> LanguageConfig:
    """Our shape of their `config.json`, unrolled and in float32.

    Args:
      files: the weights: they tell a base model, which has no head, from a whole one.

    Raises:
      WeightsError: the config lacks a field, or asks for something that our stack does not compute; names all of it.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise WeightsError(f"{files.path}: model_type is {kind!r}; language models read are {', '.join(MODEL_TYPES)}")
    needed = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    wrong = [f"{name} is missing" for name in needed if name not in config]
    wrong += [f"{name} is {config[name]!r}, which is not computed" for name in _MUST_BE_OFF if config.get(name)]
    activation = config.get("hidden_act", "silu")
    if activation not in _ACTIVATIONS:
        wrong.append(f"hidden_act is {activation!r}; computed are {', '.join(_ACTIVATIONS)}")
    layer_types = sorted(set(config.get("layer_types") or ()) - {"full_attention"})
    if layer_types:
        wrong.append(f"layer_types has {layer_types}; computed is full_attention")
    base, scaling, rope_wrong = _rope(config, _DEFAULTS[kind]["rope_theta"])
    wrong += rope_wrong
    if wrong:
        raise WeightsError(f"{files.path}/config.json cannot be imported:\n  " + "\n  ".join(wrong))
    value = lambda name: config[name] if config.get(name) is not None else _DEFAULTS[kind][name]
    heads = config["num_attention_heads"]
    text = StackConfig(
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_width=value("head_dim") or config["hidden_size"] // heads,
        hidden=config["intermediate_size"],
        rope_base=base,
        rope_scaling=scaling,
        norm_epsilon=value("rms_norm_eps"),
        activation=_ACTIVATIONS[activation],
        qk_norm=kind == "qwen3",
    )
    tied = bool(value("tie_word_embeddings"))
    is_base = prefix_of(files.names) == "" and LM_HEAD not in files
    return LanguageConfig(text, config["vocab_size"], "tied" if tied else "none" if is_base else "own")


def _rope(config: Mapping[str, Any], default_theta: float) -> tuple[float, tuple[float, ...], list[str]]:
    """Base, scaling, and what cannot be computed, of `rope_parameters` or of `rope_theta` and `rope_scaling`."""
    # Version 5 of transformers writes the first, older ones the others, and both may stand in one file.
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = rope.get("rope_theta", config.get("rope_theta", default_theta))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return float(theta), (), []
    if kind != "llama3":
        return float(theta), (), [f"rope_type is {kind!r}; computed are default and llama3"]
    absent = [name for name in _LLAMA3 if name not in rope]
    if absent:
        return float(theta), (), [f"the llama3 rope scaling lacks {absent}"]
    return float(theta), tuple(float(rope[name]) for name in _LLAMA3), []


def config_json(config: LanguageConfig, max_positions: int = 2048) -> dict[str, Any]:
    """A `config.json` with which transformers builds the same model.

    Args:
      max_positions: what to say as `max_position_embeddings`; nothing is computed from it.
    """
    text = config.text
    name = "Model" if config.head == "none" else "ForCausalLM"
    kind = "qwen3" if text.qk_norm else "llama"
    back = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
    rope: dict[str, Any] = {"rope_type": "default"}
    if text.rope_scaling:
        rope = {"rope_type": "llama3", **dict(zip(_LLAMA3, text.rope_scaling, strict=True))}
        rope["original_max_position_embeddings"] = int(text.rope_scaling[3])
    return {
        "architectures": [{"llama": "Llama", "qwen3": "Qwen3"}[kind] + name],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": text.width,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "num_key_value_heads": text.kv_heads,
        "head_dim": text.head_width,
        "intermediate_size": text.hidden,
        "hidden_act": back[text.activation],
        "rms_norm_eps": text.norm_epsilon,
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": config.head == "tied",
        "attention_bias": False,
        # Version 5 of transformers reads the first, older ones the other two.
        "rope_parameters": {"rope_theta": text.rope_base, **rope},
        "rope_theta": text.rope_base,
        "rope_scaling": rope if text.rope_scaling else None,
        "torch_dtype": "float32",
    }


def layout(config: LanguageConfig, prefix: str = BASE_PREFIX) -> Layout:
    """Tensors of a language model: `embedding`, `text/…` as a `Stack` has it (scanned or not), and `head`.

    Args:
      prefix: of their names, but for `lm_head.weight`.
    """
    stack = stack_layout(config.text).prefixed("text/", prefix)
    entries = [same("embedding", f"{prefix}embed_tokens.weight"), *stack.entries]
    ignored: tuple[str, ...] = _BUFFERS
    if config.head == "own":
        entries.append(same("head", LM_HEAD))
    else:
        ignored += (LM_HEAD.replace(".", r"\."),)  # a copy of a tied embedding; the import compares it
    return Layout(tuple(entries), ignored)


def stream_layout(config: StackConfig, tied: bool) -> Layout:
    """Tensors of the language model inside a model that also watches: cross-attention and delays have no entry.

    Args:
      config: the text stream's stack, scanned or not, with or without cross-attention.
      tied: whether the head is the embedding.
    """
    entries = [same("embedding", f"{BASE_PREFIX}embed_tokens.weight")]
    entries += [] if tied else [same("head", LM_HEAD)]
    return Layout(tuple(entries)) + stack_layout(config).prefixed("text/", BASE_PREFIX)


def alone(config: StackConfig, vocab_size: int, head: str) -> LanguageConfig:
    """The language model of such a stack by itself: unrolled, in float32, with nothing to look at."""
    plain = dataclasses.replace(
        config,
        cross_every=0,
        cross_gate=0.0,
        num_sinks=0,
        window_steps=StackConfig.window_steps,
        scan=False,
        remat=False,
        dtype="float32",
    )
    return LanguageConfig(plain, vocab_size, head)


def stack_layout(config: StackConfig) -> Layout:
    """The layers and the last norm of a `Stack`, its cross-attention left out; theirs are `layers.0. …` and `norm`."""
    entries: list[Entry] = []
    if config.scan:
        for i in range(config.group_size):
            layers = range(i, config.layers, config.group_size)
            columns = zip(*(_block(config, f"groups/block_{i}/", layer) for layer in layers), strict=True)
            entries += [stacked(column) for column in columns]
    else:
        for layer in range(config.layers):
            group, block = divmod(layer, config.group_size)
            entries += _block(config, f"group_{group}/block_{block}/", layer)
    return Layout((*entries, same("norm/scale", "norm.weight")))


def _block(config: StackConfig, ours: str, layer: int) -> list[Entry]:
    theirs = f"layers.{layer}."
    entries = [
        same(f"{ours}attention_norm/scale", f"{theirs}input_layernorm.weight"),
        same(f"{ours}mlp_norm/scale", f"{theirs}post_attention_layernorm.weight"),
    ]
    for name, short in (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o")):
        entries.append(transposed(f"{ours}attention/{name}/kernel", f"{theirs}self_attn.{short}_proj.weight"))
    if config.qk_norm:
        for name, short in (("query", "q"), ("key", "k")):
            entries.append(same(f"{ours}attention/{name}_norm/scale", f"{theirs}self_attn.{short}_norm.weight"))
    for name in ("gate", "up", "down"):
        entries.append(transposed(f"{ours}mlp/{name}/kernel", f"{theirs}mlp.{name}_proj.weight"))
    return entries


def check_tied(files: TensorFiles, config: LanguageConfig) -> None:
    """Raises WeightsError where `lm_head.weight` is there, should be a copy of the embedding, and is none."""
    embedding = f"{prefix_of(files.names)}embed_tokens.weight"
    if config.head != "tied" or LM_HEAD not in files or embedding not in files:
        return
    if not files.are_equal(LM_HEAD, embedding):
        raise WeightsError(
            f"{files.path}/config.json ties the head to the embedding, but {LM_HEAD} differs from {embedding}: set "
            '"tie_word_embeddings": false there if the head is meant, or remove that tensor'
        )
