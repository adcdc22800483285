"""The residual network that a `NetworkSpec` describes, and its reproducible initialisation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.networks.basic_block import BasicBlock
from rcnas_env.networks.robust_block import RobustBlock


class ResidualNetwork(nn.Module):
    """Pre-activation residual network: stem, stages, batch norm and ReLU, global average pooling, classifier.

    Takes images (N, channels, H, W) in [0, 1], as they are: no normalisation comes before the stem. Returns logits
    (N, classes). H and W need not be those of `spec.input`. Made by `build`, which also initialises it; `spec` is
    kept as an attribute.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.stem = nn.Conv2d(spec.input[0], spec.stem.channels, 3, stride=spec.stem.stride, padding=1, bias=False)
        channels = [spec.stem.channels, *(stage.out_channels for stage in spec.stages)]
        self.stages = nn.Sequential(*map(_stage, spec.stages, channels))
        self.bn = nn.BatchNorm2d(channels[-1])
        self.classifier = nn.Linear(channels[-1], spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        features = F.relu(self.bn(self.stages(self.stem(images))))
        return self.classifier(features.mean(dim=(2, 3)))


def _stage(stage: StageSpec, in_channels: int) -> nn.Sequential:
    """The blocks of one stage; only the first may change resolution and channels."""
    block = RobustBlock if stage.robust else BasicBlock
    first = block(in_channels, stage.planes, stride=2 if stage.downsample else 1)
    return nn.Sequential(first, *(block(stage.out_channels, stage.planes) for _ in range(stage.depth - 1)))


def build(
    spec: NetworkSpec, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> ResidualNetwork:
    """The network of `spec` on `device`, in train mode, initialised from `generator` (a fresh one of seed 0 if None).

    The same generator state gives the same weights on every device, for they are drawn on the CPU; torch's global
    random state stays as it was. On the "meta" device nothing is allocated or drawn. Initialisation:
    convolutions N(0, 2 / (k² · out_channels)) (He et al. 2015, fan-out, with all output channels counted in grouped
    convolutions too, as the wide residual networks have it); batch norm scale 1, shift 0; linear weights
    U(−1 / √in, 1 / √in), biases 0.

    Raises:
        ValueError: `generator` is not a CPU generator.
    """
    if generator is None:
        generator = torch.Generator(device="cpu").manual_seed(0)
    if generator.device.type != "cpu":
        raise ValueError(f"generator must be a CPU generator, got one on {str(generator.device)!r}")
    # On the meta device the layers' own initialisation, which would draw from the global generator, does nothing.
    with torch.device("meta"):
        network = ResidualNetwork(spec)
    if torch.device(device).type == "meta":
        return network
    network.to_empty(device="cpu")
    _initialise(network, generator)
    return network.to(device)


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Set every parameter and buffer of `network` (on the CPU), drawing from `generator` in module order."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out), generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
