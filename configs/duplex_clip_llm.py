r"""The dual stream from parts that exist: SigLIP-B/16 looks at the anchors, SmolLM2-360M talks; what is between is new.

`configs/duplex_300m.py`, but its anchors are seen by a tower that has seen much (`configs/duplex_clip_llm.py:clip` has
CLIP-B/16), and training goes by groups: first what is new (read-out, flow tokens, video stream, projector,
cross-attention behind gates that start at zero), then the language model, then the tower. Until their steps come
neither of the two changes by a bit.

Command:  python -m launch.import_weights --from=siglip-base-patch16-224 --to=weights/siglip
          python -m launch.import_weights --from=SmolLM2-360M --to=weights/smollm2
          python -m launch.train --config=configs/duplex_clip_llm.py --workdir=runs/clip_llm --config.data.dirs=DIR \
              --config.init_from.vision=weights/siglip --config.init_from.text=weights/smollm2 \
              --config.text_tokenizer=weights/smollm2
          DIR: prepared with --config.frame_px=224; on 8 devices: --config.mesh.fsdp=8
          both from a captioner that knows them already: --config.init_from.vision=runs/vlm \
              --config.init_from.text=runs/vlm (of configs/vlm_single_token.py)
          one token a tick, the tower's pooled head, instead of B-Flow: --config.tokenizer.kind=per_frame \
              --config.tokenizer.anchor.readout=pooled
          the language model never: --config.train.groups.text.start_step=-1; the same for tower
Hardware: one H100 (80 GB) or 8.
Time:     not run yet. On a shared CPU with 23 GB it begins and compiles (3.6 minutes on 2 cores, --config.train.steps=2
          --config.data.batch_size=1), but no step was done: the system ended it at 19 GB with moments for all groups,
          and at 13.6 GB, when others had the rest, without those of groups that start after the last step.
Expected: not trained yet.
"""

from ml_collections import config_dict

from configs import duplex_300m, vlm_single_token


def get_config(tower: str = "siglip") -> config_dict.ConfigDict:
    """The experiment, with one of the towers of `configs/vlm_single_token.py`."""
    c = duplex_300m.get_config()
    seen_by = vlm_single_token.get_config(tower)
    c.tokenizer.anchor.tower = seen_by.vision
    c.tokenizer.anchor.tower.remat = True
    c.tokenizer.anchor.update(mean=seen_by.pixels.mean, std=seen_by.pixels.std)
    c.train.groups = config_dict.create(
        text=dict(match="text/(?!.*/cross)", start_step=20_000, lr=0.1),
        # From the first step, as the rows of our marks are new.
        embedding=dict(match="(embedding|head)$", start_step=0, lr=0.1),
        tower=dict(match="tokenizer/anchors/tower/", start_step=100_000, lr=0.05),
    )
    return c
