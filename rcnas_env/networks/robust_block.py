"""The robust residual block of RobustResNet (Huang et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnas_env.architecture import ROBUST_EXPANSION, ROBUST_MIN_PLANES
from rcnas_env.cost import ROBUST_CARDINALITY, ROBUST_SCALES, ROBUST_SE_REDUCTION, robust_scale_width
from rcnas_env.networks import pixel_major
from rcnas_env.networks.batch_norm import BatchNorm
from rcnas_env.networks.convolution import Convolution
from rcnas_env.networks.scales import join_together, split_apart
from rcnas_env.validation import require_integer


class SqueezeExcitation(nn.Module):
    """Channel attention: x · sigmoid(W₂ relu(W₁ mean(x))), the mean over the pixels, W₁ and W₂ without bias.

    Shapes: (N, channels, H, W) → the same; channels // 64 hidden units, so at least 64 channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // ROBUST_SE_REDUCTION
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with each channel scaled by a share in (0, 1)."""
        share = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return x * share[:, :, None, None]


class HierarchicalConvolution(nn.Module):
    """Grouped 3×3 convolutions over 8 scales of `width` channels, each but the last with batch norm and ReLU.

    With x₀ … x₇ the scales of the input:

        stride 1:  y₀ = f₀(x₀),   y_s = f_s(x_s + y_{s−1}) for s = 1 … 6,   y₇ = x₇
        stride 2:  y_s = f_s(x_s) for s = 0 … 6,                            y₇ = 3×3 average pool of x₇

    where f_s = relu ∘ bn ∘ conv; a strided y_{s−1} does not fit x_s, hence no sum there.

    Shapes: (N, 8 · width, H, W) → (N, 8 · width, ⌈H / stride⌉, ⌈W / stride⌉).
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.width, self.stride = width, stride
        self.convs = nn.ModuleList(
            Convolution(width, width, 3, stride=stride, padding=1, groups=ROBUST_CARDINALITY, bias=False)
            for _ in range(ROBUST_SCALES - 1)
        )
        self.bns = nn.ModuleList(BatchNorm(width) for _ in range(ROBUST_SCALES - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return y₀ … y₇ of the class docstring, concatenated."""
        pixels_first = not torch.compiler.is_compiling() and pixel_major.is_pixel_major(x)
        *scales, last = split_apart(x) if pixels_first else x.chunk(ROBUST_SCALES, dim=1)
        outputs: list[Tensor] = []
        for scale, conv, bn in zip(scales, self.convs, self.bns, strict=True):
            if outputs and self.stride == 1:
                scale = scale + outputs[-1]
            outputs.append(F.relu(bn(conv(scale))))
        if self.stride > 1:
            last = F.avg_pool2d(last, 3, stride=self.stride, padding=1)
        return join_together([*outputs, last]) if pixels_first else torch.cat([*outputs, last], dim=1)


class RobustBlock(nn.Module):
    """Pre-activation bottleneck with hierarchical aggregated convolutions and residual squeeze-and-excitation.

        a = relu(bn1(x)),    z = conv3(hierarchy(relu(bn2(conv1(a))))),    y = z + s + SE(bn3(z))

    `conv1` (1×1) widens to 8 scales of floor(planes · 10 / 160) · 4 channels, `conv3` (1×1) puts out 4 · planes; the
    hierarchy carries the stride. The shortcut s = x, or s = shortcut(a), a strided 1×1 convolution of the activated
    input, where the stride is above 1 or the channels change. No convolution has a bias.

    Departure from the published code: there `conv1` reads x itself, so that bn1 serves the shortcut alone and is
    idle in every block with an identity shortcut. Here it reads a, as a pre-activation block does.
    Parameters and MACs are the same.

    Shapes: (N, in_channels, H, W) → (N, 4 · planes, ⌈H / stride⌉, ⌈W / stride⌉), for any H, W ≥ 1.

    Raises:
        ValueError: planes < 16, which leaves the scales without channels.
    """

    def __init__(self, in_channels: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        width = robust_scale_width(require_integer("planes (of a robust block)", planes, ROBUST_MIN_PLANES))
        inner, out_channels = ROBUST_SCALES * width, ROBUST_EXPANSION * planes
        self.bn1 = BatchNorm(in_channels)
        self.conv1 = Convolution(in_channels, inner, 1, bias=False)
        self.bn2 = BatchNorm(inner)
        self.hierarchy = HierarchicalConvolution(width, stride)
        self.conv3 = Convolution(inner, out_channels, 1, bias=False)
        self.bn3 = BatchNorm(out_channels)
        self.excitation = SqueezeExcitation(out_channels)
        projects = stride > 1 or in_channels != out_channels
        self.shortcut = Convolution(in_channels, out_channels, 1, stride=stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        """Return y of the class docstring; `x` stays as it is."""
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv3(self.hierarchy(F.relu(self.bn2(self.conv1(activated)))))
        return out + shortcut + self.excitation(self.bn3(out))

    def folded_pairs(self) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Convolutions with the batch norm that directly follows; see `rcnas_env.networks.folding`."""
        yield self.conv1, self.bn2
        yield from zip(self.hierarchy.convs, self.hierarchy.bns, strict=True)
