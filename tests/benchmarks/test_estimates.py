"""What a measured step foretells of others."""

from benchmarks.estimates import FAMILIES, Run, compared, measure
from mmduplex_jax.stages.config_file import load_config


def run(name: str, flops: float, times_s: list[float]) -> Run:
    return Run(name, flops, traced_bytes=2_000_000, planned_bytes=1_000_000, step=lambda: None, times_s=times_s)


def test_others_are_foretold_by_the_first_s_speed():
    first, other = compared([run("a", 4e9, [2.0, 1.0, 9.0]), run("b", 6e9, [2.5])])
    assert first["foretold_over_measured"] == 1.0
    assert (other["foretold_s"], other["foretold_over_measured"]) == (3.0, 1.2)
    assert (other["traced_mb"], other["planned_mb"]) == (2.0, 1.0)


def test_runs_take_turns_and_the_first_step_of_each_does_not_count():
    done: list[str] = []
    runs = [run("a", 1.0, []), run("b", 1.0, [])]
    for one in runs:
        one.step = lambda name=one.name: done.append(name)
    measure(runs, rounds=2, steps=2)
    assert "".join(done) == "ab" + "aabb" * 2
    assert [len(one.times_s) for one in runs] == [4, 4]


def test_every_family_changes_fields_that_are_there():
    for file, runs in FAMILIES.items():
        for _, changes in runs:
            config = load_config(file)
            config.update_from_flattened_dict(changes)  # raises for a field that is not
        assert runs[0][1] == {}
