"""Convolutions as matrix products against torch's convolution: values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rcnas_env.networks import convolution
from rcnas_env.networks.convolution import Convolution, apply_pixel_matrix, pixel_matrix
from rcnas_env.networks.grouping import dense_weight
from tests import tiny


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=tiny.generator(seed)).requires_grad_()


def assert_same_with_gradients(ours: Tensor, reference: Tensor, inputs: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)
    along = draw(*reference.shape, seed=9).detach()
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, along), torch.autograd.grad(reference, inputs, along), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=60)
@given(
    groups=st.integers(1, 4),
    inside=st.integers(1, 3),
    out=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    stride=st.integers(1, 2),
    kernel=st.sampled_from([1, 3, 5]),
    has_bias=st.booleans(),
)
def test_pixel_matrix_is_the_convolution(
    groups: int, inside: int, out: int, height: int, width: int, stride: int, kernel: int, has_bias: bool
) -> None:
    images = draw(2, groups * inside, height, width, seed=1)
    weight = draw(groups * out, inside, kernel, kernel, seed=2)
    bias = draw(groups * out, seed=3) if has_bias else None
    ours = apply_pixel_matrix(images, pixel_matrix(weight, groups, stride, height, width), bias, stride)
    reference = nn.functional.conv2d(images, weight, bias, stride, kernel // 2, groups=groups)
    assert_same_with_gradients(ours, reference, (images, weight))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("channels", "out", "kernel", "stride", "groups", "size"),
    [
        (3, 5, 1, 1, 1, 6),  # one matrix product over pixels
        (3, 5, 1, 2, 1, 7),  # the same, strided
        (8, 8, 3, 1, 1, 2),  # few pixels: a dense matrix
        (4, 4, 3, 1, 4, 4),  # few channels: a dense matrix
        (16, 8, 3, 2, 4, 4),  # the same, strided, in groups
        (16, 16, 3, 1, 4, 9),  # groups computed densely
        (6, 4, 3, 1, 1, 12),  # torch's own
        (4, 8, 3, 2, 4, 12),  # torch's own: one channel a group
    ],
)
def test_every_way_is_the_convolution(
    channels: int, out: int, kernel: int, stride: int, groups: int, size: int, memory_format: torch.memory_format
) -> None:
    conv = Convolution(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False).double()
    conv.weight.data.copy_(draw(*conv.weight.shape, seed=4).detach())
    images = draw(3, channels, size, size, seed=5).detach().contiguous(memory_format=memory_format).requires_grad_()
    reference = nn.functional.conv2d(images, conv.weight, None, stride, kernel // 2, groups=groups)
    assert_same_with_gradients(conv(images), reference, (images, conv.weight))


def test_which_way_is_taken_depends_on_the_shapes() -> None:
    small, dense = convolution.is_small_map, convolution.is_better_dense
    assert small(Convolution(128, 128, 3, padding=1), 2, 2) and small(Convolution(128, 128, 3, 2, 1), 3, 3)
    assert small(Convolution(20, 20, 3, padding=1), 4, 4) and not small(Convolution(24, 24, 3, padding=1), 4, 4)
    assert not small(Convolution(4, 4, 3, padding=1), 8, 8)
    assert dense(Convolution(8, 8, 3, groups=4)) and dense(Convolution(24, 24, 3, groups=4))
    assert not dense(Convolution(4, 4, 3, groups=4)) and not dense(Convolution(28, 28, 3, groups=4))
    assert not dense(Convolution(8, 8, 3))


def test_dense_weight_is_block_diagonal() -> None:
    weight = torch.arange(8.0).view(4, 2, 1, 1)
    expected = [[0, 1, 0, 0], [2, 3, 0, 0], [0, 0, 4, 5], [0, 0, 6, 7]]
    assert dense_weight(weight, 2).flatten(1).tolist() == expected


def test_state_is_that_of_a_plain_convolution() -> None:
    assert list(Convolution(2, 4, 3).state_dict()) == list(nn.Conv2d(2, 4, 3).state_dict())


def test_a_call_in_inference_mode_leaves_nothing_that_cannot_be_trained_through() -> None:
    convolution._taps.cache_clear()
    weights = draw(2, 3, 3, 3, seed=1)
    with torch.inference_mode():
        pixel_matrix(weights.detach(), 1, 1, 2, 2)
    (gradient,) = torch.autograd.grad(pixel_matrix(weights, 1, 1, 2, 2).sum(), weights)
    assert gradient.shape == weights.shape
