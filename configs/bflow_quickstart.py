"""The quick start's tokenizer, taught by timed words: what happened, to what, where, and in which direction of time.

Command:  python -m launch.prepare --config=configs/data/world.py --out=data/plain --config.clips=8000
          python -m launch.train --config=configs/bflow_quickstart.py --workdir=runs/bflow_quickstart
Hardware: 2 CPU cores, 4 GB.
Time:     8.5 minutes (2 steps a second), measured of `from_clip`; 14.5 minutes with much other work on the machine.
Expected: on 160 unseen clips (`python -m launch.evaluate --checkpoint=runs/bflow_quickstart`): the moment of its video
          that a phrase is about, one of 12, is found in 0.98 of the cases (chance 0.19, with another clip's tokens
          0.25); an event whose words tell is seen to run forwards and not backwards in 0.94 (0.50, 0.57).
          `from_clip`: 0.97 and 0.94. A duplex learns faster from it: after 600 steps of `configs/quickstart.py` with
          `--config.init_from.tokenizer=runs/bflow_quickstart` F1 0.88 (0.85 to 0.90), and words cost 0.09 nats a token
          at step 500, from scratch 0.97.
"""

from ml_collections import config_dict

from configs import clip_quickstart, quickstart

# What does not depend on the stage, and the tokenizer, so that a duplex can begin with it.
_AS_QUICKSTART = (
    "frame_px", "fit", "text_tokenizer", "init_from", "vocab_rows_min", "clock", "data", "tokenizer", "mesh", "profile",
    "train",
)  # fmt: skip


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The experiment.

    Args:
      variant: "" predicts small pictures; "from_clip" (behind the file's name and a colon) predicts
        what a tower of `configs/clip_quickstart.py` sees, and has such a tower for its anchors too: both begin with
        `config.init_from.vision`.

    Raises:
      ValueError: there is no such variant.
    """
    if variant not in ("", "from_clip"):
        raise ValueError(f"configs/bflow_quickstart.py:{variant}: there is only `from_clip`")
    base = quickstart.get_config()
    c = config_dict.ConfigDict({name: base[name] for name in _AS_QUICKSTART})
    c.stage = "bflow"

    # Event tokens: how far apart, and how they are read out of the tokens of the last seconds.
    c.events = config_dict.create(
        interval_s=0.96, reader=dict(window_s=3.2, queries=4, heads=4, head_width=32, hidden=256)
    )
    c.words = config_dict.create(width=128, heads=4, head_width=32, hidden=256)
    c.align = config_dict.create(
        embedding=128,
        lag_s=1.0,  # by which an event token stands after the middle of its bag
        bag_s=1.0,  # words that begin so near to the middle are in the bag
        band_s=0.4,  # between bags of one video that are compared
        scale_init=14.3,
    )
    c.hard_negatives = config_dict.create(backward_every=2, swapped_every=4)  # every n-th clip; 0 for none
    c.prediction = config_dict.create(
        places=4,
        horizon_s=(0.0, 0.64),
        picture_px=(16, 16),
        reader=dict(window_s=4.48, queries=2, heads=4, head_width=32, hidden=256),
    )
    c.loss = config_dict.create(
        align_weight=1.0, name_weight=1.0, predict="pixels", predict_weight=1.0, nested_dropout=0.25
    )

    c.train.steps = 900
    see_as_clip(c, clip_quickstart.get_config(), taught=variant == "from_clip")
    return c


def see_as_clip(c: config_dict.ConfigDict, clip: config_dict.ConfigDict, taught: bool) -> None:
    """Describes the tower of a training of stage `clip` as the teacher; if `taught`, puts it to use.

    Args:
      c: of stage bflow, changed in place.
      clip: of stage clip.
      taught: whether its view is predicted; the anchors are then seen by a tower of its shape, too.
    """
    c.teacher, c.pixels = clip.vision, clip.pixels
    if not taught:
        return
    c.loss.predict = "teacher"
    plain = {"pool": "none", "projection": 0, "last_norm": "tokens"}
    c.tokenizer.anchor.tower = config_dict.ConfigDict(clip.vision.to_dict() | plain)
    c.tokenizer.anchor.update(mean=clip.pixels.mean, std=clip.pixels.std)
    c.train.groups = config_dict.create(teacher=dict(match="teacher/", start_step=-1))
