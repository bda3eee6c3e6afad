"""One token an image: a CLIP-like tower that exists, a projector, and a language model that exists.

SigLIP-B/16 at 224 px (`configs/vlm_single_token.py:clip` has CLIP-B/16) looks at one frame; its pooled head is one
token before the caption in SmolLM2-360M. The baseline that watching while talking must beat. The tower is not trained.

Command:  python -m launch.import_weights --from=siglip-base-patch16-224 --out=weights/siglip
          python -m launch.import_weights --from=SmolLM2-360M --out=weights/smollm2
          python -m launch.train --config=configs/vlm_single_token.py --workdir=runs/vlm --config.data.dirs=DIR \
              --config.init_from.vision=weights/siglip --config.init_from.text=weights/smollm2 \
              --config.text_tokenizer=weights/smollm2
          DIR: prepared with --config.frame_px=224 or more; on 8 devices: --config.mesh.fsdp=8
          k tokens an image: --config.projector.tokens=K; a clip of T frames, T · K tokens: --config.time.frames=T
          the language model's layers never: --config.train.groups.text.start_step=-1
          the tower too, from step N on: --config.train.groups.vision.start_step=N
          two steps on a CPU: --config.train.steps=2 --config.data.batch_size=2
Hardware: one GPU of 80 GB; for the two steps 2 CPU cores, 10 GB and 1.5 minutes, compiling included.
Time:     not trained yet.
Expected: not trained yet.
"""

from ml_collections import config_dict

from configs import shared

_BASE = dict(
    patch_px=16,
    width=768,
    layers=12,
    heads=12,
    hidden=3072,
    positions="bicubic",
    dtype="bfloat16",
    attention="einsum",  # or "fused": docs/training_speed.md
)
# google/siglip-base-patch16-224 and openai/clip-vit-base-patch16: towers, and how their pictures are normalised.
_TOWERS = {
    "siglip": dict(
        tower=dict(activation="gelu_tanh", pool="attention", **_BASE),
        pixels=dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
    "clip": dict(
        tower=dict(
            activation="quick_gelu",
            norm_epsilon=1e-5,
            class_token=True,
            patch_bias=False,
            pre_norm=True,
            last_norm="pooled",
            pool="class",
            projection=512,
            **_BASE,
        ),
        pixels=dict(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
    ),
}


def get_config(tower: str = "siglip") -> config_dict.ConfigDict:
    """The experiment.

    Args:
      tower: what sees the pictures, one of `_TOWERS`.

    Raises:
      ValueError: there is no such tower.
    """
    if tower not in _TOWERS:
        raise ValueError(f"configs/vlm_single_token.py:{tower}: the towers are {', '.join(_TOWERS)}")
    c = config_dict.ConfigDict()
    c.stage = "vlm"
    c.frame_px = (224, 224)  # height and width; or one number for a square
    c.fit = "pad"  # pictures of another shape: all of them between bars, or "crop": their centre
    c.text_tokenizer = "world"  # or the path of a tokenizer.json, or a folder of imported weights with one
    # What to begin with (mmduplex_jax/weights/init_from.py): folders of imported weights or of trainings;
    # strict: all of it must fit.
    c.init_from = config_dict.create(text="", vision="", tokenizer="", strict=True)
    c.vocab_rows_min = 49_155  # room for SmolLM2's vocabulary and our marks, whatever tokenizer is used
    c.clock = config_dict.create(step_hz=12.5, video_stride=2)
    c.loss = config_dict.create(
        chunk=0,  # steps whose logits are held at once; 0 for all (docs/training_speed.md)
    )
    c.data = shared.data(
        dirs="data/captioned_224",
        clip_s=2.56,  # a piece of a record
        text="either",  # the caption of a record, or what is said in the piece
        pause_s=0.1,
        shift_s=0.4,
        batch_size=256,
    )
    c.vision = config_dict.ConfigDict(_TOWERS[tower]["tower"])
    c.pixels = config_dict.ConfigDict(_TOWERS[tower]["pixels"])
    c.time = config_dict.create(
        frames=1,  # of a piece, spread evenly
    )
    c.projector = config_dict.create(
        tokens=1,  # of a frame
        hidden=2048,
        activation="gelu_tanh",
    )
    c.caption = config_dict.create(
        length=64,  # tokens at most, the end mark included
    )
    # SmolLM2-360M (HuggingFaceTB/SmolLM2-360M, config.json); its tokenizer's vocabulary has 49152 entries.
    c.text = config_dict.create(
        width=960,
        layers=32,
        heads=15,
        kv_heads=5,
        head_width=64,
        hidden=2560,
        rope_base=100_000.0,
        norm_epsilon=1e-5,
        attention="einsum",  # or "fused": docs/training_speed.md
        dtype="bfloat16",
        remat=True,
        scan=True,
    )
    c.mesh = shared.mesh()
    c.profile = shared.profile()
    c.evals = shared.evals()
    c.train = config_dict.create(
        steps=20_000,
        stop_at_step=0,  # ends the run here, as a signal would; 0: not before `steps`
        seed=0,
        log_every=50,
        checkpoint_every=1000,
        keep=2,
        grad_accum=1,
        learning_rate=0.001,
        end_lr_ratio=0.01,
        warmup_steps=500,
        weight_decay=0.05,
        clip_norm=1.0,
        b1=0.9,
        b2=0.95,
        # What is trained from which step on, how fast (docs/train_it_yourself.md); all else from the first.
        groups=dict(
            vision=dict(match="vision/", start_step=-1, lr=0.02),
            # What it knows is kept from the noise of a new projector; but the mark that ends a caption is new to it.
            text=dict(match="text/", start_step=2000, lr=0.05),
            embedding=dict(match="embedding|head", start_step=0, lr=0.05),
        ),
    )
    return c
