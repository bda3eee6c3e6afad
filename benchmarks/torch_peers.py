"""Others' ways to write text beside a stream, at our text stream's width and depth, with random weights, in PyTorch.

`moshi_stepper` is the `LMGen` of Kyutai's package `moshi`: text and audio codes come in, one text token a step comes
out, and with `depth` also eight audio codes, from its depth transformer. `interleaved_stepper` is a Qwen2 of
`transformers` that reads visual tokens and writes text in one sequence, as VideoLLM-online, LiveCC and their like do.

Nothing here encodes pictures or sound: what others' vision towers and codecs cost is not counted. Caches are filled
with noise before they are timed, since memory that was never written is cheaper to read. Where a package can do a thing
in two ways, it is the faster one, or both are arms.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from benchmarks.stepper import Stepper

# Read when `moshi` is imported; on a CPU its package compiles some parts and not others otherwise.
os.environ.setdefault("NO_TORCH_COMPILE", "1")


class TextShape(NamedTuple):
    """What is the same for everybody.

    Attributes:
      width, layers, heads, kv_heads, hidden: D, depth, Q, G, F.
      vocab: rows of the embedding table and of the head.
      window_steps: how far back text sees.
      step_hz: steps a second.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    vocab: int
    window_steps: int
    step_hz: float


# Moshi's own: codebooks in and out, codes of each, and its depth transformer's layers (`moshi.models.loaders`). Its
# width is a quarter of the temporal one's there, and its heads are 64 wide; so here, rounded to whole heads.
_CODEBOOKS, _CODES, _DEPTH_LAYERS, _HEAD_WIDTH = 8, 2048, 6, 64


@functools.cache
def _moshi(shape: TextShape, dtype: str, depth: bool, shared: bool) -> Any:
    """An `LMModel`: with depth, 16 codebooks of which it says 8 (as Moshi); without, 8 that it only hears."""
    import torch
    from moshi.models.lm import LMModel

    depth_width = max(1, round(shape.width / 4 / _HEAD_WIDTH)) * _HEAD_WIDTH
    said = _CODEBOOKS if depth else 0
    books = said + _CODEBOOKS
    model = LMModel(
        delays=[0] + [int(book % _CODEBOOKS > 0) for book in range(books)],
        n_q=books, dep_q=said, card=_CODES, text_card=shape.vocab,
        dim=shape.width, num_heads=shape.heads, num_layers=shape.layers,
        kv_repeat=shape.heads // shape.kv_heads if shared else 1, depformer_kv_repeat=1,
        # Of this it takes two thirds for its gated layers, rounded down.
        hidden_scale=(1.5 * shape.hidden + 1.5) / shape.width,
        context=shape.window_steps, max_period=10_000, gating="silu", norm="rms_norm_f32", positional_embedding="rope",
        depformer_dim=depth_width, depformer_dim_feedforward=int(4.125 * depth_width),
        depformer_num_heads=depth_width // _HEAD_WIDTH, depformer_num_layers=_DEPTH_LAYERS, depformer_context=8,
        depformer_multi_linear=True, depformer_weights_per_step=True, depformer_pos_emb="none",
        depformer_gating="silu", dtype=getattr(torch, dtype),
    )  # fmt: skip
    hidden = model.transformer.layers[0].gating.linear_out.in_features
    if hidden != shape.hidden:
        raise ValueError(f"moshi's gated layers came out {hidden} wide, not {shape.hidden}")
    return model.eval()


def moshi_stepper(shape: TextShape, dtype: str, batch: int, depth: bool = False, shared: bool = False) -> Stepper:
    """`LMGen` hearing silence, greedy, every stream executing; steps are of one kind, `all`.

    Args:
      dtype: of weights and caches, a name of torch's.
      depth: whether it also speaks.
      shared: whether heads share keys and values as ours do (fewer weights, but the package copies the whole cache in
        every step then), or each has its own, as in Moshi.
    """
    import torch
    from moshi.models import LMGen

    model = _moshi(shape, dtype, depth, shared)
    codes = torch.zeros((batch, _CODEBOOKS, 1), dtype=torch.long)

    @contextmanager
    def session() -> Iterator[Callable[[], str]]:
        generator = LMGen(model, use_sampling=False)

        def step() -> str:
            generator.step(codes)
            return "all"

        with torch.inference_mode(), generator.streaming(batch):
            for layer in model.transformer.layers:
                cache = layer.self_attn._streaming_state.kv_cache.cache
                cache.copy_(torch.randn(cache.shape[-2:], dtype=cache.dtype).expand_as(cache))
            yield step

    return Stepper({"all": 1.0}, session)


# A second of video as the half-duplex systems pay for it: at least this much.
VISUAL_TOKENS_PER_S = 320


@functools.cache
def _qwen2(shape: TextShape, dtype: str) -> Any:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=shape.width, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.hidden, vocab_size=shape.vocab,
        max_position_embeddings=1 << 20, tie_word_embeddings=True, use_sliding_window=False,
        attn_implementation="sdpa",
    )  # fmt: skip
    return Qwen2ForCausalLM(config).to(getattr(torch, dtype)).eval()


def interleaved_stepper(shape: TextShape, dtype: str, batch: int, watched_s: float) -> Stepper:
    """One sequence of a second's visual tokens and of a text token a step, after `watched_s` of video.

    Steps are of two kinds: `video`, one a second, reads all of that second's visual tokens and the step's text token in
    one forward pass, their cheapest way; `text` reads one text token. Every step finds `watched_s` in the cache: what
    it adds is taken away. The cache is the one of fixed size, just large enough, because the one that grows copies all
    of itself in every step.

    Args:
      dtype: of weights and cache, a name of torch's.
      watched_s: of video whose visual tokens are in the cache; the text between them is not counted.
    """
    import torch
    from transformers import StaticCache

    model = _qwen2(shape, dtype)
    length = round(watched_s * VISUAL_TOKENS_PER_S)
    share = 1 / shape.step_hz

    @contextmanager
    def session() -> Iterator[Callable[[], str]]:
        cache = StaticCache(config=model.config, max_cache_len=length + VISUAL_TOKENS_PER_S + 1)
        head_width = shape.width // shape.heads
        noise = torch.randn((1, 1, VISUAL_TOKENS_PER_S, head_width), dtype=model.dtype)
        cache.early_initialization(batch, shape.kv_heads, head_width, model.dtype, torch.device("cpu"))
        for layer in cache.layers:
            for buffer in (layer.keys, layer.values):
                for begin in range(0, length, VISUAL_TOKENS_PER_S):
                    part = buffer[:, :, begin : min(begin + VISUAL_TOKENS_PER_S, length)]
                    part.copy_(noise[:, :, : part.shape[2]].expand_as(part))
            layer.cumulative_length.fill_(length)
        visual = torch.randn((batch, VISUAL_TOKENS_PER_S, shape.width), dtype=model.dtype)
        written = model.get_input_embeddings()(torch.zeros((batch, 1), dtype=torch.long))
        # The first picture comes after three steps, so that even where one takes long, a few of both kinds are seen.
        second, due = torch.cat([visual, written], dim=1), 1 - 3.5 * share

        def step() -> str:
            nonlocal due
            due += share
            is_video = due >= 1
            due -= is_video
            inputs = second if is_video else written
            logits = model(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            logits[:, -1].argmax(dim=-1)
            for layer in cache.layers:
                layer.cumulative_length.fill_(length)
            return "video" if is_video else "text"

        with torch.inference_mode():
            yield step

    return Stepper({"video": share, "text": 1 - share}, session)
