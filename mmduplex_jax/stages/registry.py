"""The one table of stages: what `config.stage` names, and what a stage is made of.

A stage is a folder beside this file, and a line in `STAGES`. Its `__init__.py` has the names of `Stage`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from mmduplex_jax.evals.benchmarks.protocol import Answerer
from mmduplex_jax.evals.evaluator import Evaluator, Report
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.towers.kinds import AnyTower, pooled_width
from mmduplex_jax.train.task import Task
from mmduplex_jax.typing import PyTree

if TYPE_CHECKING:  # their loaders take longer to import than all the rest
    from data_pipelines.pairs import PairFormat
    from data_pipelines.sound import SoundFormat

# Names of modules and not the modules, so that who loads one model does not import every stage.
STAGES: dict[str, str] = {
    "clip": "mmduplex_jax.stages.clip",
    "bflow": "mmduplex_jax.stages.bflow",
    "vlm": "mmduplex_jax.stages.vlm",
    "duplex": "mmduplex_jax.stages.duplex",
    "codec": "mmduplex_jax.stages.codec",
}


@dataclasses.dataclass(frozen=True)
class Language:
    """A model's language model.

    Attributes:
      head: "tied" to the table, or its "own".
    """

    text: StackConfig
    head: str


@dataclasses.dataclass(frozen=True)
class Tower:
    """A vision tower in a model.

    Attributes:
      flags: beginning of the config fields that set its shape.
      pixel_flags: beginning of those that set `mean` and `std`.
      mean, std: an RGB channel, of pixels from 0 to 1, as they are given to it; None: not known.
      sees: "frames", or "crops" of what moves.
    """

    prefix: str
    config: AnyTower
    flags: str = ""
    pixel_flags: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    sees: str = "frames"

    @property
    def has_pool(self) -> bool:
        return pooled_width(self.config) > 0


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a stage's model that other weights may fill (`config.init_from`), and that others may begin with.

    Attributes:
      language: under the names of `weights/huggingface/text.py`; None where there is none.
      towers: every vision tower.
      tokenizer: the video tokenizer, under `tokenizer/`; None where there is none.
      cross_gate: where the gates between video and language model begin; None where there are none.
    """

    language: Language | None = None
    towers: tuple[Tower, ...] = ()
    tokenizer: TokenizerConfig | None = None
    cross_gate: float | None = None


def tokenizer_towers(tokenizer: TokenizerConfig) -> tuple[Tower, ...]:
    """The vision towers of a video tokenizer: of its anchors and of its crops, where it has them."""
    towers: tuple[Tower, ...] = ()
    if tokenizer.anchor_tokens:
        anchor, flags = tokenizer.anchor, "config.tokenizer.anchor."
        prefix = "tokenizer/anchors/tower/"
        towers += (Tower(prefix, anchor.used_tower, f"{flags}tower.", flags, anchor.mean, anchor.std),)
    flow, tower = tokenizer.flow, tokenizer.flow.used_tower
    if tokenizer.flow_slots and tower is not None:
        prefix, flags = "tokenizer/crops/tower/", "config.tokenizer.flow."
        towers += (Tower(prefix, tower, f"{flags}tower.", flags, flow.mean, flow.std, sees="crops"),)
    return towers


class Stage(Protocol):
    """What a stage's module has.

    Attributes:
      __doc__: its first line is the stage's help.
      EVALUATION_FLAGS: options of its evaluator, beside those of every stage: name to what argparse's `add_argument`
        takes. Only those that are given reach the evaluator, so its own defaults hold.
      OUTPUT: of a model about a video: "commentary" (live, word by word), "captions" (of its pieces), or "" for none.
    """

    __doc__: str | None
    OUTPUT: str
    EVALUATION_FLAGS: Mapping[str, Mapping[str, Any]]

    def build_task(self, config: Any, tokenizer: TextTokenizer) -> Task:
        """The task of a resolved config; ValueError where it contradicts itself."""

    def make_evaluator(self, task: Any, config: Any, tokenizer: TextTokenizer, **options: Any) -> Evaluator:
        """The evaluator of a model; `options` are those of every evaluator, and of `EVALUATION_FLAGS`."""

    def make_answerer(
        self, task: Any, params: PyTree, config: Any, tokenizer: TextTokenizer, *, subtitles: bool
    ) -> Answerer:
        """What answers the questions of benchmarks; ValueError where the stage's models answer none.

        Args:
          subtitles: whether the model gets those of a video, where there are any.
        """

    def format_table(self, report: Report) -> str:
        """An evaluator's report as a person reads it."""

    def pair_format(self, config: Any) -> "PairFormat | SoundFormat | None":
        """What a sample is: a text and pictures, or sound alone; None where it is a clip with timed words."""

    def video_tokens(self, task: Any) -> int:
        """The most tokens that are made of the pictures of a sample."""

    def parts(self, task: Any) -> Parts:
        """The parts of a task's model that may begin with other weights."""


def find_stage(name: str) -> Stage:
    """The stage that `config.stage` names (ValueError: the table lacks it)."""
    if name not in STAGES:
        raise ValueError(f"config.stage is {name!r}; there are {', '.join(STAGES)}")
    return cast(Stage, importlib.import_module(STAGES[name]))


def describe_stages() -> str:
    """A line on each stage, for the help of commands."""
    docs = {name: importlib.import_module(module).__doc__ or "" for name, module in STAGES.items()}
    return "\n".join(f"  {name:<8} {doc.strip().splitlines()[0] if doc else ''}" for name, doc in docs.items())


def answers_nothing(stage: str) -> Callable[..., Answerer]:
    """The `make_answerer` of a stage whose models answer no questions."""

    def make_answerer(*_: Any, **__: Any) -> Answerer:
        raise ValueError(f"a model of stage {stage!r} answers no questions; ask one of stage 'duplex'")

    return make_answerer


def build_task(config: Any, tokenizer: TextTokenizer) -> Task:
    """The task of a config; ValueError where the table lacks its stage, or it contradicts itself."""
    return find_stage(config.stage).build_task(config, tokenizer)
