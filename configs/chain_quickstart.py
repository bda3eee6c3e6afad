"""All stages at quick size, in a row: CLIP from scratch, the tokenizer with timed text, captions, commentary.

Command:  python -m launch.chain --config=configs/chain_quickstart.py --workdir=runs/chain
          one stage: python -m launch.train --config=configs/chain_quickstart.py:bflow --workdir=DIR
Hardware: 4 CPU cores, 6 GB.
Time:     37 minutes with two to four other trainings on the machine, compiling and scoring included.
Expected: the duplex, after 600 steps of its own, has F1 0.918 on 160 unseen clips (95 % of resamplings within 0.898 to
          0.939); from scratch the same steps give 0.23: docs/stages.md, with the scores of every stage.
"""

from ml_collections import config_dict

from configs import bflow_quickstart, clip_quickstart, quickstart, vlm_quickstart


def get_config(stage: str = "") -> config_dict.ConfigDict:
    """The config of a stage; without one, what the chain is made of."""
    if stage:
        return _STAGES[stage]()
    c = config_dict.ConfigDict()
    c.order = tuple(_STAGES)
    # What each stage takes from which: `config.init_from` of its own config. The captions' tower is that of `clip` and
    # not of `bflow`, which has trained its patches on, but has no pooled head.
    c.begins_with = config_dict.create(
        bflow=dict(vision="clip"), vlm=dict(vision="clip"), duplex=dict(tokenizer="bflow", text="vlm")
    )
    c.data = config_dict.create(config="configs/data/world.py", look="plain", clips=8000)
    return c


def _bflow() -> config_dict.ConfigDict:
    return bflow_quickstart.get_config("from_clip")


def _vlm() -> config_dict.ConfigDict:
    c = vlm_quickstart.get_config()
    c.train.steps = 400  # its tower has learned to see already
    return c


def _duplex() -> config_dict.ConfigDict:
    c = quickstart.get_config()
    c.tokenizer = _bflow().tokenizer  # whose anchors are seen by a tower of the shape that `clip` trains
    c.train.steps = 600
    return c


_STAGES = {
    "clip": clip_quickstart.get_config,
    "bflow": _bflow,
    "vlm": _vlm,
    "duplex": _duplex,
}
