"""Something that takes steps, the clocking of it, and a process that does it when asked, for JAX and PyTorch alike.

    python -m benchmarks.stepper '{"family": "ours", "config": "configs/duplex_300m.py"}'

Several such processes can take turns on one machine. A line on standard input is a request, `{"arm": {...}, "steps": N,
"warm_steps": N, "limit_s": S}`; the answer is a line on standard output, `{"shares": {kind: share}, "ms": {kind:
[...]}, "compile_s": S}`. What an `arm` holds are the arguments of the family's steppers. The process ends with its
input.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np


class Stepper(NamedTuple):
    """A stream, or a batch of them, that takes steps.

    Attributes:
      shares: the kinds of steps, and what share of all steps each is.
      open: a context that gives a function which does the next step, waits for it, and returns its kind.
      compile_s: what preparing it took.
    """

    shares: Mapping[str, float]
    open: Callable[[], AbstractContextManager[Callable[[], str]]]
    compile_s: float = 0.0


def timed(stepper: Stepper, steps: int, *, warm_steps: int = 0, limit_s: float = np.inf) -> dict[str, list[float]]:
    """Seconds of every step, by its kind.

    Args:
      steps: how many at least, every kind included.
      warm_steps: before those, not timed.
      limit_s: stop sooner than after `steps` once this long has passed and every kind has been timed.
    """
    times_s: dict[str, list[float]] = {kind: [] for kind in stepper.shares}
    with stepper.open() as step:
        for _ in range(warm_steps):
            step()
        done, began_s = 0, time.perf_counter()
        ended_s = began_s
        while not all(times_s.values()) or (done < steps and ended_s - began_s < limit_s):
            started_s = time.perf_counter()
            kind = step()
            ended_s = time.perf_counter()
            times_s[kind].append(ended_s - started_s)
            done += 1
    return times_s


def step_cost_ms(times_ms: Mapping[str, Sequence[float]], shares: Mapping[str, float]) -> float:
    """What a step costs on average: every kind's median, by its share."""
    return sum(share * float(np.median(times_ms[kind])) for kind, share in shares.items())


def step_percentile_ms(times_ms: Mapping[str, Sequence[float]], shares: Mapping[str, float], percent: float) -> float:
    """A percentile of a stream's steps, in which every kind has its share, however often it was timed."""
    values = np.concatenate([times_ms[kind] for kind in shares])
    weights = np.concatenate([np.full(len(times_ms[kind]), shares[kind] / len(times_ms[kind])) for kind in shares])
    return float(np.quantile(values, percent / 100, weights=weights, method="inverted_cdf"))


# Others' ways to write text beside a stream, at our text stream's width and depth, with random weights, in PyTorch.
# Nothing here encodes pictures or sound: what others' vision towers and codecs cost is not counted. Caches are filled
# with noise before they are timed, since memory that was never written is cheaper to read. Where a package can do a
# thing in two ways, it is the faster one, or both are arms.

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


class Arms:
    """Steppers of a family, each made when it is first asked for."""

    def __init__(self, make: Callable[..., Stepper]):
        self._made = functools.cache(lambda key: make(**dict(key)))

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request, as the module's docstring has both."""
        arguments = dict(request)
        stepper = self._made(tuple(sorted(arguments.pop("arm").items())))
        milliseconds = {kind: [round(t * 1e3, 3) for t in times] for kind, times in timed(stepper, **arguments).items()}
        return {"shares": dict(stepper.shares), "ms": milliseconds, "compile_s": round(stepper.compile_s, 1)}


def ours(config: str) -> Arms:
    """Arms `part` ("text" or "whole"), `batch`, and for text `watched_s`, of a config with random parameters."""
    from benchmarks.streaming import arms_of, with_every_row
    from mmduplex_jax.commentator import random_commentator

    return arms_of(with_every_row(random_commentator(config, seed=0)))


def peer(stepper: Callable[..., Stepper], shape: Sequence[Any], threads: int) -> Arms:
    """Arms of a function of `benchmarks.stepper`, all of one shape."""
    import torch

    torch.set_num_threads(threads)
    return Arms(functools.partial(stepper, TextShape(*shape)))


FAMILIES: dict[str, Callable[..., Arms]] = {
    "ours": ours,
    "moshi": functools.partial(peer, moshi_stepper),
    "interleaved": functools.partial(peer, interleaved_stepper),
}


def main() -> None:
    """Serves the family that the first argument names, with the rest of it as arguments."""
    options = json.loads(sys.argv[1])
    # What libraries print goes where errors go; standard output is for answers alone.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    arms = FAMILIES[options.pop("family")](**options)
    for line in sys.stdin:
        answers.write(json.dumps(arms.ask(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
