"""The arms of the study, as data: what each adds to a config, what it learns from, in which order they teach most.

An arm is a training of `config` with `overrides`, each a `--config.a.b=VALUE` of `launch.train`. Within a part the arms
stand in the order in which they are best run: what decides most for the least time first.
"""

from collections.abc import Mapping
from typing import NamedTuple

PARTS = {
    "tokenizer": "Which tokens, and how many a second",
    "bflow": "What each part of B-Flow brings",
    "stages": "What the stages before it bring to a duplex",
    "outside": "Outside the tokenizer: fusion, text, delay, data",
    "turns": "Two streams against taking turns",
    "scaling": "Parameters and data",
}


class Size(NamedTuple):
    """How large the study is: settings that all of its arms share.

    Attributes:
      overrides: of every training that is compared.
      stages: of those that others begin with, which are as their configs have them.
      data: of `launch.prepare`, for every set.
      clips: of the sets that are learned from, where they are whole.
      held_clips: of the set that decides when a training is flat.
      test_clips: new ones of the world that a finished arm is scored on.
      evaluate_every: steps from one evaluation to the next.
      patience, min_gain: flat is where so many evaluations lower the word NLL by less than this share.
      stable_steps_max: steps at a constant rate of an arm that never gets flat.
      decay_share: steps of the decay, over those at a constant rate.
    """

    overrides: tuple[str, ...]
    stages: tuple[str, ...]
    data: tuple[str, ...]
    clips: int
    held_clips: int
    test_clips: int
    evaluate_every: int
    patience: int
    min_gain: float
    stable_steps_max: int
    decay_share: float


# Clips of 6 s hold two or three events, and a dense clip 1,900 tokens: attention to all of a clip of 12 s would cost
# dense tokens four times that. A constant rate has its peak below that of a cosine (1.5e-3 in configs/quickstart.py).
# Context begins as loud as it did when the study began, so that rows can be compared; a tenth is the default since.
_LOUD = "tokenizer.context_init_scale=1.0"
QUICK = Size(
    overrides=("data.clip_s=6.08", "data.batch_size=4", "train.learning_rate=1e-3", "train.end_lr_ratio=0.0", _LOUD),
    stages=(),
    data=(),
    clips=4800,
    held_clips=64,
    test_clips=160,
    evaluate_every=250,
    patience=8,
    min_gain=0.03,
    stable_steps_max=5000,
    decay_share=0.2,
)
# What is compared is far from flat, but each arm takes 20 minutes of a processor and not 45: more of them can run.
SHORT = QUICK._replace(stable_steps_max=2000, decay_share=0.25)
_SMALL_TOKENIZER = (
    "data.clip_s=1.28",
    "data.batch_size=2",
    "frame_px=(32,32)",
    "tokenizer.motion.plane_px=(16,16)",
    "tokenizer.width=16",
    "tokenizer.anchor.tower.width=16",
    "tokenizer.anchor.tower.layers=1",
    "tokenizer.anchor.tower.hidden=32",
    "tokenizer.flow.width=16",
    "tokenizer.event.width=16",
    "tokenizer.event.heads=1",
    "tokenizer.event.kv_heads=1",
    "tokenizer.event.head_width=16",
    "tokenizer.event.hidden=32",
    "train.warmup_steps=1",
    "train.log_every=1",
)
# To see that all of it works: numbers that mean nothing.
MINIATURE = QUICK._replace(
    overrides=(
        *_SMALL_TOKENIZER,
        "text.width=16",
        "text.layers=1",
        "text.heads=1",
        "text.kv_heads=1",
        "text.head_width=16",
        "text.hidden=32",
        "video_stream.width=16",
        "video_stream.heads=1",
        "video_stream.kv_heads=1",
        "video_stream.head_width=16",
        "video_stream.hidden=32",
    ),
    stages=_SMALL_TOKENIZER,
    data=("frame_px=(32,32)", "clip_s=4.8", "units_per_shard=4"),
    clips=4,
    held_clips=2,
    test_clips=2,
    evaluate_every=2,
    patience=1,
    stable_steps_max=4,
    decay_share=0.25,
)
SIZES = {"quick": QUICK, "short": SHORT, "miniature": MINIATURE}
# Sizes whose numbers mean something, and how long their trainings are.
REPORTED = {"quick": "until flat, or 6,000 steps", "short": "2,500 steps (`--size=short`)"}


class Shards(NamedTuple):
    """A set to learn from: clips of the built-in world.

    Attributes:
      look: of the world.
      share: of a whole set's clips; the smaller sets are the first clips of the larger ones.
    """

    look: str = "plain"
    share: float = 1.0


DATA = {
    "plain": Shards(),
    "plain_4th": Shards(share=1 / 4),
    "plain_16th": Shards(share=1 / 16),
    "rich": Shards("rich"),
}


class Arm(NamedTuple):
    """One thing that is trained.

    Attributes:
      name: of the arm, in rows and folders.
      part: of `PARTS`.
      what: what is special about it, in a few words.
      overrides: `a.b=VALUE`, of the config.
      data: a set of `DATA`.
      config: as `launch.train` takes it.
      begins_with: what `config.init_from` takes from which arm, trained before with the same seed.
      steps: of a training that is not compared itself but begun with: so many, by the config's own cosine. 0: until it
        is flat.
      cpu_min: processor minutes of one seed, a guess: the operations of 3,500 steps (1,500 where a tokenizer is begun
        with) at 30 GFLOP a processor second, and 10 minutes for evaluations, compiling and scoring. Where there are
        rows, `--list` takes what they took.
    """

    name: str
    part: str
    what: str
    overrides: tuple[str, ...] = ()
    data: str = "plain"
    config: str = "configs/quickstart.py"
    begins_with: Mapping[str, str] = {}
    steps: int = 0
    cpu_min: float = 20.0


def _cap(tokens_per_s: int) -> tuple[str, ...]:
    """B-Flow under another cap: anchors and the most flow tokens of a tick scaled with it (32 is the quick start's)."""
    most = tokens_per_s // 8
    levels = tuple(level for level in (0, 1, 2, 4, 8) if level <= most)
    return (
        f"tokenizer.budget.tokens_per_s_max={tokens_per_s}",
        f"tokenizer.budget.flow_token_levels={levels}",
        f"tokenizer.anchor.tokens={most}",
    )


# The fixed schedules see a frame in as many patches as dense has tokens.
_FINE = "tokenizer.anchor.tower.patch_px=8"
_TOKENIZERS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "bflow_32": ("B-Flow, 32 tokens a second", (), 22.0),
    "uniform_32": ("a grid of 4×4 crops every 4th tick, with motion features", ("tokenizer.kind=uniform",), 20.0),
    "per_frame_6": ("one token a frame", ("tokenizer.kind=per_frame", _FINE), 46.0),
    "bflow_8": ("B-Flow, 8 tokens a second", _cap(8), 19.0),
    "dense_320": ("64 tokens a frame, 5 frames a second", ("tokenizer.kind=dense", _FINE), 160.0),
    "bflow_64": ("B-Flow, 64 tokens a second", _cap(64), 26.0),
    "bflow_16": ("B-Flow, 16 tokens a second", _cap(16), 20.0),
}
_BFLOW_STAGE = "configs/bflow_quickstart.py"
_STAGE_STEPS = 900


def _from_stage(name: str) -> tuple[Arm, Arm]:
    """A tokenizer's `bflow` stage, and the duplex that begins with it."""
    what, overrides, cpu_min = _TOKENIZERS[name]
    stage = Arm(
        f"stage_{name}",
        "tokenizer",
        f"stage `bflow` of {name}",
        # Clips as short as those of the duplex, or dense tokens would cost four times as much.
        (*overrides, "data.clip_s=6.08", _LOUD),
        config=_BFLOW_STAGE,
        steps=_STAGE_STEPS,
        cpu_min=0.5 * cpu_min,
    )
    begun = Arm(
        f"{name}_staged",
        "tokenizer",
        f"{what}, begun with its stage `bflow`",
        overrides,
        begins_with={"tokenizer": stage.name},
        cpu_min=0.6 * cpu_min,
    )
    return stage, begun


_CHAIN = "configs/chain_quickstart.py"


def _begun(name: str, what: str, **begins_with: str) -> Arm:
    return Arm(name, "stages", what, config=f"{_CHAIN}:duplex", begins_with=begins_with, cpu_min=18.0)


# `pixels` is a field that configs lack. Beside it the quick start's, which are the defaults.
_BLIND = "tokenizer.flow={'crop_px': 20, 'patch_px': 20, 'width': 160, 'layers': 0, 'heads': 4, 'pixels': False}"

_NO_ANCHORS, _NO_EVENTS = ("tokenizer.anchor.tokens=0",), ("tokenizer.event.layers=0",)

# What is outside the tokenizer is compared with one that has learned already and is not trained on: so it is the rest
# that differs, and a training takes a third of the steps.
_AFTER_STAGE: Mapping[str, str] = {"tokenizer": "stage_bflow_32"}
_FROZEN = "train.groups={'tokenizer': {'match': 'tokenizer/', 'start_step': -1}}"


def _outside(name: str, part: str, what: str, *overrides: str, data: str = "plain", cpu_min: float = 12.0) -> Arm:
    return Arm(name, part, what, (_FROZEN, *overrides), data, begins_with=_AFTER_STAGE, cpu_min=cpu_min)


def _delay(steps: int) -> str:
    return f"delay={{'min': {steps}, 'max': {steps}, 'eval': {steps}}}"


def _text(width: int, layers: int, heads: int, hidden: int) -> tuple[str, ...]:
    """A text stream of another shape; heads are 32 wide, as the quick start's, and two share keys and values."""
    return (
        f"text.width={width}",
        f"text.layers={layers}",
        f"text.heads={heads}",
        f"text.kv_heads={max(1, heads // 2)}",
        f"text.hidden={hidden}",
    )


# As many parameters as `cross` has, within 0.3 %.
_EQUAL_SUM, _EQUAL_INTERLEAVE = ("fusion=sum", "text.hidden=424"), ("fusion=interleave", "text.hidden=536")

ARMS: tuple[Arm, ...] = (
    *(Arm(name, "tokenizer", what, overrides, cpu_min=cpu) for name, (what, overrides, cpu) in _TOKENIZERS.items()),
    *(arm for name in ("bflow_32", "uniform_32", "per_frame_6", "dense_320") for arm in _from_stage(name)),
    *(
        Arm(f"{name}_rich", "tokenizer", f"{what}; the look `rich`", overrides, "rich", cpu_min=cpu)
        for name, (what, overrides, cpu) in _TOKENIZERS.items()
        if name in ("bflow_32", "dense_320", "uniform_32")
    ),
    # Each differs from bflow_32 in one thing.
    Arm("quiet", "bflow", "context begins a tenth as loud: the default since", ("tokenizer.context_init_scale=0.1",)),
    Arm("no_motion", "bflow", "without motion features", ("tokenizer.flow.motion_features=False",)),
    Arm("no_centring", "bflow", "crops on the motion's peak, not on the thing", ("tokenizer.flow.centre=False",)),
    Arm("no_pixels", "bflow", "without the crops' pixels", (_BLIND,)),
    Arm("no_anchors", "bflow", "without anchors, and so without state slots", _NO_ANCHORS),
    Arm("no_scene", "bflow", "without state slots", ("tokenizer.state.slots=0",)),
    Arm("no_events", "bflow", "without the event transformer", _NO_EVENTS),
    Arm("only_flow", "bflow", "without either: crops of what moves, with motion features", (*_NO_ANCHORS, *_NO_EVENTS)),
    Arm("scales", "bflow", "crops as large as the thing", ("tokenizer.flow.crop_scales=(1,2,4)",)),
    Arm("no_anchors_rich", "bflow", "without anchors; the look `rich`", _NO_ANCHORS, "rich"),
    Arm("no_events_rich", "bflow", "without the event transformer; the look `rich`", _NO_EVENTS, "rich"),
    # The chain's duplex, whose anchors have a tower of the shape that stage `clip` trains.
    _begun("chain_scratch", "from scratch"),
    Arm("stage_chain_clip", "stages", "stage `clip`", config=f"{_CHAIN}:clip", steps=1200, cpu_min=25.0),
    Arm(
        "stage_chain_bflow",
        "stages",
        "stage `bflow`, after `clip`",
        config=f"{_CHAIN}:bflow",
        begins_with={"vision": "stage_chain_clip"},
        steps=900,
        cpu_min=16.0,
    ),
    Arm(
        "stage_chain_vlm",
        "stages",
        "stage `vlm`, after `clip`",
        config=f"{_CHAIN}:vlm",
        begins_with={"vision": "stage_chain_clip"},
        steps=400,
        cpu_min=6.0,
    ),
    _begun("chain_bflow", "tokenizer of `bflow`", tokenizer="stage_chain_bflow"),
    _begun("chain_all", "tokenizer of `bflow`, text of `vlm`", tokenizer="stage_chain_bflow", text="stage_chain_vlm"),
    _begun("chain_vlm", "text of `vlm`", text="stage_chain_vlm"),
    _begun("chain_clip", "anchors' tower of `clip`", vision="stage_chain_clip"),
    # Out of the tokenizer.
    _outside("cross", "outside", "fusion `cross`, delay 4, 4 layers of 128: what the others differ from"),
    _outside("sum", "outside", "fusion `sum`, equal parameters", *_EQUAL_SUM),
    _outside("interleave", "outside", "fusion `interleave`, equal parameters", *_EQUAL_INTERLEAVE),
    _outside("data_16th", "outside", "a 16th of the clips", data="plain_16th"),
    _outside("data_4th", "outside", "a quarter of the clips", data="plain_4th"),
    _outside("text_1_layer", "outside", "1 text layer", *_text(128, 1, 4, 320), cpu_min=11.0),
    _outside("text_2_layers", "outside", "2 text layers", *_text(128, 2, 4, 320), cpu_min=11.0),
    _outside("text_8_layers", "outside", "8 text layers", *_text(128, 8, 4, 320), cpu_min=16.0),
    _outside("text_64_wide", "outside", "text 64 wide", *_text(64, 4, 2, 160), cpu_min=11.0),
    _outside("text_256_wide", "outside", "text 256 wide", *_text(256, 4, 8, 640), cpu_min=16.0),
    *(
        _outside(f"delay_{steps}", "outside", f"words {0.08 * steps:.2f} s late", _delay(steps))
        for steps in (0, 1, 2, 8)
    ),
    # The interleaved baseline, taught to wait as long as turns of a second do (LiveCC), and a decision every step.
    _outside("interleave_delay_0", "turns", "interleaved, at once", *_EQUAL_INTERLEAVE, _delay(0)),
    _outside("interleave_delay_12", "turns", "interleaved, a second late", *_EQUAL_INTERLEAVE, _delay(12)),
    _outside("cross_delay_12", "turns", "two streams, a second late", _delay(12)),
    # 1.5 M of the parameters are the frozen tokenizer and the video stream; the text stream grows from 25 thousand.
    _outside("text_0.02m", "scaling", "text of 0.02 M parameters", *_text(32, 2, 1, 64), cpu_min=11.0),
    _outside("text_0.15m", "scaling", "text of 0.15 M parameters", *_text(64, 3, 2, 160), cpu_min=11.0),
    _outside("text_2.9m", "scaling", "text of 2.9 M parameters", *_text(192, 6, 6, 512), cpu_min=16.0),
    _outside("text_7.3m", "scaling", "text of 7.3 M parameters", *_text(256, 8, 8, 768), cpu_min=24.0),
)


class Comparison(NamedTuple):
    """Arms that differ in what is asked, in one table.

    Attributes:
      part: of the study.
      title: what they have in common.
      reference: the arm that gains are over.
      arms: in the table's order.
    """

    part: str
    title: str
    reference: str
    arms: tuple[str, ...]


def _named(part: str) -> tuple[str, ...]:
    """Arms of a part that are compared."""
    return tuple(arm.name for arm in ARMS if arm.part == part and not arm.steps)


COMPARISONS = (
    Comparison("tokenizer", "From scratch, on `plain`", "bflow_32", tuple(_TOKENIZERS)),
    Comparison(
        "tokenizer",
        "Each begun with its own stage `bflow`, on `plain`",
        "bflow_32_staged",
        tuple(name for name in _named("tokenizer") if name.endswith("_staged")),
    ),
    Comparison(
        "tokenizer",
        "From scratch, on `rich`",
        "bflow_32_rich",
        tuple(name for name in _named("tokenizer") if name.endswith("_rich")),
    ),
    Comparison(
        "bflow",
        "From scratch, on `plain`",
        "bflow_32",
        ("bflow_32", *(name for name in _named("bflow") if not name.endswith("_rich"))),
    ),
    Comparison(
        "bflow",
        "From scratch, on `rich`",
        "bflow_32_rich",
        ("bflow_32_rich", *(name for name in _named("bflow") if name.endswith("_rich"))),
    ),
    Comparison("stages", "The chain's duplex, on `plain`", "chain_scratch", _named("stages")),
    Comparison("outside", "Begun with a tokenizer that is not trained on, on `plain`", "cross", _named("outside")),
    Comparison(
        "turns",
        "Begun with a tokenizer that is not trained on, on `plain`",
        "cross",
        ("cross", "cross_delay_12", "interleave", "interleave_delay_0", "interleave_delay_12"),
    ),
    Comparison(
        "scaling",
        "Begun with a tokenizer that is not trained on, on `plain`",
        "cross",
        ("text_0.02m", "text_0.15m", "cross", "text_2.9m", "text_7.3m"),
    ),
)


class Lever(NamedTuple):
    """Something of which more can be had for more.

    Attributes:
      name: in the figure.
      cost: what grows: `flops_per_video_s` live, `clips` to learn from, or `training_flops`.
      arms: from the cheapest on.
    """

    name: str
    cost: str
    arms: tuple[str, ...]


LEVERS = (
    Lever("B-Flow's tokens a second", "flops_per_video_s", ("bflow_8", "bflow_16", "bflow_32", "bflow_64")),
    Lever("B-Flow to dense tokens", "flops_per_video_s", ("bflow_32", "dense_320")),
    Lever("text layers", "flops_per_video_s", ("text_1_layer", "text_2_layers", "cross", "text_8_layers")),
    Lever("text width", "flops_per_video_s", ("text_64_wide", "cross", "text_256_wide")),
    Lever("clips", "clips", ("data_16th", "data_4th", "cross")),
    Lever("text parameters", "flops_per_video_s", ("text_0.02m", "text_0.15m", "cross", "text_2.9m", "text_7.3m")),
)
