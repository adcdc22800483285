"""Feature maps whose memory runs over pixels, then images, then channels: what makes a CPU's bf16 units worth having.

An image of a search is a few pixels wide, and the processor's matrix units (AMX) multiply tiles of 16 rows: where a
row of the map has 4 or 8 pixels, as in channels-last memory, most of a tile is empty. With the images of a batch side
by side *inside* each pixel,

    (N, C, H, W), memory in the order H, W, N, C,

a convolution is one of three dimensions: over a volume of H × W × N voxels with a kernel of k × k × 1, whose rows are N
images long. Tiles are full, and taps that fall into the zero padding are not multiplied at all.

Tensors keep their shape (N, C, H, W) and their meaning; only strides change, and what these functions compute is right
for any strides.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnas_env.networks.grouping import dense_weight

DENSE_CHANNELS = 64
"""Grouped convolutions of up to so many channels are computed densely: a tile holds 32, whether they count or not."""


def is_faster(x: Tensor) -> bool:
    """Whether a network that is called with `x` now should take it pixel-major: on a CPU, under autocast to bf16."""
    if torch.compiler.is_compiling() or not x.is_cpu or not torch.is_autocast_enabled("cpu"):
        return False
    return torch.get_autocast_dtype("cpu") == torch.bfloat16


def lay_out(x: Tensor) -> Tensor:
    """`x` in pixel-major memory; itself where it is."""
    return x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)


def is_pixel_major(x: Tensor) -> bool:
    """Whether the images (N, C, H, W) lie inside the pixels; False where there is no telling, for N = 1."""
    return x.dim() == 4 and x.stride(0) < x.stride(3)


def rows(x: Tensor) -> Tensor:
    """(N, C, H, W) → (H, W, N, C): no copy, and contiguous if `x` is pixel-major."""
    return x.permute(2, 3, 0, 1)


def from_rows(x: Tensor) -> Tensor:
    """(H, W, N, C) → (N, C, H, W): undoes `rows`."""
    return x.permute(2, 3, 0, 1)


def volume(x: Tensor) -> Tensor:
    """(N, C, H, W) → (1, C, H, W, N): channels last if `x` is pixel-major."""
    # the first dimension's stride is what torch recognises the format by, although it has one element
    return rows(x).unsqueeze(0).permute(0, 4, 1, 2, 3)


def from_volume(x: Tensor) -> Tensor:
    """(1, C, H, W, N) → (N, C, H, W): undoes `volume`."""
    # by views whose gradients are views with all their strides; that of x[0] would be a copy
    return from_rows(x.permute(0, 2, 3, 4, 1).flatten(0, 1))


def volume_kernel(weight: Tensor) -> Tensor:
    """(out, in, k, k) → (out, in, k, k, 1), channels last.

    Not `weight[..., None]`: torch takes the strides of a grouped kernel whose last dimension has stride 1 for another
    format, and computes something else.
    """
    return weight.permute(0, 2, 3, 1).contiguous().unsqueeze(3).permute(0, 4, 1, 2, 3)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, stride: int, groups: int = 1) -> Tensor:
    """The convolution of pixel-major `x` with half its kernel as zero padding; pixel-major.

    Differentiable in `x`, `kernel` and `bias`.

    Args:
        x: (N, in, H, W).
        kernel: `volume_kernel` of the weight, k odd; of a dense one where that is wanted.
        bias: (out,), or None.
        stride: of both dimensions.
        groups: of the channels.

    Returns:
        (N, out, ⌈H / stride⌉, ⌈W / stride⌉).
    """
    half = kernel.shape[2] // 2
    return from_volume(
        nn.functional.conv3d(volume(x), kernel, bias, (stride, stride, 1), (half, half, 0), groups=groups)
    )


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A 1×1 convolution of pixel-major `x` as one matrix product; as `convolve`, without groups."""
    pixels = rows(x) if stride == 1 else rows(x)[::stride, ::stride]
    # one matrix, not a stack of them: torch would multiply one by one what is strided
    product = nn.functional.linear(pixels.flatten(0, 2), weight.flatten(1), bias)
    return from_rows(product.view(*pixels.shape[:3], -1))


def convolve_by(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`conv` of pixel-major `x`; pixel-major. As `convolve`, differentiable in the weights of `conv` too."""
    if conv.kernel_size == (1, 1):
        return pointwise(x, conv.weight, conv.bias, conv.stride[0])
    weight, groups = conv.weight, conv.groups
    if is_better_dense(conv):
        weight, groups = dense_weight(weight, groups), 1
    return convolve(x, volume_kernel(weight), conv.bias, conv.stride[0], groups)


def is_better_dense(conv: nn.Conv2d) -> bool:
    """Whether the grouped convolution `conv` is better computed as a dense one here."""
    return conv.groups > 1 and conv.in_channels <= DENSE_CHANNELS


def input_gradient(gradient: Tensor, kernel: Tensor, stride: int, size: tuple[int, int], groups: int) -> Tensor:
    """The gradient of `convolve`'s input, from its output's; both pixel-major.

    Args:
        gradient: (N, out, H', W').
        kernel: `volume_kernel` of the weight.
        stride, groups: of the convolution.
        size: (H, W) of its input.
    """
    height, width = size
    half = kernel.shape[2] // 2
    x = volume(from_rows(gradient.new_empty(height, width, len(gradient), kernel.shape[1] * groups)))  # for its shape
    strides, padding = [stride, stride, 1], [half, half, 0]
    (result, _, _) = torch.ops.aten.convolution_backward(
        volume(gradient), x, kernel, None, strides, padding, [1] * 3, False, [0] * 3, groups, [True, False, False]
    )
    return from_volume(result)
