r"""A small codec for one voice: Mimi's architecture at 16 kHz, 4 codes of 256 every 80 ms, 0.4 kbit/s.

Command:  python -m launch.train --config=configs/codec_quickstart.py --workdir=runs/codec --config.data.dirs=data/voice
          python -m launch.train --config=configs/codec_quickstart.py:decoder --workdir=runs/decoder \
              --config.init_from.model=runs/codec --config.data.dirs=data/voice
Data:     a folder of sound files (.wav, .flac, …) of one voice, or shards whose records keep their sound; a quarter of
          an hour is enough for one synthetic voice.
Hardware: 2 CPU cores, 3 GB.
Time:     52 minutes, 1.0 to 2.0 steps a second beside other work (2026-12-01, two cores of an AMD EPYC).
Expected: of words between silences a tenth mistaken by pocketsphinx, most of them heard too much, and 2 % among the
          words that are said (docs/speech.md).
"""

from ml_collections import config_dict


def get_config(part: str = "") -> config_dict.ConfigDict:
    """The experiment.

    Args:
      part: "" is the codec; "decoder" (behind the file's name and a colon) trains the decoder of one alone. Codes stay
        what they are, so that models that say them sound better without being trained again.

    Raises:
      ValueError: there is no such part.
    """
    if part not in ("", "decoder"):
        raise ValueError(f"configs/codec_quickstart.py:{part}: there is only `decoder`")
    c = config_dict.ConfigDict()
    c.stage = "codec"
    c.text_tokenizer = "world"  # every checkpoint has one; a codec knows no text
    # `model`: a training of this stage to begin with; the other parts are not a codec's.
    c.init_from = config_dict.create(model="", text="", vision="", tokenizer="", strict=True)

    c.data = config_dict.create(
        dirs="data/voice",  # several, separated by commas, are mixed
        weights="",  # how often each is drawn from, e.g. "3,1"; empty: by their lengths
        clip_s=0.96,
        sounding_min=0.4,  # the share of a piece that is to sound: of words between silences most is silence
        batch_size=8,
        seed=0,
        workers=0,  # processes that load; 0 loads in threads
        corrupt_records_max=10,  # pieces that may be left out because their file cannot be read
    )

    c.codec = config_dict.create(
        sample_rate_hz=16_000,
        ratios=(8, 5, 4, 4),
        filters=16,
        decoder_filters=0,  # of the decoder, where they are others
        kernel=7,
        residual_kernel=3,
        last_kernel=3,
        residual_layers=1,
        dilation_base=2,
        compress=2,
        width=128,
        layers=2,
        heads=4,
        hidden=384,
        layer_scale=0.1,
        context_frames=50,  # 2 s
        frames_per_step=2,
        upsample_by_channel=True,
        codebooks=4,
        semantic_codebooks=1,
        codebook_size=256,
        codebook_width=32,
        gate=3e-3,  # -50 dB of full scale: below it decoded sound is silent, as the voice is between words
        remat=False,
        dtype="float32",
    )
    c.loss = config_dict.create(
        mel_weight=1.0,
        mel_windows=(32, 64, 128, 256, 512, 1024, 2048),
        mel_bands=(5, 10, 20, 40, 80, 80, 80),
        stft_weight=1.0,
        stft_windows=(256, 512, 1024),
        # Of full scale; below it all is alike: programs that speak are digitally silent between words.
        # Between them more is alike: what is left of noise there would drown out what is learned of the words.
        silence=5e-5,
        hush=1e-3,
        wave_weight=1.0,
        commitment_weight=0.25,
        adversarial_weight=0.0,
        feature_weight=0.0,
        quantizer_dropout=0.25,
        exact_rate=0.0,
        codebooks=0,  # that pieces without that dropout have; 0 for all
        decay=0.98,
        restart_below=0.1,
    )
    c.discriminator = config_dict.create(windows=(1024, 512, 256), filters=8, dilations=(1, 2, 4))

    c.mesh = config_dict.create(data=-1, fsdp=1, tensor=1)
    c.evals = config_dict.create(
        every=0,  # steps between scores on held-out sound; 0 for none
        dirs="",  # folders, several with commas
        clips=64,  # of each
        batch=16,
        seed=1_000_003,  # which pieces
        metrics="",  # further ones, module:function, several with commas
        best="",  # the number whose best parameters are kept in WORKDIR/best: "-codec/mel"
    )
    c.profile = config_dict.create(steps="")
    c.train = config_dict.create(
        steps=4000,
        stop_at_step=0,
        seed=0,
        log_every=50,
        checkpoint_every=500,
        keep=2,
        grad_accum=1,
        learning_rate=1e-3,
        end_lr_ratio=0.05,
        warmup_steps=100,
        weight_decay=0.0,
        clip_norm=1.0,
        b1=0.8,
        b2=0.95,
        groups=dict(),
    )
    if part:
        c.train.groups = config_dict.create(
            encoder=dict(match="codec/(encoder|encoder_transformer|downsample)/", start_step=-1),
            quantizer=dict(match=r"codec/quantizer/\w+/(?!(sums|usage|initialized)$)", start_step=-1),
        )
        c.train.steps = 1500
        c.loss.quantizer_dropout = 0.25
        c.loss.codebooks = 4  # as many as configs/speak_quickstart.py says
        # The codebooks are averages, which no group holds: here they stay where they are.
        c.loss.decay = 1 - 1e-12
        c.loss.restart_below = 0.0
    return c
