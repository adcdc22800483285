"""One convolution of a frozen network, folded with the batch norm and the ReLU that follow it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnas_env.networks.folding import affine
from rcnas_env.networks.frozen.elementwise import mask_
from rcnas_env.networks.frozen.kernels import Size, choose_kernel


class FrozenConvolution:
    """A convolution, folded with the batch norm and the ReLU that directly follow it, where they do.

        y = relu(s ⊙ (W ∗ x) + β − s μ),    s = γ / √(σ² + eps)

    Weights are prepared by `refresh` in the layout that their kernel wants, both ways. `forward` and `backward`
    work on tensors of the map size and the memory layout given at construction.

    Args:
        conv: zero-padded by half its kernel, without dilation.
        bn: the batch norm that follows it directly, or None.
        relu: whether a ReLU follows.
        size: (height, width) of the input map.
        pixels_first: whether tensors are pixel-major (`rcnas_env.networks.pixel_major`); channels-last otherwise.
    """

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d | None, relu: bool, size: Size, pixels_first: bool) -> None:
        self.conv, self.bn, self.relu = conv, bn, relu
        stride = conv.stride[0]
        self.out_size: Size = (-(-size[0] // stride), -(-size[1] // stride))
        self._kernel = choose_kernel(conv, relu, size, pixels_first)

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
