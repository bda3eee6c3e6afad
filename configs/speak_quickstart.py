r"""The model `world` with a voice: it says aloud what it writes, two steps (160 ms) behind the text.

Command:  docs/speech.md has what comes before (a voice, a codec, its codes), `make speech` does all of it.
          python -m launch.train --config=configs/speak_quickstart.py --workdir=runs/speak
Data:     the built-in world, spoken: records with codes of the codec that `configs/codec_quickstart.py` trains. Clips
          without sound teach text alone.
Hardware: 2 CPU cores, 4 GB.
Time:     21 minutes, 0.8 steps a second (2026-12-01, two cores of an AMD EPYC, other work of lower rank beside).
Expected: 0.17 nats a code, 0.06 of the first codebook, event F1 as that of `world`, and a tenth of what it says
          mistaken by pocketsphinx, as of what the codec says (docs/speech.md).
"""

from ml_collections import config_dict

from configs import world


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = world.get_config()
    # It writes already, and learns to speak: `world` lacks the audio stream, so strict=False.
    c.init_from = config_dict.create(model="world", text="", vision="", tokenizer="", strict=False)
    c.data.dirs = "data/spoken-plain,data/spoken-rich"
    c.data.flip = False  # a flipped clip says "left" where its sound says "right", and so loses its sound
    c.audio = config_dict.create(
        # As the codec has; of one with more the first: what they leave out is not heard, takes as long again to learn,
        # and is the least like from word to word. 0 for a model that only writes.
        codebooks=4,
        card=256,  # codes of each, as the codec has them
        audio_delay=2,  # steps by which text leads sound, so that a word is known before it is said
        acoustic_delay=1,  # steps by which all codebooks but the first run behind it
        weight=1.0,  # of the codes' loss beside the text's, each divided by its own weights
        # Of a code of the first codebook, from which the others follow. 100 in Moshi, where it holds the meaning.
        first_codebook_weight=4.0,
        dropout=0.2,  # share of clips from which text is learned as if they had no sound
        depth=dict(
            width=128,
            layers=2,
            heads=4,
            hidden=320,
            schedule=(0, 1, 2, 3),  # which weights each codebook has
            low_rank=0,
            remat=False,
        ),
    )
    c.train.learning_rate = 1e-3
    c.train.steps = 1000
    c.train.checkpoint_every = 250
    c.train.log_every = 50
    return c
