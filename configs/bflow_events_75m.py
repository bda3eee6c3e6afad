"""B-Flow at full size (75 M), taught by timed words: the tokenizer that `configs/duplex_300m.py` may begin with.

Command:  python -m launch.train --config=configs/bflow_events_75m.py --workdir=runs/bflow_events_75m \
              --config.data.dirs=DIR --config.text_tokenizer=tokenizer.json
          then the duplex: --config=configs/duplex_300m.py --config.init_from.tokenizer=runs/bflow_events_75m
          with a teacher, a training of configs/clip_s16.py: --config=configs/bflow_events_75m.py:from_clip \
              --config.init_from.vision=DIR (the anchors then have its tower; so must the duplex's)
Hardware: 8 GPUs of 24 GB or more for the batch of 128 clips of 12 s, as `launch.estimate` counts it.
Time:     not trained yet.
Expected: not trained yet.
"""

from ml_collections import config_dict

from configs import bflow_75m, bflow_quickstart, clip_s16


def get_config(variant: str = "") -> config_dict.ConfigDict:
    """The experiment.

    Args:
      variant: as in `configs/bflow_quickstart.py`, with the tower of `configs/clip_s16.py`.

    Raises:
      ValueError: there is no such variant.
    """
    c = bflow_quickstart.get_config(variant)
    full = bflow_75m.get_config()
    c.frame_px, c.tokenizer = full.frame_px, full.tokenizer
    c.tokenizer.dtype = "bfloat16"
    c.vocab_rows_min = 49152 + 3  # as in `configs/duplex_300m.py`

    # Half a batch backwards and a quarter with another's motion would cost as much again; there are negatives enough.
    c.counterfeits.update(backward_every=4, swapped_every=8)
    c.data.update(dirs="data/rich_224", batch_size=128, workers=8)
    c.events.reader.update(queries=8, heads=8, head_width=64, hidden=1536)
    c.words.update(width=512, heads=8, head_width=64, hidden=1536)
    c.align.embedding = 512
    c.prediction.update(places=8, horizon_s=(0.0, 0.64, 1.28), picture_px=32)
    c.prediction.reader.update(queries=4, heads=8, head_width=64, hidden=1536)
    c.train.update(
        steps=100_000, checkpoint_every=2000, learning_rate=5e-4, warmup_steps=2000, b2=0.95, end_lr_ratio=0.01
    )

    clip = clip_s16.get_config()
    # Its positions are for 384 px; they are fitted to 224.
    clip.vision.update(image_px=clip.frame_px)
    bflow_quickstart.see_as_clip(c, clip, taught=variant == "from_clip")
    return c
