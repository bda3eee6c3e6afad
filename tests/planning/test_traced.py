"""FLOPs read off a trace: by hand, by the published formula, without what is computed again, by module."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas
from jax.extend import core
from jax.sharding import PartitionSpec

from configs import bflow_events_75m, clip_s16, duplex_300m, vlm_single_token
from mmduplex_jax.layers.attention import attend
from mmduplex_jax.layers.encoder import Encoder
from mmduplex_jax.layers.transformer import StackConfig
from mmduplex_jax.layers.vocabulary import token_loss_of
from mmduplex_jax.models.language import LanguageConfig, LanguageModel
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.planning import cost
from mmduplex_jax.planning.traced import Flops, count_flops, peak_bytes
from mmduplex_jax.sharding import abstract_mesh, make_mesh
from mmduplex_jax.stages.clip.task import Pairs, chunked_loss, plain_loss
from mmduplex_jax.stages.config_file import load_config
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.optimizer import make_groups
from mmduplex_jax.train.step import abstract_params, make_program
from mmduplex_jax.weights.trained import load_tokenizer, load_trained
from tests import tiny
from tests.train import toy
from tests.without_a_gpu import trace_as_on_a_gpu


def array(*shape: int):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def flops_of(function, *shapes) -> Flops:
    return count_flops(jax.make_jaxpr(function)(*shapes))


def test_a_product_and_its_gradient():
    product = lambda x, w: (x @ w).sum()
    assert flops_of(product, array(3, 5), array(5, 7)).model == 2 * 3 * 5 * 7
    assert flops_of(jax.value_and_grad(product, argnums=(0, 1)), array(3, 5), array(5, 7)).model == 3 * 2 * 3 * 5 * 7
    assert flops_of(jax.vmap(jnp.dot), array(4, 3, 5), array(4, 5, 7)).model == 4 * 2 * 3 * 5 * 7


def test_a_scan_counts_by_its_length_a_while_loop_once_and_of_branches_the_dearest():
    step = lambda x, w: (jnp.tanh(x @ w), None)
    once = 2 * 3 * 5 * 5
    assert flops_of(lambda x, w: jax.lax.scan(step, x, w), array(3, 5), array(6, 5, 5)).model == 6 * once
    loop = lambda x, w: jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x @ w, x)
    assert flops_of(loop, array(3, 5), array(5, 5)).model == once
    branches = lambda on, x, w: jax.lax.cond(on, lambda x: x @ w, lambda x: x @ w @ w, x)
    assert flops_of(branches, jax.ShapeDtypeStruct((), bool), array(3, 5), array(5, 5)).model == 2 * once


def test_a_shard_map_counts_on_all_devices_that_split_its_rows():
    mesh = abstract_mesh(4, 2, 3)
    rows = PartitionSpec(("data", "fsdp"))
    split = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows)
    assert flops_of(split, array(16, 5), array(5, 7)).model == 2 * 16 * 5 * 7


def test_what_a_checkpoint_computes_again_is_not_the_model_s():
    layer = lambda x, w: jnp.tanh(x @ w)
    loss = lambda layer: lambda x, w: jax.lax.scan(lambda x, w: (layer(x, w), None), x, w)[0].sum()
    plain = flops_of(jax.grad(loss(layer), argnums=1), array(3, 5), array(6, 5, 5))
    again = flops_of(jax.grad(loss(jax.checkpoint(layer)), argnums=1), array(3, 5), array(6, 5, 5))
    assert plain.recomputed == 0
    assert plain.model == again.model == 3 * 6 * 2 * 3 * 5 * 5
    assert again.recomputed == 6 * 2 * 3 * 5 * 5


@pytest.mark.parametrize("layers", [1, 3])
def test_attention_in_cudnn_s_kernel_counts_as_its_products(layers, monkeypatch):
    """Without a GPU: the kernel is one equation, of which nothing but the trace is needed."""
    trace_as_on_a_gpu(monkeypatch)
    rows, length, count, heads, groups, width = 2, 6, 10, 4, 2, 16
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16)
        for shape in [(rows, length, heads, width), (rows, groups, count, width), (rows, groups, count, width)]
    ]
    mask = jax.ShapeDtypeStruct((rows, length, count), bool)

    def loss(block, *arrays):
        def deeper(query, _):
            return block(query, *arrays[1:]), None

        return jax.lax.scan(deeper, arrays[0], length=layers)[0].astype(jnp.float32).sum()

    def of(form, change=lambda loss: loss, block=lambda attended: attended):
        attended = lambda query, keys, values, mask: attend(query, keys, values, mask, fused=form == "fused")
        return flops_of(change(functools.partial(loss, block(attended))), *shapes, mask)

    product = layers * 2 * rows * heads * length * count * width
    assert of("fused") == of("fused")._replace(recomputed=0)
    assert of("fused").model == of("einsum").model == 2 * product
    gradient = lambda loss: jax.grad(loss, argnums=(0, 1, 2))
    assert of("fused", gradient).model == of("einsum", gradient).model == 6 * product
    # The kernel keeps no logits; with a checkpoint its forward pass, too, runs again.
    assert (of("fused", gradient).recomputed, of("einsum", gradient).recomputed) == (product, 0)
    again = of("fused", gradient, jax.checkpoint)
    assert (again.model, again.recomputed) == (6 * product, 3 * product)


@pytest.mark.parametrize("kernel", ["ffi_call", "pallas_call"])
def test_a_kernel_of_which_nothing_is_known_is_named(kernel):
    x = array(8, 8)
    calls = {
        "ffi_call": jax.ffi.ffi_call("somebody_s", x),
        "pallas_call": pallas.pallas_call(
            lambda x, y, out: out.__setitem__(..., x[...] @ y[...]), out_shape=x, grid=(3,)
        ),
    }
    layer = lambda x, y: calls[kernel](x, y) @ y
    with pytest.warns(UserWarning, match=f"products of {kernel} are not counted"):
        assert flops_of(jax.jit(layer), x, x).model >= 2 * 8**3


def test_modules_are_found_in_forward_and_backward_passes():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(7, use_bias=False, name="inside")(x)
            return x @ self.param("table", nn.initializers.ones, (7, 9))

    model = Model()
    params = jax.eval_shape(model.init, jax.random.key(0), array(3, 5))
    found = flops_of(jax.grad(lambda params, x: model.apply(params, x).sum()), params, array(3, 5))
    # No gradient goes to the input.
    assert found.by_module({"inside", "table"}) == {"loss": 3 * 2 * 3 * 7 * 9, "inside": 2 * 2 * 3 * 5 * 7}


def test_a_language_model_costs_six_times_parameters_times_tokens_and_its_attention():
    """Kaplan et al., 2020: 6 N D; attention adds 12 S for each layer, width and token, masked ones included."""
    rows, length, layers = 2, 16, 3
    stack = StackConfig(width=32, layers=layers, heads=4, kv_heads=4, head_width=8, hidden=64, window_steps=length)
    model = LanguageModel(LanguageConfig(dataclasses.replace(stack, num_sinks=0), 40, "own"))
    ids = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), ids))
    loss = lambda params, ids: (model.apply(params, ids) @ params["params"]["head"].T).sum()
    matrices = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    numbers = sum(leaf.size for leaf in matrices) - 40 * 32  # the embedding is looked up, not multiplied
    attention = 12 * layers * length * 32 * rows * length
    assert flops_of(jax.grad(loss), params, ids).model == 6 * numbers * rows * length + attention


@pytest.mark.parametrize("grad_accum", [1, 2])
def test_the_step_that_a_run_compiles_has_the_operations_of_its_gradient(grad_accum: int):
    config = toy.toy_config(train__grad_accum=grad_accum) if grad_accum > 1 else toy.toy_config()
    program = make_program(toy.ToyTask(), config, make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    frames = config.data.batch_size * toy.FRAMES[0]
    embed, layers, head = 48 * toy.WIDTH, 4 * toy.WIDTH * toy.HIDDEN, toy.WIDTH
    by_hand = 2 * frames * (2 * embed + 3 * (layers + head))  # no gradient goes to pictures
    assert count_flops(program.trace().jaxpr).model == by_hand


def gradient_flops(loss, *shapes) -> Flops:
    return flops_of(jax.value_and_grad(loss), *shapes)


def test_a_loss_in_chunks_computes_its_logits_again():
    hidden, table, ids = array(2, 32, 8), array(20, 8), jax.ShapeDtypeStruct((2, 32), jnp.int32)
    of_chunk = lambda chunk: lambda hidden, table, ids: token_loss_of(hidden, table, ids, chunk)[0].sum()
    logits = 2 * 2 * 32 * 8 * 20
    whole, chunks = (
        flops_of(jax.value_and_grad(of_chunk(chunk), argnums=(0, 1)), hidden, table, ids) for chunk in (0, 8)
    )
    assert whole.model == chunks.model == 3 * logits
    assert (whole.recomputed, chunks.recomputed) == (0, logits)


def test_remat_of_a_tower_repeats_less_than_its_forward_pass():
    x = array(2, 10, 16)

    def of(remat: bool) -> tuple[Flops, Flops]:
        tower = Encoder(3, 2, hidden=32, remat=remat)
        loss = lambda params, x: tower.apply(params, x).sum()
        params = nn.unbox(jax.eval_shape(tower.init, jax.random.key(0), x))
        return flops_of(loss, params, x), gradient_flops(loss, params, x)

    (forward, plain), (_, again) = of(False), of(True)
    assert plain.recomputed == 0
    assert plain.model == again.model
    # Each block's last product is needed by nothing that goes back.
    assert 0.5 * forward.model < again.recomputed < forward.model


def test_rows_that_devices_compare_in_a_ring_are_as_much_work_as_in_one_place():
    mesh = abstract_mesh(4, 1, 1)
    shapes = (array(8, 6), array(8, 6), jax.ShapeDtypeStruct((8,), bool), jax.ShapeDtypeStruct((8,), jnp.int32))

    def of(compare) -> Flops:
        loss = lambda image, text, valid, label: compare("softmax", Pairs(image, text, valid, label), 1.0, 0.0).loss
        return gradient_flops(loss, *shapes)

    here = of(plain_loss)
    there = of(lambda kind, pairs, scale, bias: chunked_loss(kind, pairs, jnp.float32(scale), jnp.float32(bias), mesh))
    # Of pictures' gradient alone: forward and once backward.
    assert here.model == there.model == 2 * 2 * 8 * 8 * 6
    assert 0 == here.recomputed < there.recomputed


def test_what_is_never_trained_has_no_backward_pass():
    config = load_config("configs/vlm_quickstart.py")
    config.data.batch_size, config.train.groups.vision.start_step = 8, -1
    task = build_task(config, load_tokenizer(config))
    params = nn.unbox(abstract_params(task))
    forward = flops_of(task.loss, params, task.example_batch(8), jax.random.key(0)).by_module(params)
    assert forward.keys() == {"vision", "projector", "text", "loss"}
    assert cost.flops_per_step(task, config).by_module(params) == {
        name: flops if name == "vision" else 3 * flops for name, flops in forward.items()
    }


def test_a_live_step_is_an_anchor_a_tick_and_a_text_step():
    config = tiny.dual_stream("interleave")
    task = DuplexTask(config, ticks=4, delay_min=1, delay_max=2, pad_weight=0.3, nested_dropout=0.0)
    found = cost.live_step_flops(task)
    assert found["anchor"] > 0 < found["tick"]
    matrices = [leaf for leaf in jax.tree.leaves(nn.unbox(abstract_params(task))["text"]) if leaf.ndim > 1]
    text, heads = config.text, config.text.heads * config.text.head_width
    state = jax.eval_shape(lambda params: LiveModel(config).init_state(params, 1), nn.unbox(abstract_params(task)))
    ring = state.fusion.step.shape[1]
    attention = text.layers * 2 * heads * (2 * ring + text.num_sinks)
    numbers = sum(leaf.size for leaf in matrices)
    assert found["text"] == 2 * (numbers + text.width * config.language.rows) + attention


def test_each_crop_that_is_spent_pays_for_its_tower():
    task = load_trained("real").task
    found = cost.live_step_flops(task)
    # EfficientNet-Lite0 at 224 px: 407 million products and sums (its authors' table), here at 96 px.
    assert found["crop"] == pytest.approx(2 * 407e6 * (96 / 224) ** 2, rel=0.05)
    # At most 32 tokens a second, of them 4 in 2.08 s of an anchor.
    by_crop = found["crop"] * (32 - 4 / 2.08)
    rest = found["anchor"] / 2.08 + found["tick"] * 6.25 + found["text"] * 12.5
    assert cost.stream_cost(task, load_trained("real").config).flops_per_s == pytest.approx(by_crop + rest)


def test_memory_is_of_what_is_alive_at_once():
    chain = lambda x: jnp.sin(jnp.cos(jnp.tan(x)))
    size = 4 * 1000
    assert peak_bytes(jax.make_jaxpr(chain)(array(1000))) == 2 * size  # what is read and what is written
    kept = lambda x: jnp.sin(x) + jnp.cos(x) + jnp.tan(x).sum()
    assert peak_bytes(jax.make_jaxpr(kept)(array(1000))) > 2 * size


# Few layers at full width: what a layer costs does not depend on how many there are.
_SHALLOW = {"layers": 2}
# What is left out of the count (norms, softmax, rotary turns), as a share of XLA's.
_LEFT_OUT = 0.02


def full_width(stage: str, fusion: str):
    """A full-size config with few layers, none scanned or computed again."""
    if stage == "duplex":
        c = duplex_300m.get_config()
        c.fusion = fusion
        c.text.update(_SHALLOW, cross_every=2, scan=False, remat=False)
        c.video_stream.update(_SHALLOW, scan=False, remat=False)
    elif stage == "bflow":
        c = bflow_events_75m.get_config()
    elif stage == "vlm":
        c = vlm_single_token.get_config()
        c.text.update(_SHALLOW, scan=False, remat=False)
        c.vision.update(_SHALLOW)
    else:
        c = clip_s16.get_config()
        c.vision.update(_SHALLOW, remat=False)
        c.text.update(_SHALLOW)
    if stage in ("duplex", "bflow"):
        c.tokenizer.event.update(_SHALLOW, remat=False)
        c.tokenizer.flow.update(_SHALLOW, remat=False)
        c.tokenizer.anchor.tower.update(_SHALLOW, remat=False)
    c.data.batch_size = 8
    return c


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3)])
def test_convolutions_of_xla_are_counted(stride, dilation):
    """Forward, and the gradients of input and kernel: each multiplies what the forward pass does, but for borders."""
    layer = nn.Conv(6, (3, 5), strides=(1, stride), kernel_dilation=(dilation, 1), use_bias=False)
    x = jnp.zeros((2, 16, 24, 4))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    forward = 2 * (2 * 16 * (24 // stride) * 6) * (3 * 5 * 4)
    run = lambda params, x: layer.apply(params, x).sum()
    assert count_flops(jax.make_jaxpr(run)(params, x)).model == forward
    both = count_flops(jax.make_jaxpr(jax.value_and_grad(run, argnums=(0, 1)))(params, x)).model
    assert both == pytest.approx(3 * forward, rel=0.05)


STAGES = [("duplex", "cross"), ("duplex", "sum"), ("duplex", "interleave"), ("bflow", ""), ("vlm", ""), ("clip", "")]


@pytest.mark.parametrize(("stage", "fusion"), STAGES)
@pytest.mark.slow
def test_xla_counts_as_much_at_full_width(stage: str, fusion: str):
    config = full_width(stage, fusion)
    task = build_task(config, load_tokenizer(config))
    boxed = abstract_params(task)
    program = cost.gradient(task, boxed, make_groups(config.train, boxed), 8)
    found = jax.jit(core.jaxpr_as_fun(program)).lower(*program.in_avals).cost_analysis()
    assert found is not None
    counted = count_flops(program)
    model = counted.model
    if stage in ("duplex", "bflow"):
        # Of the search for motion XLA counts one trip of its loop, and the one for the camera's shift.
        tries = (2 * config.tokenizer.motion.search_radius + 1) ** 2
        motion = sum(flops for scope, flops in counted.by_scope.items() if "...h" in scope)
        model -= motion * (tries - 1) / (tries + 1)
    assert model == pytest.approx(found["flops"], rel=_LEFT_OUT)
