"""The operations on a cell's edges, and those that fit its inputs to it (Liu et al. 2019; Guo et al. 2020).

Each convolution comes in the order ReLU, convolution, batch norm, without bias. Shapes: (N, C, H, W) →
(N, C, ⌈H / stride⌉, ⌈W / stride⌉) for any H, W ≥ 1, unless said otherwise. No operation changes its input.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnas_env.cell_architecture import OPERATIONS
from rcnas_env.networks.convolution import Convolution
from rcnas_env.validation import require_choice

Pairs = Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]
"""Convolutions with the batch norm that directly follows; see `rcnas_env.networks.folding`."""


class PointwiseConvolution(nn.Module):
    """bn(conv(relu(x))), 1×1: (N, in_channels, H, W) → (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, affine: bool) -> None:
        super().__init__()
        self.conv = Convolution(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved `x`."""
        return self.bn(self.conv(F.relu(x)))

    def folded_pairs(self) -> Pairs:
        """Its one pair."""
        yield self.conv, self.bn


class FactorizedReduction(nn.Module):
    """Half the resolution by two strided 1×1 convolutions, of the even pixels and of the odd ones, half the output
    channels each: bn([conv_even(relu(x)), conv_odd(relu(x) moved by one pixel up and to the left)]).

    Pixels moved in from outside are 0, which matters for an odd H or W only; the published code fails there.

    Shapes: (N, in_channels, H, W) → (N, out_channels, ⌈H / 2⌉, ⌈W / 2⌉), for an even number of out_channels.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool) -> None:
        super().__init__()
        self.conv_even = Convolution(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.conv_odd = Convolution(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return the halved `x`."""
        activated = F.relu(x)
        moved = F.pad(activated, (-1, 1, -1, 1))
        return self.bn(torch.cat([self.conv_even(activated), self.conv_odd(moved)], dim=1))


class DilatedConvolution(nn.Module):
    """bn(pointwise(depthwise(relu(x)))), a k×k depthwise convolution of dilation 2, with stride, and a 1×1 one."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            channels, channels, kernel, stride, padding=kernel - 1, dilation=2, groups=channels, bias=False
        )
        self.pointwise = Convolution(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved `x`."""
        return self.bn(self.pointwise(self.depthwise(F.relu(x))))

    def folded_pairs(self) -> Pairs:
        """The 1×1 convolution's; no batch norm follows the depthwise one."""
        yield self.pointwise, self.bn


class SeparableConvolution(nn.Module):
    """Twice in a row bn(pointwise(depthwise(relu(x)))), k×k and 1×1; the first depthwise one carries the stride."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__()
        padding = kernel // 2
        self.depthwise1 = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels, bias=False)
        self.pointwise1 = Convolution(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, affine=affine)
        self.depthwise2 = nn.Conv2d(channels, channels, kernel, 1, padding, groups=channels, bias=False)
        self.pointwise2 = Convolution(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved `x`."""
        out = self.bn1(self.pointwise1(self.depthwise1(F.relu(x))))
        return self.bn2(self.pointwise2(self.depthwise2(F.relu(out))))

    def folded_pairs(self) -> Pairs:
        """Those of both 1×1 convolutions."""
        yield self.pointwise1, self.bn1
        yield self.pointwise2, self.bn2


class ResidualSeparableConvolution(nn.Module):
    """RobNet's x + separable(x); with stride 2, the shortcut is a factorised reduction of x."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.separable = SeparableConvolution(channels, kernel, stride, affine)
        self.shortcut = _skip(channels, stride, affine)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return self.separable(x) + self.shortcut(x)


class Zero(nn.Module):
    """No edge: zeros in the shape of an operation's output."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the zeros; no gradient goes back to `x`."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduction(channels, channels, affine)


def make_operation(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    """The module of one edge.

    Args:
        name: one of `OPERATIONS`.
        channels: C, in and out; even where the stride is 2.
        stride: 1 or 2.
        affine: whether batch norms learn a scale and a shift.

    Raises:
        ValueError: `name` is none of `OPERATIONS`.
    """
    require_choice("operation", name, OPERATIONS)
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return _skip(channels, stride, affine)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, padding=1)
    kind, kernel = name.rsplit("_", 1)
    convolution = {
        "sep_conv": SeparableConvolution,
        "dil_conv": DilatedConvolution,
        "res_sep_conv": ResidualSeparableConvolution,
    }[kind]
    return convolution(channels, int(kernel[0]), stride, affine)
