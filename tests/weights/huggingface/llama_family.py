"""Random language models of transformers, saved as they save themselves; what imports are compared with."""

from pathlib import Path

import pytest

# Odd head counts, grouped queries, head widths that are not width / heads, other activations, with and without heads.
SHAPES = {
    "llama_3_heads": dict(model_type="llama", hidden_size=48, num_attention_heads=3, num_key_value_heads=3),
    "llama_grouped_untied": dict(model_type="llama", num_attention_heads=6, num_key_value_heads=2, hidden_size=48),
    "llama_15_5": dict(
        model_type="llama",
        hidden_size=60,
        num_attention_heads=15,
        num_key_value_heads=5,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    ),
    "llama_gelu": dict(model_type="llama", num_attention_heads=4, num_key_value_heads=1, hidden_act="gelu"),
    "llama_gelu_tanh": dict(
        model_type="llama", num_attention_heads=4, num_key_value_heads=2, hidden_act="gelu_pytorch_tanh", head_dim=10
    ),
    "llama3_scaled": dict(
        model_type="llama",
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        rope_parameters=dict(
            rope_type="llama3",
            rope_theta=500_000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8,
        ),
    ),
    "qwen3_tied": dict(
        model_type="qwen3", num_attention_heads=6, num_key_value_heads=3, head_dim=16, tie_word_embeddings=True
    ),
    "qwen3_untied": dict(
        model_type="qwen3",
        num_attention_heads=5,
        num_key_value_heads=1,
        head_dim=32,
        rope_parameters=dict(rope_type="default", rope_theta=1_000_000.0),
    ),
}
_DEFAULTS = dict(
    vocab_size=99, hidden_size=40, intermediate_size=72, num_hidden_layers=2, max_position_embeddings=64
) | dict(bos_token_id=1, eos_token_id=2, attn_implementation="eager")


def libraries():
    """PyTorch and transformers; skips where they are not installed."""
    reason = "the reference is transformers with PyTorch: pip install 'mmduplex-jax[parity]'"
    torch = pytest.importorskip("torch", reason=reason)
    torch.set_num_threads(1)  # threads of two libraries wait for each other longer than such small models take
    return torch, pytest.importorskip("transformers", reason=reason)


def random_model(head: bool = True, seed: int = 0, noise: float = 0.05, **config):
    """A model in evaluation mode; `noise` on everything: norms too are random, small models say something."""
    torch, transformers = libraries()
    torch.manual_seed(seed)
    settings = transformers.AutoConfig.for_model(**(_DEFAULTS | config))
    kind = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    model = kind.from_config(settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def save(model, folder: Path, **options) -> Path:
    model.save_pretrained(folder, **options)
    return folder
