"""The basic block of a wide residual network (Zagoruyko & Komodakis 2016)."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from rcnas_env.networks.batch_norm import BatchNorm
from rcnas_env.networks.convolution import Convolution


class BasicBlock(nn.Module):
    """Pre-activation residual block of two 3×3 convolutions.

        a = relu(bn1(x)),    y = conv2(relu(bn2(conv1(a)))) + s

    with the shortcut s = x, or s = shortcut(a), a strided 1×1 convolution of the activated input, where the stride
    is above 1 or the channels change. `conv1` carries the stride. No convolution has a bias.

    Shapes: (N, in_channels, H, W) → (N, planes, ⌈H / stride⌉, ⌈W / stride⌉), for any H, W ≥ 1.
    """

    def __init__(self, in_channels: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = BatchNorm(in_channels)
        self.conv1 = Convolution(in_channels, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm(planes)
        self.conv2 = Convolution(planes, planes, 3, padding=1, bias=False)
        projects = stride > 1 or in_channels != planes
        self.shortcut = Convolution(in_channels, planes, 1, stride=stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        """Return y of the class docstring; `x` stays as it is."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(F.relu(self.bn2(self.conv1(activated)))) + shortcut

    def folded_pairs(self) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Convolutions with the batch norm that directly follows; see `rcnas_env.networks.folding`."""
        yield self.conv1, self.bn2
