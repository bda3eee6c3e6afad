"""Convolutions over time against PyTorch's definition of them, written out, and in pieces against at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmduplex_jax.codec.convolution import CausalConvolution, CausalUpsampling
from mmduplex_jax.weights.huggingface import mimi
from tests.tiny import jit

# Sums of some dozens of numbers of size 1 in float32, in another order.
TOLERANCE = 1e-5


def convolved(x: np.ndarray, weight: np.ndarray, stride: int, dilation: int) -> np.ndarray:
    """`torch.nn.Conv1d` of `[B, L, C]` with a weight `[F, C, taps]`, without padding, tap by tap."""
    taps, length = weight.shape[2], x.shape[1]
    places = range(0, length - (taps - 1) * dilation, stride)
    return np.stack(
        [sum(x[:, at + tap * dilation] @ weight[:, :, tap].T for tap in range(taps)) for at in places], axis=1
    )


def spread(x: np.ndarray, weight: np.ndarray, stride: int, groups: int) -> np.ndarray:
    """`torch.nn.ConvTranspose1d` of `[B, L, C]` with a weight `[C, F / groups, taps]`: every sample adds its kernel."""
    (batch, length), taps = x.shape[:2], weight.shape[2]
    out = np.zeros((batch, (length - 1) * stride + taps, weight.shape[1] * groups))
    for at in range(length):
        for tap in range(taps):
            given = x[:, at] * weight[:, 0, tap] if groups > 1 else x[:, at] @ weight[:, :, tap]
            out[:, at * stride + tap] += given
    return out


def in_pieces(layer, params, x, sizes, **first):
    """What a layer gives for pieces one after the other, each with the tail of the one before."""
    tail, out, at = None, [], 0
    for size in sizes:
        given = {name: jnp.full(len(x), at == 0) for name in first}
        given = given if tail is not None else {}
        y, tail = jit(layer.apply)(params, x[:, at : at + size], tail, **given)
        out.append(y)
        at += size
    return np.concatenate(out, axis=1)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 1, 1), (3, 1, 4), (8, 4, 1), (1, 1, 1), (6, 2, 1)])
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_a_convolution_is_pytorchs_after_what_came_before(kernel, stride, dilation, padding):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 24, 3)).astype(np.float32)
    weight, bias = rng.standard_normal((5, 3, kernel)), rng.standard_normal(5)
    layer = CausalConvolution(5, kernel, stride, dilation, padding=padding)
    (entry,) = [mimi._kernel("layer", "theirs")]
    params = {"params": {"kernel": entry.to_ours(weight).astype(np.float32), "bias": bias.astype(np.float32)}}
    before = np.repeat(x[:, :1], layer.tail, axis=1) * (padding == "replicate")
    wanted = convolved(np.concatenate([before, x], axis=1), weight, stride, dilation) + bias
    ours, tail = jit(layer.apply)(params, x)
    np.testing.assert_allclose(ours, wanted, atol=TOLERANCE)
    assert tail.shape == (2, layer.tail, 3)
    pieces = in_pieces(layer, params, x, [12, 12], first=True)
    np.testing.assert_allclose(pieces, ours, atol=TOLERANCE)


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize(("stride", "taps"), [(4, 2), (3, 3), (1, 2)])
def test_an_upsampling_is_a_transposed_convolution_without_its_end(by_channel, stride, taps):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 9, 4)).astype(np.float32)
    weight = rng.standard_normal((4, 1 if by_channel else 5, stride * taps))
    features = 4 if by_channel else 5
    entry = mimi._upsampling("layer", "theirs", stride, by_channel)
    np.testing.assert_array_equal(entry.to_theirs(entry.to_ours(weight)), weight)
    bias = rng.standard_normal(features).astype(np.float32)
    params = {"params": {"kernel": entry.to_ours(weight).astype(np.float32), "bias": bias}}
    layer = CausalUpsampling(features, stride, taps, by_channel)
    wanted = spread(x, weight, stride, groups=4 if by_channel else 1)[:, : 9 * stride] + bias
    ours, _ = jit(layer.apply)(params, x)
    np.testing.assert_allclose(ours, wanted, atol=TOLERANCE)
    np.testing.assert_allclose(in_pieces(layer, params, x, [3, 3, 3]), ours, atol=TOLERANCE)


def test_replicated_padding_is_of_the_rows_that_begin():
    layer = CausalConvolution(2, 4, 2, padding="replicate")
    x = jnp.arange(8.0).reshape(2, 4, 1)
    params = layer.init(jax.random.key(0), x)
    begun, tail = jit(layer.apply)(params, x)
    both, _ = jit(layer.apply)(params, x, tail, jnp.array([True, False]))
    on, _ = jit(layer.apply)(params, x, tail, jnp.array([False, False]))
    np.testing.assert_array_equal(both[0], begun[0])
    np.testing.assert_array_equal(both[1], on[1])
    assert not np.array_equal(on[0], begun[0])


@pytest.mark.parametrize(
    ("layer", "length", "said"),
    [
        (CausalConvolution(1, kernel=3, stride=2), 4, "kernel must be a multiple of the stride"),
        (CausalConvolution(1, kernel=4, stride=2, dilation=2), 4, "only those of stride 1 dilate"),
        (CausalConvolution(1, kernel=4, stride=2), 5, "5 samples are no multiple"),
        (CausalConvolution(1, padding="reflect"), 4, "one of zeros, replicate, not 'reflect'"),
        (CausalUpsampling(3, 2, by_channel=True), 4, "got 3"),
    ],
)
def test_what_does_not_fit_is_said(layer, length, said):
    with pytest.raises(ValueError, match=said):
        layer.init(jax.random.key(0), jnp.zeros((1, length, 1)))
