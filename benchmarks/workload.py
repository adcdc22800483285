"""What a forward pass of a network has to do, counted in closed form from its spec: the cost model's features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.cost import ROBUST_SCALES, ROBUST_SE_REDUCTION, cost, robust_scale_width, stage_costs, strided_size

TAPS = 9
"""Of a 3×3 kernel."""


@dataclass(frozen=True)
class Workload:
    """Of one forward pass.

    macs: multiply-accumulates an image, as `cost` counts them.
    plain_macs: those outside robust stages, as a CPU carries them out: where a map has fewer pixels than a 3×3 kernel
        has taps, only the taps that meet a pixel (`rcnas_env.networks.convolution`).
    robust_macs: those of robust stages, whose narrow convolutions run at another rate.
    elements: numbers an image that convolutions, batch norms and linear layers put out: what memory has to move.
    operations: calls of these layers, whatever the batch.
    """

    macs: int
    plain_macs: int
    robust_macs: int
    elements: int
    operations: int

    def features(self, batch_size: int) -> NDArray[np.float64]:
        """(5,): both kinds of macs (1e9) and elements (1e6) of a batch, operations (1e3), and 1 for the pass itself."""
        macs = [self.plain_macs * batch_size / 1e9, self.robust_macs * batch_size / 1e9]
        return np.array([*macs, self.elements * batch_size / 1e6, self.operations / 1e3, 1.0])


def workload(spec: NetworkSpec) -> Workload:
    """The workload of `spec` on images of its input's shape."""
    channels, (_, height, width) = spec.stem.channels, spec.input
    height, width = strided_size(height, spec.stem.stride), strided_size(width, spec.stem.stride)
    elements, operations, saved, robust_macs = channels * height * width, 1, 0, 0
    for stage, stage_cost in zip(spec.stages, stage_costs(spec), strict=True):
        robust_macs += stage_cost.macs if stage.robust else 0
        for position in range(stage.depth):
            before = height * width
            if stage.downsample and position == 0:
                height, width = strided_size(height, 2), strided_size(width, 2)
            projects = position == 0 and (stage.downsample or channels != stage.out_channels)
            block = _robust_block if stage.robust else _basic_block
            more = block(stage, channels, before, height * width, projects)
            elements, operations = elements + more[0], operations + more[1]
            saved += 0 if stage.robust else _taps_in_the_padding(stage, channels, before, height * width)
            channels = stage.out_channels
    final = channels * height * width + spec.classes  # batch norm, classifier
    macs = cost(spec).macs
    return Workload(macs, macs - robust_macs - saved, robust_macs, elements + final, operations + 2)


def _taps_in_the_padding(stage: StageSpec, channels: int, before: int, after: int) -> int:
    """Multiply-accumulates of a basic block that a dense matrix saves on a map of few pixels."""
    first, second = (TAPS - min(pixels, TAPS) for pixels in (before, after))
    return stage.planes * after * (channels * first + stage.planes * second)


def _basic_block(stage: StageSpec, channels: int, before: int, after: int, projects: bool) -> tuple[int, int]:
    """(elements, operations): bn1 before the stride, conv1, bn2 and conv2 after it, and a shortcut."""
    convolutions = 3 + projects
    return channels * before + convolutions * stage.planes * after, 1 + convolutions


def _robust_block(stage: StageSpec, channels: int, before: int, after: int, projects: bool) -> tuple[int, int]:
    """(elements, operations) of a robust block.

    Before the stride bn1, conv1 and bn2; after it seven scales' convolutions and batch norms, conv3, bn3 and a
    shortcut; the two linear layers of squeeze-and-excitation.
    """
    width, out = robust_scale_width(stage.planes), stage.out_channels
    scales = ROBUST_SCALES - 1
    elements = (channels + 2 * ROBUST_SCALES * width) * before
    elements += (2 * scales * width + (2 + projects) * out) * after
    return elements + out // ROBUST_SE_REDUCTION + out, 3 + 2 * scales + 2 + projects + 2
