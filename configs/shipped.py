"""The checkpoint in `checkpoints/shipped`: the quick start's model, a little larger, on both looks of the world.

Command:  python -m launch.prepare --config=configs/data/world.py --out data/plain --config.clips=8000
          python -m launch.prepare --config=configs/data/world.py --out data/rich --config.clips=12000
          --config.look=rich
          python -m launch.train --config=configs/shipped.py --workdir=runs/shipped
          python -m launch.export --checkpoint=runs/shipped --out=checkpoints/shipped
Hardware: 2 CPU cores, 4 GB.
Time:     48 minutes (2.7 steps a second), after 5 minutes for the data.
Expected: event F1 0.95 on `plain` and 0.64 on `rich`: `checkpoints/shipped/metadata.json`.
"""

from ml_collections import config_dict

from configs import quickstart


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = quickstart.get_config()
    c.data.dirs = "data/plain,data/rich"
    c.delay = config_dict.create(min=3, max=6, eval=4)
    c.tokenizer.flow.crop_px = 24
    c.tokenizer.flow.patch_px = 24
    c.tokenizer.flow.width = 192
    c.train.steps = 7000
    c.train.log_every = 100
    c.train.checkpoint_every = 500
    return c
