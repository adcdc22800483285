"""The blocks of a frozen residual network: each a forward pass that says what its backward pass needs."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from rcnas_env.networks.basic_block import BasicBlock
from rcnas_env.networks.folding import affine
from rcnas_env.networks.frozen.convolution import FrozenConvolution
from rcnas_env.networks.frozen.elementwise import PerChannel, from_long_rows, long_rows, mask_, relu_
from rcnas_env.networks.frozen.kernels import Saved, Size


class FrozenPart(Protocol):
    """A part of a frozen network, for input maps of one size."""

    out_size: Size

    def refresh(self, dtype: torch.dtype) -> None:
        """Prepare the present weights, as `dtype`."""

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        """(output, what `backward` needs)."""

    def backward(self, gradient: Tensor, saved: Saved) -> Tensor:
        """The gradient of the input from that of the output."""


class FrozenActivation:
    """relu(bn(x)) where the batch norm follows no convolution directly."""

    def __init__(self, bn: nn.BatchNorm2d, pixels_first: bool) -> None:
        self.bn, self.pixels_first = bn, pixels_first

    def refresh(self, dtype: torch.dtype) -> None:
        """Prepare scale and shift, as `dtype`."""
        self.scale, self.shift = (PerChannel(part.to(dtype)) for part in affine(self.bn))

    def forward(self, x: Tensor) -> Tensor:
        """relu(scale · x + shift), of x's shape."""
        flat = long_rows(x, self.pixels_first)
        row = flat.shape[1]
        y = relu_(torch.addcmul(self.shift.along(row), flat, self.scale.along(row)))
        return from_long_rows(y, x.shape, self.pixels_first)

    def backward(self, gradient: Tensor, y: Tensor, onto: Tensor | None = None) -> Tensor:
        """∂L/∂x from ∂L/∂y, which is overwritten, plus `onto` if given; `y` is what `forward` returned."""
        flat = long_rows(mask_(gradient, y), self.pixels_first)
        scale = self.scale.along(flat.shape[1])
        onward = flat.mul_(scale) if onto is None else torch.addcmul(long_rows(onto, self.pixels_first), flat, scale)
        return from_long_rows(onward, gradient.shape, self.pixels_first)


class FrozenBasicBlock:
    """A `BasicBlock` at rest."""

    def __init__(self, block: BasicBlock, size: Size, pixels_first: bool) -> None:
        self.activation = FrozenActivation(block.bn1, pixels_first)
        self.conv1 = FrozenConvolution(block.conv1, block.bn2, True, size, pixels_first)
        self.out_size = self.conv1.out_size
        self.conv2 = FrozenConvolution(block.conv2, None, False, self.out_size, pixels_first)
        self.shortcut = None
        if block.shortcut is not None:
            self.shortcut = FrozenConvolution(block.shortcut, None, False, size, pixels_first)

    def refresh(self, dtype: torch.dtype) -> None:
        """See `FrozenPart`."""
        for part in (self.activation, self.conv1, self.conv2, self.shortcut):
            if part is not None:
                part.refresh(dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        """See `FrozenPart`."""
        activated = self.activation.forward(x)
        hidden = self.conv1.forward(activated)
        y = self.conv2.forward(hidden)
        y += x if self.shortcut is None else self.shortcut.forward(activated)
        return y, (activated, hidden)

    def backward(self, gradient: Tensor, saved: Saved) -> Tensor:
        """See `FrozenPart`."""
        activated, hidden = saved
        inner = self.conv1.backward(self.conv2.backward(gradient, gradient), hidden)
        if self.shortcut is None:
            return self.activation.backward(inner, activated, onto=gradient)
        inner += self.shortcut.backward(gradient, gradient)
        return self.activation.backward(inner, activated)
