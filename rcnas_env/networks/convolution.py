"""Convolutions that a CPU computes as matrix products wherever that is faster: the same map to rounding.

The feature maps of small images are so small that a convolution's zero padding is most of what it multiplies: on a
2×2 map a 3×3 kernel has 36 taps, of which 16 meet a pixel. There the convolution is one dense matrix,

    y = x M,   x (N, H·W·in), M (H·W·in, H'·W'·out),   M[(p, i), (q, o)] = W[o, i, k] where tap k of q falls on p,

and a 1×1 convolution is one wherever it stands. `benchmarks.training` has what this saves.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from rcnas_env.networks import pixel_major
from rcnas_env.networks.grouping import dense_weight

FREE_TAPS = 10
"""Input pixels up to which a dense matrix is the faster way at any width: it has about as many entries as taps."""

CALL_OVERHEAD = 40_000
"""What calling a convolution costs, in multiply-accumulates an image: measured for batches of 128 with AVX2."""

DENSE_CHANNELS = 24
"""Grouped convolutions of several channels a group are computed densely up to so many channels: tiny groups cost a
CPU more than the zeros between them do."""


class Convolution(nn.Conv2d):
    """nn.Conv2d, zero-padded and without dilation; on a CPU, a matrix product where that is the faster way.

    What `torch.compile` traces is nn.Conv2d itself.

    Shapes: (N, in_channels, H, W) → (N, out_channels, H', W'), as nn.Conv2d's. Pixel-major maps
    (`rcnas_env.networks.pixel_major`) stay so. Else matrix products put out the channels-last format, whatever came in.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of `input`, by the faster way."""
        if not input.is_cpu or torch.compiler.is_compiling():  # a compiler has kernels of its own
            return super().forward(input)
        if pixel_major.is_pixel_major(input):
            return pixel_major.convolve_by(self, input)
        if self.kernel_size == (1, 1):
            return pointwise(input, self.weight, self.bias, self.stride[0])
        if is_small_map(self, *input.shape[2:]):
            matrix = pixel_matrix(self.weight, self.groups, self.stride[0], *input.shape[2:])
            return apply_pixel_matrix(input, matrix, self.bias, self.stride[0])
        if is_better_dense(self):
            weight = dense_weight(self.weight, self.groups)
            return nn.functional.conv2d(input, weight, self.bias, self.stride, self.padding)
        return super().forward(input)


def is_small_map(conv: nn.Conv2d, height: int, width: int) -> bool:
    """Whether `conv` is better a dense matrix on a map of height × width pixels.

    By shapes alone, so that equal networks compute equally on every machine.
    """
    pixels = height * width
    outputs = -(-height // conv.stride[0]) * -(-width // conv.stride[0])
    return outputs * conv.in_channels * conv.out_channels * (pixels - FREE_TAPS) <= CALL_OVERHEAD


def is_better_dense(conv: nn.Conv2d) -> bool:
    """Whether the grouped convolution `conv` is better computed as a dense one."""
    return conv.groups > 1 and conv.in_channels > conv.groups and conv.in_channels <= DENSE_CHANNELS


def pointwise(images: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A 1×1 convolution as one matrix product over all pixels.

    Shapes: images (N, in, H, W), weight (out, in, 1, 1) → (N, out, ⌈H / stride⌉, ⌈W / stride⌉).
    """
    rows = images.permute(0, 2, 3, 1)[:, ::stride, ::stride]
    return nn.functional.linear(rows, weight.flatten(1), bias).permute(0, 3, 1, 2)


def pixel_matrix(weight: Tensor, groups: int, stride: int, height: int, width: int) -> Tensor:
    """The dense matrix M of a convolution with half its kernel as zero padding, for maps of height × width pixels.

    Differentiable in `weight`, by matrix products both ways.

    Args:
        weight: (out, in / groups, k, k), k odd.
        groups: of the convolution; zeros fill the matrix between them.
        stride: of the convolution.
        height, width: of the map that it is applied to.

    Returns:
        (height · width · in, height' · width' · out); pixels row by row, channels fastest.
    """
    out, inside, kernel, _ = weight.shape
    taps = _taps(height, width, kernel, stride, weight.dtype, weight.device)
    pixels, outputs = taps.shape[:2]
    blocks = weight.view(groups, out // groups, inside, -1).permute(3, 0, 2, 1)  # (k², groups, in / g, out / g)
    entries = taps.flatten(0, 1) @ blocks.flatten(1)
    entries = entries.view(pixels, outputs, groups, inside, out // groups).permute(0, 2, 3, 1, 4)
    if groups == 1:
        return entries.reshape(pixels * inside, outputs * out)
    diagonal = entries.new_zeros(pixels, groups, inside, outputs, groups, out // groups)
    diagonal.diagonal(dim1=1, dim2=4).copy_(entries.permute(0, 2, 3, 4, 1))
    return diagonal.view(pixels * groups * inside, outputs * out)


def pixel_matrices(weights: Tensor, stride: int, height: int, width: int) -> Tensor:
    """`pixel_matrix` of S dense convolutions of one shape at once.

    Args:
        weights: (S, out, in, k, k), k odd.
        stride, height, width: see `pixel_matrix`.

    Returns:
        (S, height · width · in, height' · width' · out), contiguous.
    """
    count, out, inside, kernel, _ = weights.shape
    taps = _taps(height, width, kernel, stride, weights.dtype, weights.device)
    pixels, outputs = taps.shape[:2]
    entries = taps.flatten(0, 1) @ weights.flatten(3).permute(3, 0, 2, 1).flatten(1)
    entries = entries.view(pixels, outputs, count, inside, out).permute(2, 0, 3, 1, 4)
    return entries.reshape(count, pixels * inside, outputs * out)


def apply_pixel_matrix(images: Tensor, matrix: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """X M + bias of each image; `matrix` by `pixel_matrix`, `bias` (out,) or None. Channels last."""
    height, width = (-(-size // stride) for size in images.shape[2:])
    flat = images.permute(0, 2, 3, 1).flatten(1)
    product = flat @ matrix if bias is None else torch.addmm(bias.repeat(height * width), flat, matrix)
    return product.view(len(images), height, width, -1).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # a tensor made in a caller's inference mode could never be trained through
def _taps(height: int, width: int, kernel: int, stride: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """taps[p, q, k] = 1 where tap k of output pixel q falls on input pixel p, else 0: (H·W, H'·W', kernel²)."""

    def line(size: int) -> Tensor:
        """The same along one axis: bool (size, ⌈size / stride⌉, kernel)."""
        places = torch.arange(0, size, stride)[:, None] + torch.arange(kernel) - kernel // 2
        return torch.arange(size)[:, None, None] == places

    rows, columns = line(height), line(width)
    taps = rows[:, None, :, None, :, None] & columns[None, :, None, :, None, :]
    shape = (height * width, rows.shape[1] * columns.shape[1], kernel * kernel)
    return taps.reshape(shape).to(device=device, dtype=dtype)
