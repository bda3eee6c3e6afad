"""Language models beside transformers: hidden states and logits over a whole text, and a token at a time."""

import functools
from pathlib import Path

import numpy as np

from mmduplex_jax.weights.huggingface.layout import read_params
from mmduplex_jax.weights.huggingface.source import open_source
from mmduplex_jax.weights.verify import text_outputs
from tests.weights.huggingface import llama_family
from tests.weights.huggingface.llama_family import SHAPES
from tests.weights.huggingface.parity_cases import Case, Comparison

TOKENS = np.random.default_rng(0).integers(0, 99, (2, 12)).astype(np.int32)


def theirs(model, head: bool = True) -> dict[str, np.ndarray]:
    """Hidden states and logits over the whole text, and with their cache a token at a time."""
    torch, _ = llama_family.libraries()
    tokens, cache, outs = torch.tensor(TOKENS).long(), None, []
    with torch.no_grad():
        whole = [model(tokens, output_hidden_states=True)]
        for i in range(TOKENS.shape[1]):
            outs.append(model(tokens[:, i : i + 1], past_key_values=cache, use_cache=True, output_hidden_states=True))
            cache = outs[-1].past_key_values
    found = {}
    for suffix, several in (("", whole), (" (cached)", outs)):
        found[f"hidden{suffix}"] = np.concatenate([out.hidden_states[-1].numpy() for out in several], axis=1)
        if head:
            found[f"logits{suffix}"] = np.concatenate([out.logits.numpy() for out in several], axis=1)
    return found


def differences(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> dict[str, float]:
    """Max |Δ| by name, of outputs of the same names."""
    assert found.keys() == wanted.keys()
    return {name: float(np.abs(found[name] - wanted[name]).max()) for name in wanted}


def _language(folder: Path, shape: str) -> Comparison:
    model = llama_family.random_model(**SHAPES[shape])
    source = open_source(llama_family.save(model, folder))
    params = read_params(source.files, source.layout, source.shapes)
    return Comparison(differences(text_outputs(source.config, params, TOKENS), theirs(model)), source, params)


_SAID = {
    "llama_3_heads": "3 heads",
    "llama_grouped_untied": "6 heads on 2, own head",
    "llama_15_5": "15 heads on 5, tied",
    "llama_gelu": "GELU, 4 heads on 1",
    "llama_gelu_tanh": "GELU (tanh), heads 10 wide",
    "llama3_scaled": "rotary positions scaled as in Llama 3",
    "qwen3_tied": "6 heads on 3, 16 wide, tied",
    "qwen3_untied": "5 heads on 1, 32 wide, own head",
}
_FAMILIES = {"llama": "Llama", "qwen3": "Qwen3"}


def _case(shape: str) -> Case:
    family = SHAPES[shape]["model_type"]
    return Case(_FAMILIES[family], _SAID[shape], family, functools.partial(_language, shape=shape))


BY_SHAPE = {shape: _case(shape) for shape in SHAPES}
CASES = tuple(BY_SHAPE.values())
