"""One token an image: a CLIP-like tower that exists, a projector, and a language model that exists.

SigLIP-B/16 at 224 px (`configs/vlm_single_token.py:clip` has CLIP-B/16) looks at one frame; its pooled head is one
token before the caption in SmolLM2-360M. The baseline that watching while talking must beat. The tower is not trained.

Command:  python -m launch.import_weights --from=siglip-base-patch16-224 --to=weights/siglip
          python -m launch.import_weights --from=SmolLM2-360M --to=weights/smollm2
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

from configs import duplex_300m, vlm_quickstart

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
        vision=dict(activation="gelu_tanh", pool="attention", **_BASE),
        pixels=dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
    "clip": dict(
        vision=dict(
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
    """The experiment, with one of the towers above."""
    c = vlm_quickstart.get_config()
    c.frame_px = 224
    c.time.frames = 1
    c.caption.length = 64
    c.vision = config_dict.ConfigDict(_TOWERS[tower]["vision"])
    c.pixels = config_dict.ConfigDict(_TOWERS[tower]["pixels"])
    c.projector = config_dict.create(tokens=1, hidden=2048, activation="gelu_tanh")
    # SmolLM2-360M, as the duplex has it.
    duplex = duplex_300m.get_config()
    c.text = duplex.text
    for name in ("cross_every", "cross_gate", "num_sinks", "window_s"):
        del c.text[name]
    c.vocab_rows_min = duplex.vocab_rows_min

    c.data.update(
        dirs="data/captioned_224",
        text="either",  # the caption of a record, or what is said in the piece
        batch_size=256,
        workers=8,
    )
    c.train.update(
        steps=20_000,
        log_every=50,
        checkpoint_every=1000,
        learning_rate=1e-3,
        warmup_steps=500,
        end_lr_ratio=0.01,
        b2=0.95,
    )
    c.train.groups = config_dict.create(
        vision=dict(match="vision/", start_step=-1, lr=0.02),
        # What it knows is kept from the noise of a new projector; but the mark that ends a caption is new to it.
        text=dict(match="text/", start_step=2000, lr=0.05),
        embedding=dict(match="embedding|head", start_step=0, lr=0.05),
    )
    return c
