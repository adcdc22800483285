"""The scales of a robust block's feature map, apart: dense tensors in place of slices of a few channels.

A slice of 4 of 32 channels is a slow operand: memory is read 8 bytes at a time, and convolutions copy it first.
Splitting copies once, joining once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rcnas_env.cost import ROBUST_SCALES
from rcnas_env.networks import pixel_major

QUAD = 4
"""bfloat16 numbers that are moved as one of 64 bits: scales have a multiple of 4 channels."""


def split_by_pixel(x: Tensor) -> Tensor:
    """(N, 8·w, H, W), pixel-major → (8, H, W, N, w), contiguous."""
    rows = _wide(_scales_last(x))
    return _narrow(_copied(rows.permute(3, 0, 1, 2, 4)), x.dtype)


def join_by_pixel(scales: Tensor) -> Tensor:
    """(8, H, W, N, w) → (N, 8·w, H, W), pixel-major: undoes `split_by_pixel`."""
    rows = _copied(_wide(scales).permute(1, 2, 3, 0, 4))
    return pixel_major.from_rows(_narrow(rows, scales.dtype).flatten(3))


def split_by_image(x: Tensor) -> Tensor:
    """(N, 8·w, H, W), pixel-major → (8, N, H·W·w), contiguous: an image's scale is a row."""
    rows = _wide(_scales_last(x))
    return _narrow(_copied(rows.permute(3, 2, 0, 1, 4)), x.dtype).flatten(2)


def join_by_image(scales: Tensor, height: int, width: int) -> Tensor:
    """(8, N, H·W·w) → (N, 8·w, H, W), pixel-major: undoes `split_by_image`."""
    maps = _wide(scales.view(*scales.shape[:2], height, width, -1))
    return pixel_major.from_rows(_narrow(_copied(maps.permute(2, 3, 1, 0, 4)), scales.dtype).flatten(3))


def split_apart(x: Tensor) -> tuple[Tensor, ...]:
    """The 8 scales (N, w, H, W) of pixel-major `x` (N, 8·w, H, W); differentiable."""
    return tuple(map(pixel_major.from_rows, _Split.apply(x).unbind()))


def join_together(scales: Sequence[Tensor]) -> Tensor:
    """The map (N, 8·w, H, W), pixel-major, of its scales; differentiable."""
    return _Join.apply(torch.stack([pixel_major.rows(scale) for scale in scales]))


class _Split(torch.autograd.Function):
    """`split_by_pixel`, with a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """See `split_by_pixel`."""
        return split_by_pixel(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient of the map."""
        return join_by_pixel(gradient.contiguous())


class _Join(torch.autograd.Function):
    """`join_by_pixel`, with a gradient."""

    @staticmethod
    def forward(ctx: Any, scales: Tensor) -> Tensor:
        """See `join_by_pixel`."""
        return join_by_pixel(scales)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient of the scales."""
        return split_by_pixel(pixel_major.lay_out(gradient))


def _scales_last(x: Tensor) -> Tensor:
    """(H, W, N, 8, w) of `x` (N, 8·w, H, W)."""
    return pixel_major.rows(x).unflatten(3, (ROBUST_SCALES, -1))


def _copied(x: Tensor) -> Tensor:
    """A contiguous copy, also of what is contiguous (one image, one pixel): callers write into it."""
    return x.clone(memory_format=torch.contiguous_format)


def _wide(x: Tensor) -> Tensor:
    return x.view(torch.int64) if x.dtype == torch.bfloat16 and x.shape[-1] % QUAD == 0 else x


def _narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.view(dtype)
