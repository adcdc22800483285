"""The robust block of a frozen residual network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnas_env.cost import ROBUST_SCALES
from rcnas_env.networks.folding import affine
from rcnas_env.networks.frozen.blocks import FrozenActivation, FrozenPart
from rcnas_env.networks.frozen.convolution import FrozenConvolution
from rcnas_env.networks.frozen.hierarchy import (
    MatrixHierarchy,
    VolumeHierarchy,
    average_pool_backward,
    is_better_matrix,
)
from rcnas_env.networks.frozen.kernels import Saved, Size
from rcnas_env.networks.robust_block import HierarchicalConvolution, RobustBlock, SqueezeExcitation


class FrozenHierarchy:
    """A `HierarchicalConvolution` at rest, channels last."""

    def __init__(self, hierarchy: HierarchicalConvolution, size: Size) -> None:
        self.stride = hierarchy.stride
        self.convs = [
            FrozenConvolution(conv, bn, True, size, False)
            for conv, bn in zip(hierarchy.convs, hierarchy.bns, strict=True)
            if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)
        ]
        self.out_size = self.convs[0].out_size

    def refresh(self, dtype: torch.dtype) -> None:
        """See `FrozenPart`."""
        for conv in self.convs:
            conv.refresh(dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        """See `FrozenPart`."""
        *scales, last = x.chunk(ROBUST_SCALES, dim=1)
        outputs: list[Tensor] = []
        for scale, conv in zip(scales, self.convs, strict=True):
            if outputs and self.stride == 1:
                scale = scale + outputs[-1]
            outputs.append(conv.forward(scale))
        if self.stride > 1:
            last = F.avg_pool2d(last, 3, stride=self.stride, padding=1)
        return torch.cat([*outputs, last], dim=1), (outputs, x.shape)

    def backward(self, gradient: Tensor, saved: Saved) -> Tensor:
        """See `FrozenPart`."""
        outputs, shape = saved
        *scales, last = gradient.chunk(ROBUST_SCALES, dim=1)
        parts: list[Tensor] = []  # from the last scale to the first, as y_s goes on into x_{s+1}
        for scale, conv, y in zip(reversed(scales), reversed(self.convs), reversed(outputs), strict=True):
            if parts and self.stride == 1:
                scale = scale + parts[-1]
            parts.append(conv.backward(scale, y))
        if self.stride > 1:
            last = average_pool_backward(last, (*parts[0].shape[:2], *shape[2:]), self.stride)
        return torch.cat([*reversed(parts), last], dim=1)


class FrozenExcitation:
    """z + SE(bn(z)) at rest: z · (1 + share · scale) + share · shift, share as in `SqueezeExcitation`."""

    def __init__(self, bn: nn.BatchNorm2d, excitation: SqueezeExcitation) -> None:
        self.bn, self.excitation = bn, excitation

    def refresh(self, dtype: torch.dtype) -> None:
        """See `FrozenPart`."""
        self.scale, self.shift = (part.to(dtype) for part in affine(self.bn))
        self.squeeze = self.excitation.squeeze.weight.detach().to(dtype)
        self.excite = self.excitation.excite.weight.detach().to(dtype)

    def forward(self, z: Tensor, onto: Tensor) -> tuple[Tensor, Saved]:
        """(onto + z + SE(bn(z)), what `backward` needs)."""
        hidden = F.linear(z.mean(dim=(2, 3)) * self.scale + self.shift, self.squeeze).relu_()
        share = torch.sigmoid(F.linear(hidden, self.excite))
        factor = (share * self.scale).add_(1)
        y = torch.addcmul(onto, z, factor[:, :, None, None]).add_((share * self.shift)[:, :, None, None])
        return y, (z, hidden, share, factor)

    def backward(self, gradient: Tensor, saved: Saved) -> Tensor:
        """∂L/∂z from ∂L/∂y; that of `onto` is ∂L/∂y itself."""
        z, hidden, share, factor = saved
        along = (gradient * z).sum(dim=(2, 3)) * self.scale + gradient.sum(dim=(2, 3)) * self.shift  # ∂L/∂share
        excited = (along * share * (1 - share)) @ self.excite
        squeezed = torch.ops.aten.threshold_backward(excited, hidden, 0) @ self.squeeze
        through_mean = squeezed * self.scale / (z.shape[2] * z.shape[3])
        return torch.addcmul(through_mean[:, :, None, None], gradient, factor[:, :, None, None])


class FrozenRobustBlock:
    """A `RobustBlock` at rest."""

    def __init__(self, block: RobustBlock, size: Size, pixels_first: bool) -> None:
        self.activation = FrozenActivation(block.bn1, pixels_first)
        self.conv1 = FrozenConvolution(block.conv1, block.bn2, True, size, pixels_first)
        self.hierarchy = _frozen_hierarchy(block.hierarchy, size, pixels_first)
        self.out_size = self.hierarchy.out_size
        self.conv3 = FrozenConvolution(block.conv3, None, False, self.out_size, pixels_first)
        self.excitation = FrozenExcitation(block.bn3, block.excitation)
        self.shortcut = None
        if block.shortcut is not None:
            self.shortcut = FrozenConvolution(block.shortcut, None, False, size, pixels_first)

    def refresh(self, dtype: torch.dtype) -> None:
        """See `FrozenPart`."""
        parts = (self.activation, self.conv1, self.hierarchy, self.conv3, self.excitation, self.shortcut)
        for part in parts:
            if part is not None:
                part.refresh(dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        """See `FrozenPart`."""
        activated = self.activation.forward(x)
        shortcut = x if self.shortcut is None else self.shortcut.forward(activated)
        inner = self.conv1.forward(activated)
        mixed, hierarchy = self.hierarchy.forward(inner)
        y, excitation = self.excitation.forward(self.conv3.forward(mixed), shortcut)
        return y, (activated, inner, hierarchy, excitation)

    def backward(self, gradient: Tensor, saved: Saved) -> Tensor:
        """See `FrozenPart`."""
        activated, inner, hierarchy, excitation = saved
        mixed = self.conv3.backward(self.excitation.backward(gradient, excitation), gradient)
        through = self.conv1.backward(self.hierarchy.backward(mixed, hierarchy), inner)
        if self.shortcut is None:
            return self.activation.backward(through, activated, onto=gradient)
        through += self.shortcut.backward(gradient, gradient)
        return self.activation.backward(through, activated)


def _frozen_hierarchy(hierarchy: HierarchicalConvolution, size: Size, pixels_first: bool) -> FrozenPart:
    if not pixels_first:
        return FrozenHierarchy(hierarchy, size)
    return (MatrixHierarchy if is_better_matrix(hierarchy, size) else VolumeHierarchy)(hierarchy, size)
