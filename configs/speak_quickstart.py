r"""The quick start's model with a voice: it says aloud what it writes, two steps (160 ms) behind the text.

Command:  python -m launch.train --config=configs/speak_quickstart.py --workdir=runs/speak \
              --config.data.dirs=data/spoken --config.init_from.model=runs/quickstart --config.init_from.strict=False
          The data's records must have codes of their sound (`data_pipelines/schema.py`, `Codes`); those of
          `configs/codec_quickstart.py` have the shape that is set here. Clips without sound teach text alone.
Hardware: 2 CPU cores, 4 GB.
Time:     not run yet.
Expected: not trained yet.
"""

from ml_collections import config_dict

from configs import quickstart


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = quickstart.get_config()
    c.init_from.model = ""  # a training without a voice to go on from: then strict=False, since it lacks `audio`
    c.data.dirs = "data/spoken"
    c.audio = config_dict.create(
        codebooks=8,  # of every step, and
        card=256,  # codes of each, as the codec has them; codebooks=0 for a model that only writes
        audio_delay=2,  # steps by which text leads sound, so that a word is known before it is said
        acoustic_delay=1,  # steps by which all codebooks but the first run behind it
        weight=1.0,  # of the codes' loss beside the text's, each divided by its own weights
        # Of a code of the first codebook, which holds the meaning; 100 in Moshi, where semantic codes are distilled.
        first_codebook_weight=10.0,
        dropout=0.2,  # share of clips from which text is learned as if they had no sound
        depth=dict(
            width=128,
            layers=2,
            heads=4,
            hidden=320,
            schedule=(0, 1, 2, 2, 3, 3, 3, 3),  # which weights each codebook has
            low_rank=0,
            remat=False,
        ),
    )
    return c
