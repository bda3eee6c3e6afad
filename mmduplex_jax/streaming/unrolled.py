"""The same model, laid out for one stream on a CPU: layers unrolled, computed in float32."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from mmduplex_jax.codec.codec import LiveCodec
from mmduplex_jax.layers.transformer import StackConfig, unstack_layers
from mmduplex_jax.models.dual_stream import DualStreamConfig
from mmduplex_jax.models.fusion import fusion_of
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.streaming.sound import Voice


def live_on_this_machine(config: DualStreamConfig, params: Mapping[str, Any]) -> tuple[LiveModel, Mapping[str, Any]]:
    """The model as it streams best on this machine, and its parameters, unboxed."""
    if jax.default_backend() == "cpu":
        config, params = unrolled(config, params)
    return LiveModel(config), params


def codec_on_this_machine(voice: Voice) -> Voice:
    """The codec as it streams best on this machine."""
    if jax.default_backend() != "cpu":
        return voice
    config = dataclasses.replace(voice.codec.config, remat=False, dtype="float32")
    return dataclasses.replace(voice, codec=LiveCodec(config))


def unrolled(config: DualStreamConfig, params: Mapping[str, Any]) -> tuple[DualStreamConfig, dict[str, Any]]:
    """Turns a model that scans over its layers, in whatever dtype, into its equal for streaming on a CPU.

    A scan copies every layer's weights out of the stack at every step, and a CPU emulates bfloat16; both cost more than
    the step itself when it is one token long. Nothing but rounding changes in what the model computes.

    Args:
      config: of the model.
      params: its parameters, unboxed.

    Returns:
      The config and the parameters of the unrolled model; arrays that need no unstacking are shared.
    """
    flat = lambda stack: dataclasses.replace(stack, scan=False, remat=False, dtype="float32")
    params = dict(params)
    for name, stack in {"text": config.text, **fusion_of(config.fusion).stacks(config.video)}.items():
        params[name] = _unstacked(params[name], stack)
    event = config.tokenizer.event
    if event.scan:
        tokenizer = dict(params["tokenizer"])
        params["tokenizer"] = tokenizer | {"events": _unstacked(tokenizer["events"], event)}
    anchor = config.tokenizer.anchor
    anchor = dataclasses.replace(anchor, tower=dataclasses.replace(anchor.tower, remat=False, dtype="float32"))
    flow = dataclasses.replace(config.tokenizer.flow, remat=False)
    tokenizer_config = dataclasses.replace(
        config.tokenizer, event=flat(event), anchor=anchor, flow=flow, dtype="float32"
    )
    audio = config.audio
    if audio is not None:
        audio = dataclasses.replace(audio, depth=dataclasses.replace(audio.depth, remat=False, dtype="float32"))
    memory = None if config.memory is None else dataclasses.replace(config.memory, dtype="float32")
    config = dataclasses.replace(
        config,
        tokenizer=tokenizer_config,
        text=flat(config.text),
        video=flat(config.video),
        memory=memory,
        audio=audio,
    )
    return config, params


def _unstacked(params: Mapping[str, Any], stack: StackConfig) -> dict[str, Any]:
    return unstack_layers(dict(params), stack) if stack.scan else dict(params)
