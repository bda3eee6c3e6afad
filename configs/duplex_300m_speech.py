r"""`configs/duplex_300m.py` with a voice: eight codes of Mimi a step, which a depth transformer says.

Command:  python -m launch.train --config=configs/duplex_300m_speech.py --workdir=runs/duplex_300m_speech \
              --config.data.dirs=DIR
          on 8 devices: --config.mesh.fsdp=8. The data's records must have codes of their sound
          (`data_pipelines/schema.py`, `Codes`). It goes on from a training without a voice with
          --config.init_from.model=runs/duplex_300m --config.init_from.strict=False.
Hardware: one H100 (80 GB) or 8.
Time:     not run on one yet. Two steps of one clip on a CPU core: 9 minutes, 19.6 GB (2026-11-30).
Expected: not trained yet.
"""

from ml_collections import config_dict

from configs import duplex_300m


def get_config() -> config_dict.ConfigDict:
    """The experiment: all of `duplex_300m`, so that what a voice costs is the difference."""
    c = duplex_300m.get_config()
    c.init_from.model = ""  # a training without a voice to go on from: then strict=False, since it lacks `audio`
    c.audio = config_dict.create(
        # kyutai/mimi has 32 codebooks, of which Moshi says 8: 1.1 kbit/s.
        codebooks=8,
        card=2048,
        audio_delay=2,  # steps by which text leads sound
        acoustic_delay=1,  # steps by which all codebooks but the first run behind it, as in Moshi
        weight=1.0,  # of the codes' loss beside the text's, each divided by its own weights
        first_codebook_weight=100.0,  # its codes hold the meaning (Moshi's)
        dropout=0.1,  # share of clips from which text is learned as if they had no sound
        # Half of Moshi's width and two thirds of its depth, since the text stream is a twentieth of Moshi's; the last
        # four codebooks, which hold the least, share weights.
        depth=dict(
            width=512,
            layers=4,
            heads=8,
            hidden=1408,
            schedule=(0, 1, 2, 3, 4, 4, 4, 4),
            low_rank=128,
            remat=True,
        ),
    )
    return c
