"""The residual network that a `NetworkSpec` describes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.networks import pixel_major
from rcnas_env.networks.basic_block import BasicBlock
from rcnas_env.networks.batch_norm import BatchNorm
from rcnas_env.networks.robust_block import RobustBlock


class ResidualNetwork(nn.Module):
    """Pre-activation residual network: stem, stages, batch norm and ReLU, global average pooling, classifier.

    Takes images (N, channels, H, W) in [0, 1], as they are: no normalisation comes before the stem. Returns logits
    (N, classes). H and W need not be those of `spec.input`. Made by `rcnas_env.networks.build`, which also
    initialises it; `spec` is kept as an attribute.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = nn.Conv2d(spec.input[0], spec.stem.channels, 3, stride=spec.stem.stride, padding=1, bias=False)
        channels = [spec.stem.channels, *(stage.out_channels for stage in spec.stages)]
        self.stages = nn.Sequential(*map(_stage, spec.stages, channels))
        self.bn = BatchNorm(channels[-1])
        self.classifier = nn.Linear(channels[-1], spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        if pixel_major.is_faster(images):
            x = pixel_major.convolve_by(self.stem, pixel_major.lay_out(images))
        else:
            x = self.stem(images)
        features = F.relu(self.bn(self.stages(x)))
        return self.classifier(features.mean(dim=(2, 3)))

    @property
    def middle_layer(self) -> nn.Module:
        """The stage half-way, whose output is a feature map of middle depth; for attacks on features."""
        return self.stages[len(self.stages) // 2]


def _stage(stage: StageSpec, in_channels: int) -> nn.Sequential:
    """The blocks of one stage; only the first may change resolution and channels."""
    block = RobustBlock if stage.robust else BasicBlock
    first = block(in_channels, stage.planes, stride=2 if stage.downsample else 1)
    return nn.Sequential(first, *(block(stage.out_channels, stage.planes) for _ in range(stage.depth - 1)))
