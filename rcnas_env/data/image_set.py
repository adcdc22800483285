"""Labelled images in memory, and a data set's disjoint train, eval and test sets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """Images as integers, as they were recorded, with their labels.

    pixels: uint8 (N, channels, height, width), in [0, scale];
    labels: int64 (N,), in [0, classes);
    scale: the integer that stands for full brightness (255; 16 for scikit-learn's digits).
    """

    pixels: Tensor
    labels: Tensor
    scale: int = 255

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, device: torch.device | str = "cpu") -> Tensor:
        """All images as float32 in [0, 1] on `device`, shape (N, channels, height, width)."""
        return self.pixels.to(device).float() / self.scale

    def subset(self, indices: Tensor) -> ImageSet:
        """The images at `indices` (int64)."""
        return ImageSet(self.pixels[indices], self.labels[indices], self.scale)


@dataclass(frozen=True)
class DataSplits:
    """Disjoint sets: `train` to train on, `eval` split off it to reward on, `test` for final figures."""

    train: ImageSet
    eval: ImageSet
    test: ImageSet
