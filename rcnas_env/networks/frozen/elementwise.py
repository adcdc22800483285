"""ReLU and its gradient, in place; what is per channel, over long rows.

Elementwise operations are a third of a frozen pass. In bfloat16 torch converts every element to float32 and back; for
these two nothing has to be converted, since the bits of a bfloat16, read as an integer, have its sign and its order
against 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnas_env.networks import pixel_major


def relu_(x: Tensor) -> Tensor:
    """max(x, 0) in place. In bfloat16 a NaN of negative sign becomes 0."""
    if x.dtype != torch.bfloat16:
        return x.relu_()
    x.view(torch.int16).clamp_min_(0)
    return x


def mask_(gradient: Tensor, y: Tensor) -> Tensor:
    """Set `gradient` to 0 wherever `y`, a ReLU's output, is 0; return it."""
    into, output = gradient, y
    if gradient.dtype == torch.bfloat16:
        into, output = gradient.view(torch.int16), y.view(torch.int16)
    torch.ops.aten.threshold_backward.grad_input(into, output, 0, grad_input=into)
    return gradient


class PerChannel:
    """A value a channel, to be combined with feature maps in rows of many pixels: short ones cost more than the sums.

    Args:
        values: (C,).
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._tiled = values

    def along(self, row: int) -> Tensor:
        """The values again and again, (row,); `row` is a multiple of C."""
        if len(self._tiled) != row:
            self._tiled = self.values.repeat(row // len(self.values))
        return self._tiled


def long_rows(x: Tensor, pixels_first: bool) -> Tensor:
    """(N, C, H, W) as a matrix: (H·W, N·C) if `pixels_first`, else (N, H·W·C).

    It shares the memory of an `x` that lies pixel-major, or channels-last, respectively; it is a copy of any other.
    """
    if pixels_first:
        return pixel_major.rows(x).flatten(2).flatten(0, 1)
    return x.permute(0, 2, 3, 1).flatten(1)


def from_long_rows(matrix: Tensor, shape: torch.Size, pixels_first: bool) -> Tensor:
    """Undo `long_rows` of a map of `shape`."""
    count, channels, height, width = shape
    if pixels_first:
        return pixel_major.from_rows(matrix.view(height, width, count, channels))
    return matrix.view(count, height, width, channels).permute(0, 3, 1, 2)
