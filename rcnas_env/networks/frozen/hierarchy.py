"""A robust block's hierarchy at rest, on pixel-major maps: scale by scale, each a dense tensor.

A student's scales have 4 to 16 channels of 4 to 64 pixels: calling a convolution costs more than computing it. Where
one dense matrix (`rcnas_env.networks.convolution`) is small enough, a scale is a product of matrices; in float32 where
it is tiny, since calls into torch's float32 products are the cheaper ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnas_env.cost import ROBUST_SCALES
from rcnas_env.networks import pixel_major, scales
from rcnas_env.networks.convolution import pixel_matrices
from rcnas_env.networks.folding import affine
from rcnas_env.networks.frozen.elementwise import mask_, relu_
from rcnas_env.networks.frozen.kernels import Saved, Size, Volume
from rcnas_env.networks.grouping import dense_weight
from rcnas_env.networks.robust_block import HierarchicalConvolution

LARGEST_MATRIX = 2**17
"""Entries of a scale's matrix up to which it is the faster way."""

LARGEST_IN_FLOAT32 = 2**14
"""Entries up to which a product in float32 is faster than in bfloat16, whose every call takes 25 microseconds."""


def is_better_matrix(hierarchy: HierarchicalConvolution, size: Size) -> bool:
    """Whether scales on maps of `size` are better matrix products."""
    return _matrix_entries(hierarchy, size) <= LARGEST_MATRIX


def _matrix_entries(hierarchy: HierarchicalConvolution, size: Size) -> int:
    stride, width = hierarchy.stride, hierarchy.width
    outputs = -(-size[0] // stride) * -(-size[1] // stride)
    return size[0] * size[1] * width * outputs * width


class _Hierarchy:
    """Size and folded weights, for both ways."""

    def __init__(self, hierarchy: HierarchicalConvolution, size: Size) -> None:
        self.hierarchy, self.size = hierarchy, size
        self.stride, self.width = hierarchy.stride, hierarchy.width
        self.out_size: Size = (-(-size[0] // self.stride), -(-size[1] // self.stride))
        pairs = zip(hierarchy.convs, hierarchy.bns, strict=True)
        self.pairs = [(c, b) for c, b in pairs if isinstance(c, nn.Conv2d) and isinstance(b, nn.BatchNorm2d)]

    def folded(self) -> tuple[Tensor, Tensor]:
        """Dense weights (7, w, w, 3, 3) and biases (7, w) of the scales, batch norms folded in; float32."""
        folds = [affine(bn) for _, bn in self.pairs]
        weights = torch.stack([conv.weight.detach() for conv, _ in self.pairs])
        factors = torch.stack([scale for scale, _ in folds])
        groups = self.pairs[0][0].groups
        folded = (weights * factors[:, :, None, None, None]).unbind()
        return torch.stack([dense_weight(weight, groups) for weight in folded]), torch.stack([s for _, s in folds])


class MatrixHierarchy(_Hierarchy):
    """Small maps: each scale a matrix product over its images. The average pool of the last is one too."""

    def refresh(self, dtype: torch.dtype) -> None:
        """See `FrozenPart`."""
        self.dtype = dtype
        tiny = dtype == torch.bfloat16 and _matrix_entries(self.hierarchy, self.size) <= LARGEST_IN_FLOAT32
        self.inside = torch.float32 if tiny else dtype
        weights, biases = (part.to(self.inside) for part in self.folded())
        if self.stride > 1:  # all scales at once: none waits for another
            pool = torch.eye(self.width, dtype=self.inside, device=weights.device) / 9
            weights = torch.cat([weights, pool[None, :, :, None, None].expand(1, -1, -1, 3, 3)])
            biases = torch.cat([biases, biases.new_zeros(1, self.width)])
        self.matrices = pixel_matrices(weights, self.stride, *self.size)
        height, width = self.out_size
        self.biases = biases.repeat(1, height * width)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        """See `FrozenPart`."""
        maps = scales.split_by_image(x).to(self.inside)
        if self.stride > 1:
            out = torch.baddbmm(self.biases[:, None], maps, self.matrices)
            relu_(out[:-1])
        else:
            out = torch.empty_like(maps)
            for s in range(ROBUST_SCALES - 1):
                scale = maps[s] if s == 0 else maps[s].add_(out[s - 1])
                relu_(torch.addmm(self.biases[s], scale, self.matrices[s], out=out[s]))
            out[-1] = maps[-1]
        return scales.join_by_image(out.to(self.dtype), *self.out_size), out

    def backward(self, gradient: Tensor, saved: Saved) -> Tensor:
        """See `FrozenPart`."""
        out = saved
        parts = scales.split_by_image(gradient).to(self.inside)
        if self.stride > 1:
            mask_(parts[:-1], out[:-1])
            parts = torch.bmm(parts, self.matrices.transpose(1, 2))
        else:
            onward = torch.empty_like(parts)
            for s in reversed(range(ROBUST_SCALES - 1)):
                part = parts[s] if s == ROBUST_SCALES - 2 else parts[s].add_(onward[s + 1])
                torch.mm(mask_(part, out[s]), self.matrices[s].T, out=onward[s])
            onward[-1] = parts[-1]
            parts = onward
        return scales.join_by_image(parts.to(self.dtype), *self.size)


class VolumeHierarchy(_Hierarchy):
    """Larger maps: each scale a convolution over pixels and images."""

    def __init__(self, hierarchy: HierarchicalConvolution, size: Size) -> None:
        super().__init__(hierarchy, size)
        self.kernels = [Volume(conv, True, size) for conv, _ in self.pairs]

    def refresh(self, dtype: torch.dtype) -> None:
        """See `FrozenPart`."""
        for kernel, (conv, bn) in zip(self.kernels, self.pairs, strict=True):
            scale, shift = affine(bn)
            kernel.prepare((conv.weight.detach() * scale[:, None, None, None]).to(dtype), shift.to(dtype))

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        """See `FrozenPart`."""
        *maps, last = map(pixel_major.from_rows, scales.split_by_pixel(x).unbind())
        outputs: list[Tensor] = []
        for scale, kernel in zip(maps, self.kernels, strict=True):
            if outputs and self.stride == 1:
                scale += outputs[-1]
            outputs.append(kernel.forward(scale))
        if self.stride > 1:
            last = F.avg_pool2d(last.contiguous(memory_format=torch.channels_last), 3, self.stride, 1)
        return _joined([*outputs, last]), outputs

    def backward(self, gradient: Tensor, saved: Saved) -> Tensor:
        """See `FrozenPart`."""
        outputs = saved
        *parts, last = map(pixel_major.from_rows, scales.split_by_pixel(gradient).unbind())
        for s in reversed(range(len(parts))):
            if s < len(parts) - 1 and self.stride == 1:
                parts[s] += parts[s + 1]  # by now the gradient of x_{s+1}, into which y_s went
            parts[s] = self.kernels[s].backward(mask_(parts[s], outputs[s]))
        if self.stride > 1:
            last = average_pool_backward(last, (len(last), self.width, *self.size), self.stride)
        return _joined([*parts, last])


def _joined(maps: list[Tensor]) -> Tensor:
    return scales.join_by_pixel(torch.stack([pixel_major.rows(part) for part in maps]))


def average_pool_backward(gradient: Tensor, shape: tuple[int, ...], stride: int) -> Tensor:
    """∂L/∂x of avg_pool2d(x, 3, stride, padding=1), x of `shape`, from ∂L/∂y; channels last."""
    x = gradient.new_empty(shape).contiguous(memory_format=torch.channels_last)
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    return torch.ops.aten.avg_pool2d_backward(gradient, x, [3, 3], [stride] * 2, [1, 1], False, True, None)
