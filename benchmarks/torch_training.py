"""The transformers of our models written in PyTorch, to train beside them: SDPA, fused AdamW, compiled where asked.

The same architecture with the same parameters (`load`), so that both give the same loss. One thing is cheaper here: the
logit for attending to nothing is the constant zero that it begins with, not a learned number a head. Attention sinks
move nothing within a clip (`layers/attention.py`: their distance is clipped at the window), so they are plain keys.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mmduplex_jax.layers.transformer import StackConfig

Tensor = torch.Tensor


def rotate(x: Tensor, phase: Tensor) -> Tensor:
    """Turns the halves of `[B, H, S, E]` by `[2, S, E/2]`, in float32 as ours."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = phase[0], phase[1]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).type_as(x)


class RMSNorm(nn.Module):
    """`layers/dense.RMSNorm`; its sums are in float32, its product in the input's dtype."""

    def __init__(self, width: int, epsilon: float = 1e-5):
        super().__init__()
        self.scale, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, self.scale.type_as(x), self.epsilon)


class Block(nn.Module):
    """One layer of `layers/transformer.Stack`."""

    def __init__(self, c: StackConfig, cross: bool):
        super().__init__()
        self.c, heads, kv = c, c.heads * c.head_width, c.kv_heads * c.head_width
        linear = lambda inner, out: nn.Linear(inner, out, bias=False)
        self.attention_norm, self.mlp_norm = RMSNorm(c.width, c.norm_epsilon), RMSNorm(c.width, c.norm_epsilon)
        self.query, self.key, self.value = linear(c.width, heads), linear(c.width, kv), linear(c.width, kv)
        self.out = linear(heads, c.width)
        self.gate, self.up, self.down = linear(c.width, c.hidden), linear(c.width, c.hidden), linear(c.hidden, c.width)
        self.cross = cross
        if cross:
            self.cross_norm = RMSNorm(c.width, c.norm_epsilon)
            self.cross_query, self.cross_out = linear(c.width, heads), linear(heads, c.width)
            self.cross_gate = nn.Parameter(torch.zeros(1))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.c.head_width)).transpose(1, 2)

    def forward(
        self, x: Tensor, phase: Tensor, mask: Tensor | None, video: tuple[Tensor, Tensor] | None, cross_mask: Any
    ) -> Tensor:
        normed = self.attention_norm(x)
        query, key = rotate(self.split(self.query(normed)), phase), rotate(self.split(self.key(normed)), phase)
        found = F.scaled_dot_product_attention(
            query, key, self.split(self.value(normed)), mask, is_causal=mask is None, enable_gqa=True
        )
        x = x + self.out(found.transpose(1, 2).flatten(2))
        if self.cross and video is not None:
            query = rotate(self.split(self.cross_query(self.cross_norm(x))), phase)
            found = F.scaled_dot_product_attention(query, *video, cross_mask, enable_gqa=True)
            x = x + self.cross_out(found.transpose(1, 2).flatten(2)) * torch.tanh(self.cross_gate).type_as(x)
        normed = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Stack(nn.Module):
    """`layers/transformer.Stack` over a whole clip."""

    def __init__(self, c: StackConfig):
        super().__init__()
        self.blocks = nn.ModuleList(Block(c, bool(c.cross_every) and i % c.group_size == 0) for i in range(c.layers))
        self.norm, self.group_size = RMSNorm(c.width, c.norm_epsilon), c.group_size

    def forward(self, x: Tensor, phase: Tensor, mask: Tensor | None = None, video: Any = None, cross_mask: Any = None):
        for i, block in enumerate(self.blocks):
            x = block(x, phase, mask, video[i // self.group_size] if video is not None else None, cross_mask)
        return self.norm(x)


def _pairs(stack: Stack, ours: Mapping[str, Any]) -> list[tuple[Tensor, Any]]:
    """A parameter there and ours, of an unrolled stack."""
    found = [(stack.norm.scale, ours["norm"]["scale"])]
    for i, block in enumerate(stack.blocks):
        at = ours[f"group_{i // stack.group_size}"][f"block_{i % stack.group_size}"]
        norms = ["attention_norm", "mlp_norm"] + ["cross_norm"] * block.cross
        found += [(getattr(block, name).scale, at[name]["scale"]) for name in norms]
        attention = ("query", "key", "value", "out")
        found += [(getattr(block, name).weight, at["attention"][name]["kernel"]) for name in attention]
        found += [(getattr(block, name).weight, at["mlp"][name]["kernel"]) for name in ("gate", "up", "down")]
        if block.cross:
            found += [
                (getattr(block, f"cross_{name}").weight, at["cross"][name]["kernel"]) for name in ("query", "out")
            ]
            found += [(block.cross_gate, at["cross"]["gate"])]
    return found


def load(pairs: list[tuple[Tensor, Any]]) -> None:
    """Copies ours into PyTorch's parameters."""
    with torch.no_grad():
        for parameter, value in pairs:
            array = torch.from_numpy(np.array(value, np.float32))
            parameter.copy_(array)


class Streams(nn.Module):
    """Video stream, projector, text stream and head of `models/dual_stream.DualStream`, fusion "cross", head tied."""

    def __init__(self, video: StackConfig, text: StackConfig, token_width: int, rows: int, words: int, delays: int):
        super().__init__()
        self.text_config, self.words = text, words
        self.embedding = nn.Parameter(torch.zeros(rows, text.width))
        self.delays = nn.Parameter(torch.zeros(delays, text.width))
        self.video_in = nn.Linear(token_width, video.width, bias=False)
        self.video, self.text = Stack(video), Stack(text)
        self.projector_norm = RMSNorm(video.width)
        self.projector = nn.Linear(video.width, text.groups * 2 * text.kv_heads * text.head_width, bias=False)

    def forward(self, given: Mapping[str, Tensor]) -> Tensor:
        c = self.text_config
        video = self.video(self.video_in(given["values"]), given["video_phase"], given["video_mask"])
        out = self.projector(self.projector_norm(video)).unflatten(-1, (c.groups, 2, c.kv_heads, c.head_width))
        # [groups, 2, B, G, N, E], and a key and value of zeros behind: what attends to it attends to nothing.
        out = out.permute(2, 3, 0, 4, 1, 5)
        video = [
            (F.pad(rotate(key, given["cross_phase"]), (0, 0, 0, 1)), F.pad(value, (0, 0, 0, 1))) for key, value in out
        ]
        x = self.embedding[given["slots"]] + self.delays[given["delay"]][:, None]
        x = self.text(x, given["text_phase"], None, video, given["cross_mask"])
        logits = F.linear(x, self.embedding.type_as(x))[..., : self.words]
        return F.cross_entropy(logits.float().flatten(0, 1), given["target"].flatten())

    def load(self, ours: Mapping[str, Any]) -> None:
        """Takes over our parameters, unrolled."""
        load(
            [(self.embedding, ours["embedding"]), (self.delays, ours["delays"])]
            + [(self.video_in.weight, np.asarray(ours["video_in"]["kernel"]).T)]
            + [(self.projector.weight, np.asarray(ours["projector"]["kernel"]).T)]
            + [(self.projector_norm.scale, ours["projector_norm"]["scale"])]
            + _transposed(_pairs(self.video, ours["video"]) + _pairs(self.text, ours["text"]))
        )


def _transposed(pairs: list[tuple[Tensor, Any]]) -> list[tuple[Tensor, Any]]:
    return [(there, np.asarray(ours).T if np.ndim(ours) == 2 else ours) for there, ours in pairs]


class EncoderBlock(nn.Module):
    """One layer of `layers/encoder.Encoder`."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, epsilon: float):
        super().__init__()
        self.heads, self.approximate = heads, "tanh" if activation == "gelu_tanh" else "none"
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, phase: Tensor | None) -> Tensor:
        normed = self.attention_norm(x)
        split = lambda a: a.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query, key, value = split(self.query(normed)), split(self.key(normed)), split(self.value(normed))
        if phase is not None:
            query, key = rotate(query, phase), rotate(key, phase)
        x = x + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate=self.approximate))


class Encoder(nn.Module):
    """`layers/encoder.Encoder`, and the mean square of what it gives as a loss."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int, activation: str, epsilon: float):
        super().__init__()
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, hidden, activation, epsilon) for _ in range(layers))
        self.norm = nn.LayerNorm(width, epsilon)

    def forward(self, given: Mapping[str, Tensor]) -> Tensor:
        x = given["x"]
        for block in self.blocks:
            x = block(x, given.get("phase"))
        return ((self.norm(x).float() - given["wanted"]) ** 2).mean()

    def load(self, ours: Mapping[str, Any]) -> None:
        """Takes over our parameters."""
        pairs: list[tuple[Tensor, Any]] = []
        norm = lambda there, at: [(there.weight, at["scale"]), (there.bias, at["bias"])]
        for i, block in enumerate(self.blocks):
            at = ours[f"block_{i}"]
            pairs += norm(block.attention_norm, at["attention_norm"]) + norm(block.mlp_norm, at["mlp_norm"])
            layers = [(name, at["attention"]) for name in ("query", "key", "value", "out")]
            for name, part in layers + [(name, at["mlp"]) for name in ("up", "down")]:
                layer = getattr(block, name)
                pairs += [(layer.weight, part[name]["kernel"]), (layer.bias, part[name]["bias"])]
        load(_transposed(pairs + norm(self.norm, ours["norm"])))


class StackAlone(nn.Module):
    """A stack and the mean square of what it gives as a loss."""

    def __init__(self, c: StackConfig):
        super().__init__()
        self.stack = Stack(c)

    def forward(self, given: Mapping[str, Tensor]) -> Tensor:
        return ((self.stack(given["x"], given["phase"], given["mask"]).float() - given["wanted"]) ** 2).mean()

    def load(self, ours: Mapping[str, Any]) -> None:
        """Takes over our parameters, unrolled."""
        load(_transposed(_pairs(self.stack, ours)))


def make_step(
    model: nn.Module, given: Mapping[str, np.ndarray], train: Any, *, dtype: str, compiled: bool, device: str
) -> Callable[[], float]:
    """A step that gives the loss: forward, backward, clipping, AdamW (fused).

    Args:
      train: `config.train` of our run, for the optimiser's numbers.
      dtype: "float32", or "bfloat16" for autocast with the parameters in float32.
      compiled: by `torch.compile`.
      device: "cpu" or "cuda".
    """
    model.to(device)
    data = {name: torch.from_numpy(np.array(array)).to(device) for name, array in given.items()}
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=train.learning_rate * 1e-3, betas=(train.b1, train.b2), weight_decay=train.weight_decay,
        fused=True,
    )  # fmt: skip
    forward = torch.compile(model) if compiled else model
    clip = train.clip_norm or math.inf

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = forward(data)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step
