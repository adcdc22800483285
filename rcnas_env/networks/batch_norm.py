"""Batch norm that takes feature maps as they lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnas_env.networks import pixel_major


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d; pixel-major maps (`rcnas_env.networks.pixel_major`) stay so, and are taken in one pass."""

    def forward(self, input: Tensor) -> Tensor:
        """The normalised map, (N, C, H, W)."""
        if torch.compiler.is_compiling() or not pixel_major.is_pixel_major(input):
            return super().forward(input)
        return pixel_major.from_volume(super().forward(pixel_major.volume(input)))

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (4, 5):
            raise ValueError(f"expected a map of 4 dimensions, or its volume of 5, got {input.dim()}")
