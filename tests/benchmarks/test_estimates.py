"""What a measured step predicts of others."""

from benchmarks.training import FAMILIES, Arm, Run, compared
from mmduplex_jax.stages.config_file import load_config


def run(name: str, flops: float, times_s: list[float]) -> Run:
    return Run(Arm(name, lambda: 0.0, times_s), flops, traced_bytes=2_000_000, planned_bytes=1_000_000, held_bytes=0)


def test_others_are_predicted_by_the_first_s_speed():
    first, other = compared([run("a", 4e9, [2.0, 1.0, 9.0]), run("b", 6e9, [2.5])])
    assert first["predicted_over_measured"] == 1.0
    assert (other["predicted_s"], other["predicted_over_measured"]) == (3.0, 1.2)
    assert (other["traced_mb"], other["planned_mb"]) == (2.0, 1.0)


def test_every_family_changes_fields_that_are_there():
    for file, runs in FAMILIES.items():
        for _, changes in runs:
            config = load_config(file)
            config.update_from_flattened_dict(changes)  # raises for a field that is not
        assert runs[0][1] == {}
