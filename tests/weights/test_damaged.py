"""Checkpoints of which something is missing: named, with the newest whole one, and gone on from only where asked."""

import shutil

import pytest

from mmduplex_jax.train.loop import fit
from mmduplex_jax.weights import checkpoint
from mmduplex_jax.weights.checkpoint import CheckpointDamaged, CheckpointError, DiskFull, find_damage, load_params
from tests.train.test_resume import assert_same_end
from tests.train.toy import ToyTask, make_data, toy_config


def train(workdir, stop_at_step=0, **given):
    config = toy_config(train__steps=12, train__checkpoint_every=4, train__stop_at_step=stop_at_step)
    return fit(ToyTask(), make_data(), config, workdir, log=lambda line: None, **given)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    train(workdir)
    return workdir


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


DAMAGES = {
    "params": lambda step: shutil.rmtree(step / "params"),
    "optimizer": lambda step: shutil.rmtree(step / "optimizer"),
    "data": lambda step: (step / "data" / "metadata").unlink(),
    "metadata": lambda step: cut(step / "metadata" / "metadata"),
    "params/manifest.ocdbt": lambda step: (step / "params" / "manifest.ocdbt").unlink(),
    "optimizer/": lambda step: cut(largest(step / "optimizer" / "d")),
    "params/": lambda step: cut(largest(step / "params" / "d")),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_damaged_is_named_with_the_newest_whole_step(run, what):
    DAMAGES[what](run / "checkpoints" / "12")
    with pytest.raises(CheckpointDamaged, match=rf"12 is damaged: {what}.*newest whole one is step 8: .*--from_step=8"):
        train(run)
    if what.startswith(("params", "metadata")):
        with pytest.raises(CheckpointDamaged, match=rf"12 is damaged: {what}.*use it as .*checkpoints/8"):
            load_params(run)
    assert load_params(run / "checkpoints" / "8")[1]["step"] == 8


def test_it_goes_on_from_an_older_step_where_that_is_asked_for(run, whole):
    shutil.rmtree(run / "checkpoints" / "12" / "optimizer")
    assert train(run, from_step=8).step == 12
    assert_same_end(run, whole, 12)
    (aside,) = (run / "set_aside").iterdir()
    assert aside.name.startswith("12-")


def test_no_such_step_or_no_whole_one(run):
    with pytest.raises(CheckpointError, match=r"--from_step=5: .* holds the steps \[4, 8, 12\]"):
        train(run, from_step=5)
    for step in ("4", "8", "12"):
        (run / "checkpoints" / step / "metadata" / "metadata").unlink()
    with pytest.raises(CheckpointDamaged, match="no older one is whole"):
        train(run)
    assert find_damage(run / "checkpoints" / "4") == "metadata/metadata is missing"


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(self, *args, **given):
        raise ValueError("Error writing \"x/d/1\": No space left on device [source locations='a']\n" * 500)

    train(tmp_path, stop_at_step=4)
    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", full)
    with pytest.raises(
        DiskFull, match=r"no room for a checkpoint in .*: the newest whole checkpoint is step 4"
    ) as error:
        train(tmp_path)
    assert len(str(error.value).splitlines()) == 1
