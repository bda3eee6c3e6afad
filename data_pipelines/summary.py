"""summary.json: what a data set amounts to."""

from typing import Any

from data_pipelines.manifest import Manifest

SUMMARY_NAME = "summary.json"


def summary_of(manifest: Manifest) -> dict[str, Any]:
    """The figures of a finished directory as JSON values; a function of the data, so they tell nothing of the run.

    Returns:
      samples: records. hours: of video in them. bytes: of all shards. words: in all records. bytes_an_hour and
      words_a_second: of that video, 0 where there is none. longest_s: the longest record. frame_px, units, shards:
      as the manifest has them. rejected: items that gave no record, by cause; rejected_samples: all of them.
    """
    size_bytes = sum(shard.size_bytes for shard in manifest.shards)
    words = sum(shard.words for shard in manifest.shards)
    duration_s = manifest.duration_s
    rejected = manifest.rejected_by_cause()
    return {
        "samples": manifest.num_records,
        "hours": duration_s / 3600,
        "bytes": size_bytes,
        "words": words,
        "bytes_an_hour": round(size_bytes / duration_s * 3600) if duration_s else 0,
        "words_a_second": words / duration_s if duration_s else 0.0,
        "longest_s": manifest.clock.tick_time_s(manifest.longest_ticks),
        "frame_px": manifest.frame_px,
        "units": manifest.num_units,
        "shards": manifest.num_shards,
        "rejected": rejected,
        "rejected_samples": sum(rejected.values()),
    }
