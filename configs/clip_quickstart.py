"""A small CLIP from scratch: short clips of the built-in world's `plain` look against what is said in them.

Command:  python -m launch.prepare --config=configs/data/world.py --out=data/plain --config.clips=8000
          python -m launch.train --config=configs/clip_quickstart.py --workdir=runs/clip_quickstart
Hardware: 2 CPU cores, 4 GB.
Time:     13 minutes with other work on the machine (1.6 steps a second at the median).
Expected: zero-shot on 752 events of 160 unseen clips: colour 0.80 (chance 0.25), shape 0.52 (0.33; triangles are told,
          circles and squares are not), kind of event 0.37 (0.14), side 0.26 (0.25: not learned). A text finds its clip
          among 160 within the first ten in 0.94 of the cases (0.12), mean rank 3.6 (63):
          `python -m launch.evaluate --checkpoint=runs/clip_quickstart`.
"""

from ml_collections import config_dict

from configs import quickstart

# What does not depend on the stage.
_AS_QUICKSTART = (
    "frame_px",
    "fit",
    "text_tokenizer",
    "init_from",
    "vocab_rows_min",
    "clock",
    "mesh",
    "profile",
    "train",
)


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    base = quickstart.get_config()
    c = config_dict.ConfigDict({name: base[name] for name in _AS_QUICKSTART})
    c.stage = "clip"
    # "softmax" (CLIP) or "sigmoid" (SigLIP: scale_init=10, bias_init=-10).
    c.loss = config_dict.create(kind="softmax", scale_init=14.3, bias_init=config_dict.placeholder(float))

    c.data = base.data
    c.data.update(
        clip_s=2.56,  # what a pair is about: a piece of a record
        text="utterance",  # in the piece; or "words", all of them, or the "caption" of the record, or "either"
        pause_s=0.1,  # the silence that ends an utterance
        shift_s=0.4,  # by how much the piece of an utterance is moved at most
        batch_size=96,
    )

    c.pixels = config_dict.create(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    c.vision = config_dict.create(
        patch_px=8, width=96, layers=2, heads=3, hidden=256, activation="gelu_tanh", pool="attention", projection=128
    )
    # Frames of a piece, spread evenly; pool "mean" is blind to their order.
    c.time = config_dict.create(frames=4, pool="attention", layers=2, heads=4, hidden=384)
    c.text = config_dict.create(
        length=16, width=128, layers=2, heads=4, hidden=384, activation="gelu_tanh", pool="last", projection=128
    )

    c.train.steps = 1200
    return c
