"""Something that can commentate: a trained model from a folder, or a config with random parameters."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from mmduplex_jax.clock import Clock
from mmduplex_jax.models.dual_stream import DualStreamConfig
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.stages.config_file import load_config
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.streaming.pool import Session
from mmduplex_jax.streaming.unrolled import unrolled
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.trained import Trained, load_tokenizer, load_trained


class Delays(NamedTuple):
    """How far words may run behind the picture, in steps: the least and the most that were trained, and the usual."""

    least: int
    most: int
    usual: int


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A live model with everything that a stream needs.

    Attributes:
      name: what to call it in a report.
      live: the model.
      params: its parameters, unboxed.
      config: of its training.
      tokenizer: its words.
    """

    name: str
    live: LiveModel
    params: PyTree
    config: ConfigDict
    tokenizer: TextTokenizer

    @property
    def clock(self) -> Clock:
        return self.live.config.clock

    @property
    def tokens_per_s_max(self) -> int:
        return self.live.config.tokenizer.cap

    @property
    def tokens_per_s_min(self) -> int:
        """The least cap under which a stream is still seen (`BudgetRule.cap_min`)."""
        return self.live.config.tokenizer.cap_min

    @property
    def frame_px(self) -> int:
        return self.config.frame_px

    @property
    def delays(self) -> Delays:
        delay = self.config.delay
        return Delays(delay.min, delay.max, delay.eval)

    def session(self, delay_steps: int, pad_bias: float = 0.0) -> Session:
        """A stream over this model, compiled.

        Args:
          delay_steps: steps that the words run behind the picture; the config says which were trained.
          pad_bias: added to silence's logit; more is quieter.
        """
        return Session(
            self.live,
            self.params,
            self.tokenizer,
            self.clock,
            self.config.frame_px,
            delay_steps=delay_steps,
            pad_bias=pad_bias,
        )


def trained_speaker(folder: str | Path | None) -> Speaker:
    """From a checkpoint (see `load_trained`); ValueError where it is of a stage that does not speak."""
    return speaker_of(load_trained(folder), "the shipped model" if folder is None else f"the model in {folder}")


def speaker_of(trained: Trained, name: str) -> Speaker:
    """From a trained model; ValueError where it is of a stage that does not speak."""
    if not isinstance(trained.task, DuplexTask):
        raise ValueError(f"{trained.folder} is of stage {trained.config.stage!r}; only `duplex` models commentate")
    return Speaker(name, *_live(trained.task.config, trained.params), trained.config, trained.tokenizer)


def random_speaker(path: str | Path, seed: int) -> Speaker:
    """A model that has learned nothing, of a config file (`configs/*.py`).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no config, or of a stage that does not speak.
    """
    config = load_config(path).lock()
    tokenizer = load_tokenizer(config)
    task = build_task(config, tokenizer)
    if not isinstance(task, DuplexTask):
        raise ValueError(f"--random_init={path} is of stage {config.stage!r}; only `duplex` models commentate")
    # A short clip makes the same parameters and compiles sooner.
    short = dataclasses.replace(task, ticks=2)
    params = nn.unbox(jax.jit(short.init)(jax.random.key(seed)))
    return Speaker(f"{Path(path).stem} with random parameters", *_live(task.config, params), config, tokenizer)


def _live(config: DualStreamConfig, params: PyTree) -> tuple[LiveModel, PyTree]:
    """The model as it streams best on this machine, and its parameters."""
    if jax.default_backend() == "cpu":
        config, params = unrolled(config, params)
    return LiveModel(config), params
