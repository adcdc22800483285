"""Parameters and multiply-accumulates (MACs) of a network in closed form, without building it.

Plain integers, no torch: an environment asks for the cost of every student it proposes. Parameters are all
learnable numbers (batch norm counts its scale and shift, not its running statistics). MACs are those of convolutions
and linear layers for one image, the linear layers of squeeze-and-excitation among them; batch norm, ReLU, pooling
and additions are free. At 32×32, what the RC-NAS paper's main table calls GFLOPs is within 1 % of this (WRN-28-10:
5.20 there, 5.24 here; RobustResNet-A1: 5.11 there, 5.08 here). `tests/test_cost.py` holds it against the modules
that `rcnas_env.networks.build` makes and torch's own flop counter (two flops a MAC).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from rcnas_env.architecture import ROBUST_EXPANSION, Network, NetworkSpec, StageSpec
from rcnas_env.cell_architecture import CellNetworkSpec
from rcnas_env.image_shape import require_input_shape

ROBUST_SCALES = 8
"""Scales (channel groups) that a robust block's 3×3 convolutions work through one after another."""

ROBUST_CARDINALITY = 4
"""Groups of each of those convolutions."""

ROBUST_BASE_WIDTH = 10
"""Channels of one group of one scale, at 160 planes."""

ROBUST_SE_REDUCTION = 64
"""Ratio of a robust block's output channels to the hidden units of its squeeze-and-excitation."""


def robust_scale_width(planes: int) -> int:
    """Channels of one scale of a robust block: floor(planes · 10 / 160) · 4 (Huang et al. 2022), 0 below 16 planes."""
    return planes * ROBUST_BASE_WIDTH // 160 * ROBUST_CARDINALITY


@dataclass(frozen=True)
class Cost:
    """What a network, or a part of one, costs.

    params: learnable numbers; macs: multiply-accumulates of one image's forward pass.
    """

    params: int
    macs: int


def cost(spec: Network, input_shape: tuple[int, int, int] | None = None) -> Cost:
    """Cost of the whole network: stem, stages, final batch norm, classifier; or stem, cells, classifier.

    `input_shape` (channels, height, width) replaces `spec.input`; every shape that `NetworkSpec` accepts is allowed.

    Raises:
        ValueError: `input_shape` is not three positive integers.
    """
    return _cost(spec, input_shape if input_shape is None else require_input_shape("input_shape", input_shape))


@functools.lru_cache(maxsize=32_768)  # more than a table's space has networks
def _cost(spec: Network, input_shape: tuple[int, int, int] | None) -> Cost:
    if isinstance(spec, CellNetworkSpec):
        from rcnas_env.cell_cost import cell_network_cost  # here, as that module takes Cost from this one

        return cell_network_cost(spec, input_shape)
    channels, height, width = _shape(spec, input_shape)
    stages = stage_costs(spec, (channels, height, width))
    stem = 9 * channels * spec.stem.channels
    stem_pixels = strided_size(height, spec.stem.stride) * strided_size(width, spec.stem.stride)
    features = spec.stages[-1].out_channels
    return Cost(
        params=stem + sum(stage.params for stage in stages) + 2 * features + (features + 1) * spec.classes,
        macs=stem * stem_pixels + sum(stage.macs for stage in stages) + features * spec.classes,
    )


def stage_costs(spec: NetworkSpec, input_shape: tuple[int, int, int] | None = None) -> tuple[Cost, ...]:
    """Cost of each stage, in order; stem, final batch norm and classifier are in none of them.

    Raises:
        ValueError: `input_shape` is not three positive integers.
    """
    _, height, width = _shape(spec, input_shape)
    height, width = strided_size(height, spec.stem.stride), strided_size(width, spec.stem.stride)
    channels = spec.stem.channels
    costs = []
    for stage in spec.stages:
        pixels_in = height * width
        if stage.downsample:
            height, width = strided_size(height, 2), strided_size(width, 2)
        costs.append(_stage_cost(stage, channels, pixels_in, height * width))
        channels = stage.out_channels
    return tuple(costs)


def _shape(spec: NetworkSpec, input_shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    return spec.input if input_shape is None else require_input_shape("input_shape", input_shape)


def strided_size(size: int, stride: int) -> int:
    """Output size of a convolution with an odd kernel k, padding (k − 1) / 2 and this stride."""
    return (size - 1) // stride + 1


def _stage_cost(stage: StageSpec, in_channels: int, pixels_in: int, pixels_out: int) -> Cost:
    """The first block, which may change resolution and channels, and depth − 1 equal ones that do not."""
    block = _robust_block if stage.robust else _basic_block
    projects = stage.downsample or in_channels != stage.out_channels
    first_params, first_macs = block(in_channels, stage.planes, pixels_in, pixels_out, projects)
    inner_params, inner_macs = block(stage.out_channels, stage.planes, pixels_out, pixels_out, False)
    repeats = stage.depth - 1
    return Cost(params=first_params + repeats * inner_params, macs=first_macs + repeats * inner_macs)


def _basic_block(in_channels: int, planes: int, pixels_in: int, pixels_out: int, projects: bool) -> tuple[int, int]:
    """Parameters and MACs of one `BasicBlock`, whose convolutions all put out the output resolution."""
    weights = 9 * planes * (in_channels + planes)
    if projects:
        weights += in_channels * planes
    batch_norms = 2 * (in_channels + planes)
    return weights + batch_norms, weights * pixels_out


def _robust_block(in_channels: int, planes: int, pixels_in: int, pixels_out: int, projects: bool) -> tuple[int, int]:
    """Parameters and MACs of one `RobustBlock`, whose first convolution works before the stride."""
    out_channels = ROBUST_EXPANSION * planes
    width = robust_scale_width(planes)
    inner = ROBUST_SCALES * width
    hierarchy = (ROBUST_SCALES - 1) * 9 * width * (width // ROBUST_CARDINALITY)
    before_stride = in_channels * inner
    after_stride = hierarchy + inner * out_channels
    if projects:
        after_stride += in_channels * out_channels
    excitation = 2 * out_channels * (out_channels // ROBUST_SE_REDUCTION)
    batch_norms = 2 * (in_channels + inner + (ROBUST_SCALES - 1) * width + out_channels)
    params = before_stride + after_stride + excitation + batch_norms
    return params, before_stride * pixels_in + after_stride * pixels_out + excitation
