"""Parameters and multiply-accumulates of a `CellNetworkSpec` in closed form, by the rules of `rcnas_env.cost`.

At 32×32 and 10 classes, in millions of parameters and GMACs, beside what the RC-NAS paper's main table prints:

    RobNet-large-v2   33.33   5.09   (33.3   5.10)
    AdvRush-7@96      32.58   4.95   (32.6   4.97)      AdvRush-10@96     45.73    6.90   (67.5  18.33)
    RACL-7@104        32.51   4.91   (32.5   4.93)      RACL-10@104       45.09    6.77   (67.9  18.75)

In the left column, the paper's figures are larger by one operation for each output of an affine batch norm, which
is free here. In the right one, and in those of 16 and 22 repeats, they do not follow from their labels.
"""

from __future__ import annotations

from rcnas_env.cell_architecture import STEM_MULTIPLIER, CellLayer, CellNetworkSpec, cell_layers
from rcnas_env.cost import Cost, strided_size
from rcnas_env.image_shape import require_input_shape

_KERNELS = {
    "sep_conv_3x3": 3,
    "sep_conv_5x5": 5,
    "dil_conv_3x3": 3,
    "dil_conv_5x5": 5,
    "res_sep_conv_3x3": 3,
}


def cell_network_cost(spec: CellNetworkSpec, input_shape: tuple[int, int, int] | None = None) -> Cost:
    """Cost of the whole network: stem, cells, classifier.

    `input_shape` (channels, height, width) replaces `spec.input`.

    Raises:
        ValueError: `input_shape` is not three positive integers.
    """
    shape = spec.input if input_shape is None else require_input_shape("input_shape", input_shape)
    height, width = (strided_size(size, spec.stem_stride) for size in shape[1:])
    stem_channels = STEM_MULTIPLIER * spec.channels
    stem = 9 * shape[0] * stem_channels
    params, macs, features = stem + 2 * stem_channels, stem * height * width, stem_channels
    for layer in cell_layers(spec):
        pixels_in = height * width
        if layer.reduces:
            height, width = strided_size(height, 2), strided_size(width, 2)
        before_params, before_macs = _preprocessing(layer, spec.affine, pixels_in)
        weights, normalised = _edges(layer)
        params += before_params + weights + (2 * normalised if spec.affine else 0)
        macs += before_macs + weights * height * width
        features = layer.out_channels
    return Cost(params=params + (features + 1) * spec.classes, macs=macs + features * spec.classes)


def _preprocessing(layer: CellLayer, affine: bool, pixels: int) -> tuple[int, int]:
    """Parameters and MACs of the two 1×1 convolutions that make states 0 and 1; both put out state 1's pixels."""
    weights = sum(layer.in_channels) * layer.channels
    return weights + (4 * layer.channels if affine else 0), weights * pixels


def _edges(layer: CellLayer) -> tuple[int, int]:
    """Weights of all edges, whose convolutions put out the cell's own pixels, and channels of their batch norms."""
    weights = normalised = 0
    for node in layer.nodes:
        for operation, state in node:
            repeats, shortcut = _convolutions(operation, strided=layer.reduces and state < 2)
            kernel = _KERNELS.get(operation, 0)
            weights += repeats * (kernel**2 * layer.channels + layer.channels**2) + shortcut * layer.channels**2
            normalised += (repeats + shortcut) * layer.channels
    return weights, normalised


def _convolutions(operation: str, strided: bool) -> tuple[int, int]:
    """(Pairs of a depthwise and a 1×1 convolution, factorised reductions) of an operation, each with a batch norm."""
    repeats = {"sep": 2, "dil": 1, "res": 2}.get(operation[:3], 0)
    return repeats, int(strided and operation in ("skip_connect", "res_sep_conv_3x3"))
