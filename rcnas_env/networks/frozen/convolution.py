"""One convolution of a frozen network: prepared weights, a forward pass, the gradient of its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from rcnas_env.networks.convolution import dense_weight, is_better_dense, is_small_map, pixel_matrix
from rcnas_env.networks.folding import affine

Size = tuple[int, int]


class FrozenConvolution:
    """A convolution, folded with the batch norm and the ReLU that directly follow it, where they do.

        y = relu(s ⊙ (W ∗ x) + β − s μ),    s = γ / √(σ² + eps)

    Weights are prepared by `refresh` in the layout that their kernel wants, both ways. `forward` and `backward`
    work on channels-last tensors of the map size given at construction.

    Args:
        conv: zero-padded by half its kernel, without dilation.
        bn: the batch norm that follows it directly, or None.
        relu: whether a ReLU follows.
        size: (height, width) of the input map.
    """

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d | None, relu: bool, size: Size) -> None:
        self.conv, self.bn, self.relu, self.size = conv, bn, relu, size
        self.stride = conv.stride[0]
        self.out_size: Size = (-(-size[0] // self.stride), -(-size[1] // self.stride))
        kernel: Callable[[FrozenConvolution], _Kernel]
        if conv.kernel_size == (1, 1):
            kernel = _Pointwise
        elif is_small_map(conv, *size):
            kernel = _PixelMatrix
        else:
            kernel = _Direct
        self._kernel = kernel(self)

    def refresh(self, dtype: torch.dtype) -> None:
        """Prepare the present weights, as `dtype`."""
        weight, bias = self.conv.weight.detach(), self.conv.bias
        bias = None if bias is None else bias.detach()
        if self.bn is not None:
            scale, shift = affine(self.bn)
            weight = weight * scale[:, None, None, None]
            bias = shift if bias is None else shift + bias * scale
        self._kernel.prepare(weight.to(dtype), None if bias is None else bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Y of the class docstring: (N, in, H, W) → (N, out, H', W')."""
        return self._kernel.forward(x)

    def backward(self, gradient: Tensor, y: Tensor) -> Tensor:
        """∂L/∂x from ∂L/∂y, `y` being what `forward` returned. After a ReLU, `gradient` is overwritten."""
        if self.relu:
            mask_(gradient, y)
        return self._kernel.backward(gradient)


def mask_(gradient: Tensor, y: Tensor) -> Tensor:
    """Set `gradient` to 0 wherever `y`, a ReLU's output, is 0; return it."""
    return torch.ops.aten.threshold_backward.grad_input(gradient, y, 0, grad_input=gradient)


def rows(x: Tensor) -> Tensor:
    """(N, C, H, W), channels last, as (N·H·W, C); no copy where memory allows it."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class _Kernel(Protocol):
    """One way to compute a `FrozenConvolution`, batch norm folded in by the caller."""

    def prepare(self, weight: Tensor, bias: Tensor | None) -> None:
        """Lay out a folded weight (out, in / groups, k, k) and bias (out,) for both directions."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) → (N, out, H', W'), bias and ReLU included."""

    def backward(self, gradient: Tensor) -> Tensor:
        """The input's gradient from that of the output before the ReLU."""


class _Pointwise:
    """1×1: a matrix product over pixels."""

    def __init__(self, layer: FrozenConvolution) -> None:
        self.layer = layer

    def prepare(self, weight: Tensor, bias: Tensor | None) -> None:
        """See `_Kernel`."""
        self.weight, self.bias = weight.flatten(1), bias

    def forward(self, x: Tensor) -> Tensor:
        """See `_Kernel`."""
        stride, (height, width) = self.layer.stride, self.layer.out_size
        flat = rows(x if stride == 1 else x[:, :, ::stride, ::stride])
        y = nn.functional.linear(flat, self.weight, self.bias)
        if self.layer.relu:
            y.relu_()
        return y.view(len(x), height, width, -1).permute(0, 3, 1, 2)

    def backward(self, gradient: Tensor) -> Tensor:
        """See `_Kernel`."""
        flat = rows(gradient) @ self.weight
        small = flat.view(len(gradient), *self.layer.out_size, -1).permute(0, 3, 1, 2)
        if self.layer.stride == 1:
            return small
        shape = (len(gradient), *self.layer.size, small.shape[1])
        full = small.new_zeros(shape).permute(0, 3, 1, 2)
        full[:, :, :: self.layer.stride, :: self.layer.stride] = small
        return full


class _PixelMatrix:
    """A small map: one dense matrix, see `rcnas_env.networks.convolution`."""

    def __init__(self, layer: FrozenConvolution) -> None:
        self.layer = layer

    def prepare(self, weight: Tensor, bias: Tensor | None) -> None:
        """See `_Kernel`."""
        layer = self.layer
        self.matrix = pixel_matrix(weight, layer.conv.groups, layer.stride, *layer.size)
        height, width = layer.out_size
        self.bias = None if bias is None else bias.repeat(height * width)

    def forward(self, x: Tensor) -> Tensor:
        """See `_Kernel`."""
        flat = x.permute(0, 2, 3, 1).flatten(1)
        y = flat @ self.matrix if self.bias is None else torch.addmm(self.bias, flat, self.matrix)
        if self.layer.relu:
            y.relu_()
        return y.view(len(x), *self.layer.out_size, -1).permute(0, 3, 1, 2)

    def backward(self, gradient: Tensor) -> Tensor:
        """See `_Kernel`."""
        flat = gradient.permute(0, 2, 3, 1).flatten(1) @ self.matrix.T
        return flat.view(len(gradient), *self.layer.size, -1).permute(0, 3, 1, 2)


class _Direct:
    """Any other map: a convolution, with bias and ReLU in the same pass where torch has that; its input gradient is
    the convolution with the kernel turned round, unless strided.
    """

    def __init__(self, layer: FrozenConvolution) -> None:
        self.layer = layer
        conv = layer.conv
        self.groups = 1 if is_better_dense(conv) else conv.groups
        self.padding = conv.kernel_size[0] // 2

    def prepare(self, weight: Tensor, bias: Tensor | None) -> None:
        """See `_Kernel`."""
        if self.groups != self.layer.conv.groups:
            weight = dense_weight(weight, self.layer.conv.groups)
        self.weight, self.bias = weight.contiguous(memory_format=torch.channels_last), bias
        if self.layer.stride == 1:
            out, inside, *kernel = weight.shape
            grouped = weight.view(self.groups, out // self.groups, inside, *kernel).transpose(1, 2)
            turned = grouped.flip(3, 4).reshape(self.groups * inside, out // self.groups, *kernel)
            self.turned = turned.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """See `_Kernel`."""
        return _convolve(x, self.weight, self.bias, self.layer.stride, self.padding, self.groups, self.layer.relu)

    def backward(self, gradient: Tensor) -> Tensor:
        """See `_Kernel`."""
        if self.layer.stride == 1:
            return _convolve(gradient, self.turned, None, 1, self.padding, self.groups, False)
        shape = (len(gradient), self.weight.shape[1] * self.groups, *self.layer.size)
        stride, padding = [self.layer.stride] * 2, [self.padding] * 2
        x = gradient.new_empty(()).expand(shape)  # its shape alone matters
        (result, _, _) = torch.ops.aten.convolution_backward(
            gradient, x, self.weight, None, stride, padding, [1, 1], False, [0, 0], self.groups, [True, False, False]
        )
        return result


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int, relu: bool
) -> Tensor:
    y = torch.conv2d(x, weight, bias, stride, padding, 1, groups)
    return y.relu_() if relu else y
