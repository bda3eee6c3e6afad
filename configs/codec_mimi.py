"""Mimi at full size (Défossez et al., 2024): 24 kHz, 32 codes of 2048 every 80 ms, with a discriminator.

Command:  python -m launch.train --config=configs/codec_mimi.py --workdir=runs/mimi --config.data.dirs=data/speech
Data:     hours of speech: folders of sound files, or shards whose records keep their sound.
Hardware: 8 H100, or one for a trial with --config.data.batch_size=8.
Expected: not trained here. Batch, length, rates and moments are the paper's (section 3.3.1); it distils WavLM into the
          semantic code, which this training does not, and takes 4 M steps.
"""

from ml_collections import config_dict

from configs import shared


def get_config() -> config_dict.ConfigDict:
    """The experiment."""
    c = config_dict.ConfigDict()
    c.stage = "codec"
    c.text_tokenizer = "world"  # every checkpoint has one; a codec knows no text
    # `model`: a training of this stage to begin with; the other parts are not a codec's.
    c.init_from = config_dict.create(model="", text="", vision="", tokenizer="", strict=True)

    c.data = shared.data(dirs="data/speech", clip_s=12.0, batch_size=128, sounding_min=0.0)

    c.codec = config_dict.create(
        sample_rate_hz=24_000,
        ratios=(8, 6, 5, 4),
        filters=64,
        kernel=7,
        residual_kernel=3,
        last_kernel=3,
        residual_layers=1,
        dilation_base=2,
        compress=2,
        width=512,
        layers=8,
        heads=8,
        hidden=2048,
        layer_scale=0.01,
        context_frames=250,  # 10 s
        frames_per_step=2,
        upsample_by_channel=True,
        codebooks=32,
        semantic_codebooks=1,
        codebook_size=2048,
        codebook_width=256,
        gate=0.0,
        remat=True,
        dtype="float32",
    )
    # The weights of the spectra are DAC's (Kumar et al., 2023) beside EnCodec's of the discriminator.
    c.loss = config_dict.create(
        mel_weight=15.0,
        mel_windows=(32, 64, 128, 256, 512, 1024, 2048),
        mel_bands=(5, 10, 20, 40, 80, 160, 320),
        stft_weight=1.0,
        stft_windows=(512, 1024, 2048),
        silence=1e-5,
        hush=0.0,
        wave_weight=0.1,
        commitment_weight=0.25,
        adversarial_weight=4.0,
        feature_weight=4.0,
        quantizer_dropout=1.0,
        exact_rate=0.5,
        decay=0.99,
        restart_below=0.1,
    )
    c.discriminator = config_dict.create(windows=(2048, 1024, 512, 256, 128), filters=32, dilations=(1, 2, 4))

    c.mesh = shared.mesh()
    c.evals = shared.evals()
    c.profile = shared.profile()
    c.train = config_dict.create(
        steps=1_000_000,
        stop_at_step=0,
        seed=0,
        log_every=100,
        checkpoint_every=5000,
        keep=3,
        grad_accum=1,
        learning_rate=8e-4,
        end_lr_ratio=0.0,
        warmup_steps=1000,
        weight_decay=0.05,
        clip_norm=1.0,
        b1=0.5,
        b2=0.9,
        groups=dict(),
    )
    return c
