"""Codes of sound in encoded clips: they travel in the records, and stand beside the slots as in samples of pixels."""

import dataclasses

import numpy as np

from data_pipelines.encoded import ArraySpec, EncodedManifest, pack_clip, write_encoded
from data_pipelines.encoded_loader import make_encoded_loader
from data_pipelines.samples import NO_CODE, CodeShape, Pieces, SampleMaker
from data_pipelines.schema import Codes
from mmduplex_jax.clock import Clock
from tests.data_pipelines.records_in_memory import Records
from tests.data_pipelines.small_records import make_record


def test_encoded_clips_have_the_codes_of_their_records(tokenizer, tmp_path):
    shape = CodeShape(2, 48)
    codes = Codes(np.arange(12 * 3, dtype=np.int16).reshape(12, 3), "some codec")
    records = [dataclasses.replace(make_record(0, 6), codes=codes), make_record(1, 6)]
    plan = EncodedManifest(
        facts={},
        arrays=(ArraySpec("thing", (4,), "int32"),),
        clock=Clock(),
        frame_px=records[0].frame_px,
        num_ticks=8,
        mirrored=False,
        flip_safe=False,
        fit=None,
        cameras=None,
        sources=("0" * 64,),
    )

    def clips_of(number, write):
        for record in records:
            write(pack_clip(record, range(6), {"thing": np.arange(3, dtype=np.int32)}))
        return (1,) * len(records)

    write_encoded(tmp_path, plan, clips_of)
    loader = make_encoded_loader([tmp_path], tokenizer, batch_size=2, codes=shape, threads=0)
    batch = next(loader)
    pixels = SampleMaker(Pieces(Records(records), 8, flip=False, seed=0), tokenizer, with_lag=False, codes=shape)
    for row, index in enumerate(batch["index"]):
        np.testing.assert_array_equal(batch["codes"][row], pixels(row, int(index))["codes"])
    assert batch["codes"].shape == (2, 16, 2)
    assert batch["codes"].dtype == np.int16
    assert sorted((batch["codes"] == NO_CODE).all(axis=(1, 2)).tolist()) == [False, True]
    loader.close()
