"""Imported weights beside the model that they came from: the same random inputs through both, and how far they differ.

The references are transformers' models (and timm's of Perception Encoder), with PyTorch on the CPU: the extra `parity`;
of convolutional towers see `convolutional/reference.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from mmduplex_jax.codec.codec import Codec
from mmduplex_jax.codec.config import CodecConfig
from mmduplex_jax.models.language import LanguageConfig, LanguageModel, LanguageState
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.towers.contrastive import Contrastive, ContrastiveConfig
from mmduplex_jax.towers.vision import VisionConfig, VisionTower
from mmduplex_jax.typing import Array, PyTree
from mmduplex_jax.weights.convolutional import reference
from mmduplex_jax.weights.convolutional.source import CONFIGS, ConvolutionalConfig
from mmduplex_jax.weights.huggingface import gguf, mimi
from mmduplex_jax.weights.huggingface.reader import WeightsError, import_optional, read_config
from mmduplex_jax.weights.huggingface.source import config_from_metadata, module_of

ROWS, TOKENS = 2, 24
CODEC_STEPS = 3
_CLASSES = {"clip": "CLIP", "siglip": "Siglip", "siglip2": "Siglip2"}

Outputs = dict[str, np.ndarray]


def check_possible(family: str, source: str | Path) -> None:
    """WeightsError where weights of a family have no reference, or what it needs is not installed.

    Args:
      family: of the weights.
      source: where they are from; transformers needs more packages for GGUF files.
    """
    if family == "pe":
        raise WeightsError(
            f"{source}: no library reads Perception Encoder under these names, so there is nothing to verify with: "
            "import it without --verify, or from timm's names"
        )
    if family == mimi.MOSHI:
        raise WeightsError(
            f"{source}: transformers reads Mimi under other names, so there is nothing to verify with: import it "
            "without --verify, or from a directory of transformers (kyutai/mimi)"
        )
    if family in CONFIGS:
        reference.check_possible(family)
        return
    more = ("gguf", "accelerate") if gguf.find_file(source) else ()
    for name in ("torch", "timm") if family == "pe_timm" else ("torch", "transformers", *more):
        _import(name)


def _import(name: str) -> Any:
    return import_optional(name, "gguf" if name == "gguf" else "parity", "verifying")


def verify(source: str | Path, weights: str | Path, tolerance: float, seed: int = 0) -> dict[str, Any]:
    """Compares imported weights with their reference.

    Args:
      source: the Hugging Face directory, or the file.
      tolerance: the largest absolute difference that passes.

    Returns:
      JSON: `max_abs_diff` and the `largest` absolute value by output, `reference`, `tolerance`, `passed`.

    Raises:
      WeightsError: there is no reference for this architecture, or it is not installed.
    """
    from mmduplex_jax.weights.checkpoint import read_weights

    params, metadata = read_weights(weights)
    check_possible(metadata["family"], source)
    config = config_from_metadata(metadata)
    rng = np.random.default_rng(seed)
    if isinstance(config, LanguageConfig):
        tokens = rng.integers(0, config.vocab_size, (ROWS, TOKENS)).astype(np.int32)
        theirs, name = _their_text(source, tokens, with_logits=config.head != "none")
        ours = text_outputs(config, params, tokens)
    elif isinstance(config, CodecConfig):
        samples = rng.uniform(-1, 1, (ROWS, CODEC_STEPS * config.step_samples)).astype(np.float32)
        theirs, name = _their_codec(source, samples)
        ours = codec_outputs(config, params, samples, theirs["codes"].astype(np.int32))
    elif isinstance(config, ConvolutionalConfig):
        theirs, ours, name = reference.compare(source, config, params, ROWS, rng)
    else:
        inputs = _pictures(config, rng)
        theirs, name = _their_vision(source, config, metadata["family"], inputs)
        ours = _our_vision(config, params, inputs)
    differences = {key: float(np.abs(theirs[key] - ours[key]).max()) for key in theirs}
    return {
        "reference": name,
        "tolerance": tolerance,
        "inputs": f"{ROWS} random rows, seed {seed}",
        "max_abs_diff": differences,
        "largest": {key: float(np.abs(value).max()) for key, value in theirs.items()},
        # Not `any(d > tolerance)`: NaN is larger than nothing.
        "passed": all(difference <= tolerance for difference in differences.values()),
    }


# Language models.


def text_outputs(config: LanguageConfig, params: Mapping[str, Any], tokens: np.ndarray) -> Outputs:
    """Ours: hidden states, logits where there is a head, and both again from one token at a time with rings."""
    model = LanguageModel(config)
    run = lambda method: jax.jit(lambda params, *inputs: model.apply({"params": params}, *inputs, method=method))
    named = lambda hidden, suffix: (
        {f"hidden{suffix}": np.asarray(hidden)}
        | ({} if config.head == "none" else {f"logits{suffix}": np.asarray(run("logits")(params, hidden))})
    )
    state, step, hidden = model.initial_state(*tokens.shape), run("step"), []
    for position in range(tokens.shape[1]):
        state, one = step(params, state, tokens[:, position])
        hidden.append(one)
    return named(run("__call__")(params, tokens), "") | named(jnp.stack(hidden, axis=1), " (cached)")


def continuation(
    config: LanguageConfig, params: Mapping[str, Any], tokenizer: TextTokenizer, text: str, tokens: int
) -> str:
    """How the language model goes on with a text: `tokens` more, each the likeliest.

    Args:
      config, params: the model.
      tokenizer: its own; the text is taken as it stands, without marks of a beginning.
      text: to go on with.
      tokens: how many.
    """
    plain = Tokenizer.from_str(tokenizer.to_json())
    ids = plain.encode(text, add_special_tokens=False).ids
    model = LanguageModel(config)

    @jax.jit
    def step(params: PyTree, state: LanguageState, token: Array) -> tuple[LanguageState, Array]:
        state, hidden = model.apply({"params": params}, state, token, method="step")
        logits = model.apply({"params": params}, hidden[:, None], method="logits")
        return state, jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32)

    state, said = model.initial_state(1, len(ids) + tokens), list[int]()
    for number in range(len(ids) + tokens - 1):
        token = ids[number] if number < len(ids) else said[-1]
        state, likeliest = step(params, state, jnp.array([token], jnp.int32))
        if number >= len(ids) - 1:
            said.append(int(likeliest[0]))
    return str(plain.decode(said, skip_special_tokens=False))


def _their_text(source: str | Path, tokens: np.ndarray, with_logits: bool) -> tuple[Outputs, str]:
    torch, transformers = _import("torch"), _import("transformers")
    kind = transformers.AutoModelForCausalLM if with_logits else transformers.AutoModel
    model = _loaded(kind, source)
    inputs, cache, found = torch.tensor(tokens).long(), None, []
    with torch.no_grad():
        outputs = [model(inputs, output_hidden_states=True)]
        for position in range(tokens.shape[1]):
            out = model(
                inputs[:, position : position + 1], past_key_values=cache, use_cache=True, output_hidden_states=True
            )
            cache = out.past_key_values
            found.append(out)
    join = lambda pick, outs: np.concatenate([pick(out).numpy() for out in outs], axis=1)
    result = {}
    for suffix, outs in (("", outputs), (" (cached)", found)):
        result[f"hidden{suffix}"] = join(lambda out: out.hidden_states[-1], outs)
        if with_logits:
            result[f"logits{suffix}"] = join(lambda out: out.logits, outs)
    return result, _named(model)


# Sound.


def codec_outputs(config: CodecConfig, params: Mapping[str, Any], samples: np.ndarray, codes: np.ndarray) -> Outputs:
    """Ours: latents and codes of samples `[B, L]`, and the wave of codes `[B, S, J]` of whomever."""
    run = lambda method, *inputs: np.asarray(
        jax.jit(lambda params, *a: Codec(config).apply({"params": params}, *a, method=method))(params, *inputs)
    )
    return {
        "latents": run("latents", samples),
        "codes": run("encode", samples).astype(np.float32),
        "wave": run("decode", codes),
    }


def _their_codec(source: str | Path, samples: np.ndarray) -> tuple[Outputs, str]:
    torch, transformers = _import("torch"), _import("transformers")
    model = _loaded(transformers.MimiModel, source)
    inputs = torch.tensor(samples)[:, None]
    with torch.no_grad():
        latents = model.encoder(inputs).latents
        codes = model.encode(inputs).audio_codes
        wave = model.decode(codes).audio_values[:, 0]
    last = lambda a: a.transpose(1, 2).numpy()
    return {"latents": last(latents), "codes": last(codes).astype(np.float32), "wave": wave.numpy()}, _named(model)


# Pictures.


def _pictures(config: VisionConfig | ContrastiveConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random pictures; patches of unlike grids for NaFlex; texts for a pair."""
    vision = config.vision if isinstance(config, ContrastiveConfig) else config
    patch = vision.patch_px**2 * vision.channels
    inputs: dict[str, np.ndarray] = {}
    if vision.positions == "naflex":
        most, (rows, columns) = vision.patches, vision.grid
        grid = np.array([(rows, columns), (max(1, rows // 2), columns)], np.int32)
        mask = np.arange(most)[None] < grid.prod(axis=1)[:, None]
        values = rng.standard_normal((ROWS, most, patch)).astype(np.float32) * mask[..., None]
        inputs |= {"patches": values, "grid": grid, "mask": mask}
    else:
        inputs["pictures"] = rng.standard_normal((ROWS, *vision.image_px, vision.channels)).astype(np.float32)
    if isinstance(config, ContrastiveConfig):
        text = config.text
        ids = rng.integers(0, text.vocab_size, (ROWS, text.length)).astype(np.int32)
        if text.pool == "end":
            ids[ids == text.end_id] = (text.end_id + 1) % text.vocab_size
            ids[:, -1] = text.end_id
        inputs["ids"] = ids
    return inputs


def _our_vision(
    config: VisionConfig | ContrastiveConfig, params: Mapping[str, Any], inputs: Mapping[str, np.ndarray]
) -> Outputs:
    patches = ("patches", "grid", "mask") if "grid" in inputs else ()
    pictures = lambda given: [given[name] for name in patches or ("pictures",)]

    def encode(tower: VisionTower, given: Mapping[str, Any]) -> Any:
        return (tower.from_patches if patches else tower)(*pictures(given))

    def pair(model: Contrastive, given: Mapping[str, Any]) -> Any:
        image = (model.encode_patches if patches else model.encode_image)(*pictures(given))
        compared = model.compare(image, model.encode_text(given["ids"]))
        return encode(model.vision, given), model.text(given["ids"]), compared

    module = module_of(config)
    run = lambda method: jax.jit(lambda params, given: module.apply({"params": params}, given, method=method))(
        params, dict(inputs)
    )
    if isinstance(config, VisionConfig):
        vision = run(encode)
        outputs = {"hidden": vision.tokens, "pooled": vision.pooled}
        if config.projection:
            outputs["embedding"] = vision.embedding
    else:
        vision, text, compared = run(pair)
        outputs = {"hidden": vision.tokens, "text hidden": text.tokens}
        outputs |= {"image": compared.image, "text": compared.text, "logits": compared.logits}
    return _masked({key: np.asarray(value) for key, value in outputs.items() if value is not None}, inputs)


def _masked(outputs: Outputs, inputs: Mapping[str, np.ndarray]) -> Outputs:
    """Hidden states of patches that only fill up are set to zero."""
    if "mask" not in inputs:
        return outputs
    return outputs | {"hidden": outputs["hidden"] * inputs["mask"][..., None]}


def _their_vision(
    source: str | Path, config: VisionConfig | ContrastiveConfig, family: str, inputs: Mapping[str, np.ndarray]
) -> tuple[Outputs, str]:
    if family == "pe_timm" and isinstance(config, VisionConfig):
        return _their_timm(source, config, inputs)
    torch, transformers = _import("torch"), _import("transformers")
    name = _CLASSES[family] + ("Model" if isinstance(config, ContrastiveConfig) else "VisionModel")
    if isinstance(config, VisionConfig) and family == "clip" and config.projection:
        name += "WithProjection"
    model = _loaded(getattr(transformers, name), source)
    if "grid" in inputs:
        given = {
            "pixel_values": torch.tensor(inputs["patches"]),
            "pixel_attention_mask": torch.tensor(inputs["mask"]).int(),
            "spatial_shapes": torch.tensor(inputs["grid"]).long(),
        }
    else:
        given = {"pixel_values": torch.tensor(inputs["pictures"]).permute(0, 3, 1, 2)}
    if "ids" in inputs:
        given["input_ids"] = torch.tensor(inputs["ids"]).long()
    with torch.no_grad():
        out = model(**given)
    if isinstance(config, ContrastiveConfig):
        # What `pooler_output` of a pair is, before or after the projection, differs from version to version.
        hidden = out.vision_model_output.last_hidden_state, out.text_model_output.last_hidden_state
        found = dict(zip(("hidden", "text hidden"), hidden, strict=True))
        found |= {"image": out.image_embeds, "text": out.text_embeds, "logits": out.logits_per_image}
    else:
        found = {"hidden": out.last_hidden_state}
        if name.endswith("WithProjection"):
            found["embedding"] = out.image_embeds
        elif config.pool != "none":
            found["pooled"] = out.pooler_output
    return _masked({key: value.numpy() for key, value in found.items()}, inputs), _named(model)


def _their_timm(source: str | Path, config: VisionConfig, inputs: Mapping[str, np.ndarray]) -> tuple[Outputs, str]:
    torch, timm = _import("torch"), _import("timm")
    values = read_config(source)
    options = {"num_classes": values.get("num_classes", 0), **values.get("model_args", {})}
    model = timm.create_model(values["architecture"], pretrained=False, **options).eval()
    load_file = _import("safetensors.torch").load_file
    model.load_state_dict(load_file(str(Path(source) / "model.safetensors")))
    pictures = torch.tensor(inputs["pictures"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        hidden = model.forward_features(pictures)
        pooled = model.forward_head(hidden, pre_logits=True)
        found = {"hidden": hidden, "pooled": pooled}
        if config.projection:
            found["embedding"] = model(pictures)
    return {key: value.numpy() for key, value in found.items()}, f"timm {timm.__version__} {values['architecture']}"


def _loaded(kind: Any, source: str | Path) -> Any:
    torch, file = _import("torch"), gguf.find_file(source)
    options = {} if file is None else {"gguf_file": file.name}
    folder = source if file is None else file.parent
    return kind.from_pretrained(str(folder), dtype=torch.float32, attn_implementation="eager", **options).eval()


def _named(model: Any) -> str:
    return f"transformers {_import('transformers').__version__} {type(model).__name__}"
