"""What a fusion must do."""

import abc
from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

import flax.linen as nn

from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.models.language import LanguageModel
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.typing import Array, Bool, Float, Int32

S = TypeVar("S")


class Fusion(nn.Module, Generic[S]):
    """The way of video vectors into the text, over whole clips (`read`) and step by step (the rest), equal in both.

    Text at step `s` attends to video with `step <= s`. A fusion's modules and parameters stand in the model's own scope
    (`video_in`, `video` ...), beside those of the language model. What streams remember is a pytree `S` of arrays with
    the batch first, and of `KVCache`s, which know their layout; so rows are reset and gathered without a fusion's help.

    Attributes:
      tokenizer_config: what video vectors are made of, and how many there are.
      video_config: the shape of a video stream, for fusions that have one.
      language: the language model; its layers are run by the fusion.
      cross_attention: whether the text's layers attend to video by themselves (`StackConfig.cross_every`).
      gated: whether video comes in through gates (`StackConfig.cross_gate`).
    """

    tokenizer_config: TokenizerConfig
    video_config: StackConfig
    language: LanguageModel

    cross_attention: ClassVar[bool] = False
    gated: ClassVar[bool] = False

    @classmethod
    def stacks(cls, video: StackConfig) -> Mapping[str, StackConfig]:
        """The transformers that the fusion has beside the text's, by the names of their parameters."""
        del video
        return {}

    @classmethod
    @abc.abstractmethod
    def video_width(cls, text: StackConfig, video: StackConfig) -> int:
        """W, the width of what `embed` makes of video tokens."""

    @abc.abstractmethod
    def embed(self, tokens: Float[Array, "B N D"]) -> Float[Array, "B N W"]:
        """Video tokens as the fusion takes them; what the event memory finds is added to it."""

    @abc.abstractmethod
    def read(
        self, text: Float[Array, "B S D"], video: Float[Array, "B N W"], step: Int32[Array, "B N"], valid: Array
    ) -> Float[Array, "B S D"]:
        """Hidden states of whole clips.

        Args:
          text: what stands for the slot before each step.
          video: from `embed`.
          step: of the video tokens' ticks.
          valid: bool `[B, N]`, which of them exist.
        """

    @abc.abstractmethod
    def initial_state(self, batch: int) -> S:
        """What `batch` streams remember at first."""

    @abc.abstractmethod
    def video_step(
        self, state: S, video: Float[Array, "B M W"], step: Int32[Array, "B M"], valid: Bool[Array, "B M"]
    ) -> S:
        """Takes in a tick's video tokens; those of rows that take no part are not valid."""

    @abc.abstractmethod
    def text_step(
        self, state: S, text: Float[Array, "B 1 D"], step: Int32[Array, "B 1"], active: Bool[Array, "B 1"]
    ) -> tuple[S, Float[Array, "B 1 D"]]:
        """One step of the text stream of the rows that are active: the state and hidden states."""
