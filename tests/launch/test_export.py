import dataclasses
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mmduplex_jax as mm
from launch import export
from mmduplex_jax.commentator import commentator_of, pool_of
from mmduplex_jax.layers.reduced import Reduced
from mmduplex_jax.streaming.deadlines import DeadlinePolicy
from mmduplex_jax.train.step import TrainState
from mmduplex_jax.weights import portable
from mmduplex_jax.weights.checkpoint import Checkpoints, RunFacts
from mmduplex_jax.weights.reduced import expanded
from mmduplex_jax.weights.trained import load_trained


@pytest.fixture(scope="module")
def workdir(untrained, tmp_path_factory):
    """A training's workdir, saved by Orbax after 3 steps."""
    config, tokenizer, params = untrained
    folder = tmp_path_factory.mktemp("run")
    facts = RunFacts(json.loads(config.to_json_best_effort()), tokenizer.to_json(), data_fingerprint="abc")
    with Checkpoints(folder, keep=1, facts=facts) as checkpoints:
        checkpoints.save(3, TrainState(jnp.int32(3), params, {"m": jnp.zeros(2)}), b"{}", {})
        checkpoints.finish()
    return folder


def same(found, wanted, tolerance=0.0):
    found, wanted = portable.flatten(found), portable.flatten(wanted)
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(wanted[name]), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 2e-3)])
def test_a_workdir_becomes_portable(untrained, workdir, tmp_path, capsys, dtype, tolerance):
    config, tokenizer, params = untrained
    scores = tmp_path / "plain.json"
    scores.write_text('{"f1": 0.5}')
    flags = [f"--checkpoint={workdir}", f"--out={tmp_path / 'out'}", f"--dtype={dtype}", "--scores", str(scores)]
    assert export.main(flags) == 0
    assert "tensors after 3 steps" in capsys.readouterr().out
    trained = load_trained(tmp_path / "out")
    same(trained.params, params, tolerance)
    assert trained.config == load_trained(workdir).config
    assert trained.config.tokenizer.budget.flow_token_levels == config.tokenizer.budget.flow_token_levels
    assert trained.tokenizer == tokenizer
    assert trained.steps == 3
    assert trained.metadata["scores"] == {"plain": {"f1": 0.5}}
    assert trained.metadata["data"]["fingerprint"] == "abc"
    assert trained.clock == load_trained(workdir).clock


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
def test_fewer_bits_go_along(workdir, tmp_path, capsys, kind):
    fewer, again, plain = (tmp_path / name for name in ("fewer", "again", "plain"))
    assert export.main([f"--checkpoint={workdir}", f"--out={fewer}", "--dtype=float32", f"--weights={kind}"]) == 0
    assert f"({kind}, the rest float32)" in capsys.readouterr().out
    trained, wanted = load_trained(fewer), load_trained(workdir, kind)
    assert (trained.weights, wanted.weights, load_trained(workdir).weights) == (kind, kind, "float32")
    same(trained.params, wanted.params)
    held = commentator_of(trained, "held").params
    leaves = jax.tree.leaves(held, is_leaf=lambda leaf: isinstance(leaf, Reduced))
    assert any(isinstance(leaf, Reduced) for leaf in leaves)
    same(expanded(held), commentator_of(dataclasses.replace(wanted, weights="float32"), "wanted").params)
    # An export of an export is as small, unless more bits are asked for.
    assert export.main([f"--checkpoint={fewer}", f"--out={again}", "--dtype=float32"]) == 0
    assert (again / portable.PARAMS_FILE).read_bytes() == (fewer / portable.PARAMS_FILE).read_bytes()
    assert export.main([f"--checkpoint={fewer}", f"--out={plain}", "--dtype=float32", "--weights=float32"]) == 0
    assert load_trained(plain).weights == "float32"
    same(load_trained(plain).params, trained.params)


def test_an_unknown_kind_of_weights_is_refused(workdir, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        export.main([f"--checkpoint={workdir}", f"--out={tmp_path / 'out'}", "--weights=int4"])
    assert "invalid choice: 'int4' (choose from" in capsys.readouterr().err
    with pytest.raises(ValueError, match="is one of float32, bfloat16, int8, not 'int4'"):
        mm.load(workdir, weights="int4")


def test_how_quiet_a_model_is_goes_with_it(workdir, tmp_path):
    assert export.main([f"--checkpoint={workdir}", f"--out={tmp_path / 'out'}", "--pad_bias=0.75"]) == 0
    assert load_trained(tmp_path / "out").task.config.pad_bias == 0.75
    assert load_trained(workdir).task.config.pad_bias == 0.0


def test_whether_it_begins_anew_at_cuts_goes_with_it_and_to_its_streams(workdir, tmp_path, monkeypatch):
    outs = [tmp_path / name for name in ("anew", "again", "on")]
    for given, out, flags in ((workdir, outs[0], ["--anew_at_cuts"]), (outs[0], outs[1], [])):
        assert export.main([f"--checkpoint={given}", f"--out={out}", *flags]) == 0
    assert export.main([f"--checkpoint={outs[0]}", f"--out={outs[2]}", "--no-anew_at_cuts"]) == 0
    models = [mm.load(path) for path in (workdir, *outs)]
    assert [model.anew_at_cuts for model in models] == [False, True, True, False]
    pools = mock.Mock()
    for module in ("mmduplex_jax.commentator", "mmduplex_jax.streaming.pool"):
        monkeypatch.setattr(f"{module}.StreamPool", pools)
    for model in models[2:]:
        model.session()
        pool_of(model, 1, DeadlinePolicy())
    assert [call.kwargs["anew_at_cuts"] for call in pools.call_args_list] == [True, True, False, False]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--checkpoint={tmp}/nowhere"], "no checkpoint in"),
        (["--max_bytes=1000"], "more than 1,000"),
        (["--scores", "{tmp}/no.json"], "no.json"),
    ],
)
def test_what_cannot_be_exported_is_said(workdir, tmp_path, capsys, flags, said):
    flags = [flag.replace("{tmp}", str(tmp_path)) for flag in flags]
    assert export.main([f"--checkpoint={workdir}", f"--out={tmp_path / 'out'}", *flags]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_its_configs_model_is_refused(untrained, portable_dir, tmp_path):
    config, tokenizer, params = untrained
    _, metadata = portable.load(portable_dir)
    kept = {key: metadata[key] for key in portable.REQUIRED}
    kept["config"]["text"]["layers"] = 4
    portable.save(tmp_path, params, kept)
    with pytest.raises(
        portable.PortableError, match="against the model that its config describes: .*\n.*missing: text"
    ):
        load_trained(tmp_path)


def test_a_config_of_other_code_is_refused(untrained, portable_dir, tmp_path):
    _, _, params = untrained
    _, metadata = portable.load(portable_dir)
    kept = {key: metadata[key] for key in portable.REQUIRED}
    del kept["config"]["fusion"]
    portable.save(tmp_path, params, kept)
    with pytest.raises(ValueError, match="its config describes no model of this code .*fusion"):
        load_trained(tmp_path)
