"""Every source as a builder of `tensorflow_datasets`, read by `tfds.data_source` without TensorFlow.

The command `tfds build` imports TensorFlow for its own sake. Without it, a dataset is built from Python:

    from configs.data import livecc
    from data_pipelines.tfds_builders import livecc_dataset_builder
    from data_pipelines.tfds_builders.source_builder import SourceConfig
    from launch.prepare import motion_of

    config = livecc.get_config()
    config.annotations, config.root = "live_whisperx_526k_with_seeks.jsonl", "videos"
    values = config.to_dict()
    builder = livecc_dataset_builder.Builder(
        data_dir="data/tfds", config=SourceConfig(name="whisperx", values=values, motion=motion_of(values))
    )
    builder.download_and_prepare()

and from then on read anywhere, also where this package is not installed:

    import tensorflow_datasets as tfds

    examples = tfds.data_source("livecc/whisperx", split="train", data_dir="data/tfds", download=False)
    examples[0]["frames"], examples[0]["words"]

or by the loader:  make_loader(TfdsRecords(builder.data_path), tokenizer, batch_size=32).

A builder calls the same `Source.items` as `launch.prepare`, in one process and in the source's order; rejected inputs
are counted in the metadata and listed in rejected.jsonl beside the data. `launch.prepare` is the way for large data: it
works on all cores or on Apache Beam, resumes, stores small frames in sheets and writes WebP and raw frames too.
"""
