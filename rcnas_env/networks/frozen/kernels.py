"""The ways to compute one convolution of a frozen network: weights laid out once, for both directions.

On channels-last tensors, which are what torch's kernels like best in float32, and on pixel-major ones
(`rcnas_env.networks.pixel_major`), which are what bf16 units want.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rcnas_env.networks import pixel_major
from rcnas_env.networks.convolution import is_better_dense, is_small_map, pixel_matrix
from rcnas_env.networks.frozen.elementwise import relu_
from rcnas_env.networks.grouping import dense_weight

Size = tuple[int, int]

Saved = Any
"""What a part's forward pass keeps for its backward pass."""


class Kernel(Protocol):
    """One way to compute a folded convolution."""

    def prepare(self, weight: Tensor, bias: Tensor | None) -> None:
        """Lay out a folded weight (out, in / groups, k, k) and bias (out,) for both directions."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, H', W'), bias and ReLU included."""

    def backward(self, gradient: Tensor) -> Tensor:
        """The input's gradient from that of the output before the ReLU."""


def choose_kernel(conv: nn.Conv2d, relu: bool, size: Size, pixels_first: bool) -> Kernel:
    """The way for `conv` on maps of `size`: by shapes alone, so that equal networks compute equally everywhere.

    Args:
        conv: zero-padded by half its kernel, without dilation.
        relu: whether a ReLU follows.
        size: (height, width) of the input map.
        pixels_first: whether tensors are pixel-major; channels-last otherwise.
    """
    if conv.kernel_size == (1, 1):
        return (PixelMajorPointwise if pixels_first else Pointwise)(conv, relu, size)
    if pixels_first:
        return Volume(conv, relu, size)
    return (PixelMatrix if is_small_map(conv, *size) else Direct)(conv, relu, size)


class _OfConvolution:
    """What every way knows of its convolution: the size of its output, and whether a ReLU follows."""

    def __init__(self, conv: nn.Conv2d, relu: bool, size: Size) -> None:
        self.conv, self.relu, self.size = conv, relu, size
        self.stride = conv.stride[0]
        self.out_size: Size = (-(-size[0] // self.stride), -(-size[1] // self.stride))

    def activate(self, y: Tensor) -> Tensor:
        """`y`, after the ReLU if there is one, in place."""
        return relu_(y) if self.relu else y


class Pointwise(_OfConvolution):
    """1×1, channels last: a matrix product over pixels."""

    def prepare(self, weight: Tensor, bias: Tensor | None) -> None:
        """See `Kernel`."""
        self.weight, self.bias = weight.flatten(1), bias

    def forward(self, x: Tensor) -> Tensor:
        """See `Kernel`."""
        height, width = self.out_size
        flat = _rows(x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride])
        y = self.activate(nn.functional.linear(flat, self.weight, self.bias))
        return y.view(len(x), height, width, -1).permute(0, 3, 1, 2)

    def backward(self, gradient: Tensor) -> Tensor:
        """See `Kernel`."""
        flat = _rows(gradient) @ self.weight
        small = flat.view(len(gradient), *self.out_size, -1).permute(0, 3, 1, 2)
        if self.stride == 1:
            return small
        shape = (len(gradient), *self.size, small.shape[1])
        full = small.new_zeros(shape).permute(0, 3, 1, 2)
        full[:, :, :: self.stride, :: self.stride] = small
        return full


class PixelMajorPointwise(_OfConvolution):
    """1×1, pixel-major: the same."""

    def prepare(self, weight: Tensor, bias: Tensor | None) -> None:
        """See `Kernel`."""
        self.weight, self.bias = weight, bias
        self.matrix = weight.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """See `Kernel`."""
        return self.activate(pixel_major.pointwise(x, self.weight, self.bias, self.stride))

    def backward(self, gradient: Tensor) -> Tensor:
        """See `Kernel`."""
        product = pixel_major.rows(gradient).flatten(0, 2) @ self.matrix
        small = product.view(*self.out_size, len(gradient), -1)
        if self.stride == 1:
            return pixel_major.from_rows(small)
        full = small.new_zeros(*self.size, *small.shape[2:])
        full[:: self.stride, :: self.stride] = small
        return pixel_major.from_rows(full)


class PixelMatrix(_OfConvolution):
    """A small map, channels last: one dense matrix, see `rcnas_env.networks.convolution`."""

    def prepare(self, weight: Tensor, bias: Tensor | None) -> None:
        """See `Kernel`."""
        self.matrix = pixel_matrix(weight, self.conv.groups, self.stride, *self.size)
        height, width = self.out_size
        self.bias = None if bias is None else bias.repeat(height * width)

    def forward(self, x: Tensor) -> Tensor:
        """See `Kernel`."""
        flat = x.permute(0, 2, 3, 1).flatten(1)
        y = flat @ self.matrix if self.bias is None else torch.addmm(self.bias, flat, self.matrix)
        return self.activate(y).view(len(x), *self.out_size, -1).permute(0, 3, 1, 2)

    def backward(self, gradient: Tensor) -> Tensor:
        """See `Kernel`."""
        flat = gradient.permute(0, 2, 3, 1).flatten(1) @ self.matrix.T
        return flat.view(len(gradient), *self.size, -1).permute(0, 3, 1, 2)


class Direct(_OfConvolution):
    """Any other map, channels last: torch's convolution; its input gradient is the convolution with the kernel turned
    round, unless strided.
    """

    def prepare(self, weight: Tensor, bias: Tensor | None) -> None:
        """See `Kernel`."""
        self.groups = 1 if is_better_dense(self.conv) else self.conv.groups
        self.padding = self.conv.kernel_size[0] // 2
        if self.groups != self.conv.groups:
            weight = dense_weight(weight, self.conv.groups)
        self.weight, self.bias = weight.contiguous(memory_format=torch.channels_last), bias
        if self.stride == 1:
            self.turned = turned_round(weight, self.groups).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """See `Kernel`."""
        return self.activate(torch.conv2d(x, self.weight, self.bias, self.stride, self.padding, 1, self.groups))

    def backward(self, gradient: Tensor) -> Tensor:
        """See `Kernel`."""
        if self.stride == 1:
            return torch.conv2d(gradient, self.turned, None, 1, self.padding, 1, self.groups)
        shape = (len(gradient), self.weight.shape[1] * self.groups, *self.size)
        stride, padding = [self.stride] * 2, [self.padding] * 2
        x = gradient.new_empty(()).expand(shape)  # its shape alone matters
        (result, _, _) = torch.ops.aten.convolution_backward(
            gradient, x, self.weight, None, stride, padding, [1, 1], False, [0, 0], self.groups, [True, False, False]
        )
        return result


class Volume(_OfConvolution):
    """Any map, pixel-major: a convolution over pixels and images; its input gradient as in `Direct`."""

    def prepare(self, weight: Tensor, bias: Tensor | None) -> None:
        """See `Kernel`."""
        self.groups = 1 if pixel_major.is_better_dense(self.conv) else self.conv.groups
        if self.groups != self.conv.groups:
            weight = dense_weight(weight, self.conv.groups)
        self.kernel, self.bias = pixel_major.volume_kernel(weight), bias
        if self.stride == 1:
            self.turned = pixel_major.volume_kernel(turned_round(weight, self.groups))

    def forward(self, x: Tensor) -> Tensor:
        """See `Kernel`."""
        return self.activate(pixel_major.convolve(x, self.kernel, self.bias, self.stride, self.groups))

    def backward(self, gradient: Tensor) -> Tensor:
        """See `Kernel`."""
        if self.stride == 1:
            return pixel_major.convolve(gradient, self.turned, None, 1, self.groups)
        return pixel_major.input_gradient(gradient, self.kernel, self.stride, self.size, self.groups)


def turned_round(weight: Tensor, groups: int) -> Tensor:
    """The weight (in, out / groups, k, k) of the convolution that is the input gradient of one with stride 1."""
    out, inside, *kernel = weight.shape
    grouped = weight.view(groups, out // groups, inside, *kernel).transpose(1, 2)
    return grouped.flip(3, 4).reshape(groups * inside, out // groups, *kernel)


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W), channels last, as (N·H·W, C); no copy where memory allows it."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
