"""A small captioner: short clips of the built-in world, one token a frame, then what the commentator says of them.

Command:  python -m launch.prepare --config=configs/data/world.py --out=data/plain --config.clips=8000
          python -m launch.train --config=configs/vlm_quickstart.py --workdir=runs/vlm_quickstart
          with a tower that has learned to see: --config.init_from.vision=runs/clip_quickstart
          and is not trained: --config.train.groups.vision.start_step=-1
Hardware: 2 CPU cores, 4 GB.
Time:     22 minutes beside three other trainings on the same cores (0.95 steps a second at the median).
Expected: captions of 160 unseen clips, greedy: CIDEr 2.37; of another clip 0.67, of a grey picture 0.65, always the
          most frequent text 0.83. BLEU-4 0.22, ROUGE-L 0.54, METEOR without synonyms 0.44. The first word, a colour, is
          right in 0.83 of them and the verb in 0.57; shapes (0.39, chance 0.33) and sides are not learned: one pooled
          vector a frame tells what is there, and hardly where. One seed:
          `python -m launch.evaluate --checkpoint=runs/vlm_quickstart`.
"""

from ml_collections import config_dict

from configs import clip_quickstart, quickstart

# As the stage `clip` has them.
_RUN = ("frame_px", "fit", "text_tokenizer", "init_from", "vocab_rows_min", "clock", "mesh", "profile", "train")
_SEEN = ("data", "pixels", "vision")


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    clip = clip_quickstart.get_config()
    c = config_dict.ConfigDict({name: clip[name] for name in _RUN + _SEEN})
    c.stage = "vlm"
    c.data.update(text="utterance", batch_size=32)
    c.time = config_dict.create(frames=8)  # of a piece, spread evenly
    c.projector = config_dict.create(tokens=1, hidden=256, activation="gelu_tanh")  # tokens of a frame
    c.loss = config_dict.create(chunk=0)  # tokens whose logits are held at once; 0 for all
    c.caption = config_dict.create(length=clip.text.length)  # tokens at most, the end mark included
    # The text stream of the duplex, so that it can begin with this one.
    c.text = quickstart.get_config().text
    for name in ("cross_every", "cross_gate", "num_sinks", "window_s"):
        del c.text[name]
    c.train.steps = 1200
    c.train.groups = config_dict.create(vision=dict(match="vision/", start_step=0, lr=1.0))
    return c
