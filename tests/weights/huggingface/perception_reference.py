"""PE-Core's published arithmetic in PyTorch, by itself: neither transformers nor a package has it under its own names.

Written from the paper (Bolya et al., 2025) and from what `perception_models` computes, one function a tower over a dict
of tensors in the published names; nothing is shared with the code under test.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]
EPSILON = 1e-5


def random_vision(
    generator, width: int, layers: int, hidden: int, patch: int, side: int, class_token: bool, output: int
) -> Tensors:
    """Tensors of a vision tower, in the published names."""
    draw = lambda *shape: torch.randn(*shape, generator=generator) * (1.2 / math.sqrt(shape[-1]))
    tensors = {
        "conv1.weight": torch.randn(width, 3, patch, patch, generator=generator) / math.sqrt(3 * patch * patch),
        "positional_embedding": torch.randn(side * side + class_token, width, generator=generator) * 0.5,
        **_norm("ln_pre", width, generator),
        **_norm("ln_post", width, generator),
        "attn_pool.probe": torch.randn(1, 1, width, generator=generator),
        **_attention("attn_pool.attn", width, generator),
        **_norm("attn_pool.layernorm", width, generator),
        **_mlp("attn_pool.mlp", width, 4 * width, generator),
        "proj": draw(width, output),
    }
    if class_token:
        tensors["class_embedding"] = torch.randn(width, generator=generator) * 0.5
    return tensors | _layers(width, layers, hidden, generator)


def random_text(generator, width: int, layers: int, hidden: int, vocab: int, length: int, output: int) -> Tensors:
    """Tensors of a text tower and of the scale, in the published names."""
    return {
        "token_embedding.weight": torch.randn(vocab, width, generator=generator),
        "positional_embedding": torch.randn(length, width, generator=generator) * 0.5,
        **_norm("ln_final", width, generator),
        "text_projection": torch.randn(width, output, generator=generator) / math.sqrt(width),
        "logit_scale": torch.tensor(1.7),
        **_layers(width, layers, hidden, generator),
    }


def _layers(width: int, layers: int, hidden: int, generator) -> Tensors:
    tensors: Tensors = {}
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        tensors |= _norm(f"{block}.ln_1", width, generator) | _norm(f"{block}.ln_2", width, generator)
        tensors |= _attention(f"{block}.attn", width, generator) | _mlp(f"{block}.mlp", width, hidden, generator)
    return tensors


def _norm(name: str, width: int, generator) -> Tensors:
    return {
        f"{name}.weight": 1 + 0.2 * torch.randn(width, generator=generator),
        f"{name}.bias": 0.2 * torch.randn(width, generator=generator),
    }


def _linear(name: str, inputs: int, outputs: int, generator) -> Tensors:
    return {
        f"{name}.weight": torch.randn(outputs, inputs, generator=generator) * (1.2 / math.sqrt(inputs)),
        f"{name}.bias": 0.2 * torch.randn(outputs, generator=generator),
    }


def _attention(name: str, width: int, generator) -> Tensors:
    fused = _linear("fused", width, 3 * width, generator)
    return {
        f"{name}.in_proj_weight": fused["fused.weight"],
        f"{name}.in_proj_bias": fused["fused.bias"],
        **_linear(f"{name}.out_proj", width, width, generator),
    }


def _mlp(name: str, width: int, hidden: int, generator) -> Tensors:
    return _linear(f"{name}.c_fc", width, hidden, generator) | _linear(f"{name}.c_proj", hidden, width, generator)


def vision(t: Tensors, pictures: Tensor, heads: int, pool_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """`[B, 3, H, W]` to tokens after the last norm, the pooled vector, and its projection."""
    patch, width = t["conv1.weight"].shape[-1], t["conv1.weight"].shape[0]
    x = F.conv2d(pictures, t["conv1.weight"], stride=patch)
    rows, columns = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    table = t["positional_embedding"]
    has_class = "class_embedding" in t
    places = table[1:] if has_class else table
    side = math.isqrt(len(places))
    if (rows, columns) != (side, side):
        plane = places.T.reshape(1, width, side, side)
        plane = F.interpolate(plane, size=(rows, columns), mode="bilinear", align_corners=False)
        places = plane.reshape(width, -1).T
    x = x + places
    # The angle of a pair of neighbours: the first quarter of a head's width by the column, the second by the row.
    count = width // heads // 4
    frequency = 10_000.0 ** (-torch.arange(count).double() * 4 / (width // heads))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    at = torch.stack([column.flatten(), row.flatten()], dim=1).double() + int(has_class)
    angles = (at[:, :, None] * frequency).flatten(1)
    if has_class:
        first = (t["class_embedding"] + table[0]).expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1)
        angles = torch.cat([torch.zeros(1, 2 * count).double(), angles])
    turn = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
    x = _norm_of(t, "ln_pre", x)
    x = _run(t, x, heads, turn=turn)
    tokens = _norm_of(t, "ln_post", x)
    probe = t["attn_pool.probe"].expand(len(x), -1, -1)
    pooled = _attend(t, "attn_pool.attn", probe, tokens, pool_heads)
    pooled = pooled + _mlp_of(t, "attn_pool.mlp", _norm_of(t, "attn_pool.layernorm", pooled))
    return tokens, pooled[:, 0], pooled[:, 0] @ t["proj"]


def text(t: Tensors, ids: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """`[B, S]` to tokens after the last norm and the projection of the token with the largest id."""
    x = t["token_embedding.weight"][ids] + t["positional_embedding"][: ids.shape[1]]
    later = torch.ones(ids.shape[1], ids.shape[1]).triu(1).bool()
    tokens = _norm_of(t, "ln_final", _run(t, x, heads, hidden_keys=later))
    return tokens, tokens[torch.arange(len(ids)), ids.argmax(dim=1)] @ t["text_projection"]


def _run(t: Tensors, x: Tensor, heads: int, **kwargs) -> Tensor:
    i = 0
    while f"transformer.resblocks.{i}.ln_1.weight" in t:
        block = f"transformer.resblocks.{i}"
        normed = _norm_of(t, f"{block}.ln_1", x)
        x = x + _attend(t, f"{block}.attn", normed, normed, heads, **kwargs)
        x = x + _mlp_of(t, f"{block}.mlp", _norm_of(t, f"{block}.ln_2", x))
        i += 1
    return x


def _norm_of(t: Tensors, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], EPSILON)


def _mlp_of(t: Tensors, name: str, x: Tensor) -> Tensor:
    hidden = F.gelu(F.linear(x, t[f"{name}.c_fc.weight"], t[f"{name}.c_fc.bias"]))
    return F.linear(hidden, t[f"{name}.c_proj.weight"], t[f"{name}.c_proj.bias"])


def _attend(
    t: Tensors,
    name: str,
    x: Tensor,
    context: Tensor,
    heads: int,
    turn: Tensor | None = None,
    hidden_keys: Tensor | None = None,
) -> Tensor:
    weights, biases = t[f"{name}.in_proj_weight"].chunk(3), t[f"{name}.in_proj_bias"].chunk(3)
    split = lambda a: a.unflatten(-1, (heads, -1)).transpose(1, 2)
    query, key, value = (
        split(F.linear(a, weight, bias)) for a, weight, bias in zip((x, context, context), weights, biases)
    )
    if turn is not None:
        rotate = lambda a: torch.view_as_real(torch.view_as_complex(a.unflatten(-1, (-1, 2)).contiguous()) * turn)
        query, key = rotate(query).flatten(-2), rotate(key).flatten(-2)
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if hidden_keys is not None:
        logits = logits.masked_fill(hidden_keys, -torch.inf)
    out = (logits.softmax(dim=-1) @ value).transpose(1, 2).flatten(-2)
    return F.linear(out, t[f"{name}.out_proj.weight"], t[f"{name}.out_proj.bias"])
