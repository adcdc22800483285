"""The network of cells that a `CellNetworkSpec` describes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rcnas_env.cell_architecture import STEM_MULTIPLIER, CellLayer, CellNetworkSpec, Node, cell_layers
from rcnas_env.networks.cell_operations import FactorizedReduction, Pairs, PointwiseConvolution, make_operation


class NodeSum(nn.Module):
    """A node of a cell: the sum of its edges' operations, Σ op(s_j). Edges from states 0 and 1 carry the stride."""

    def __init__(self, node: Node, layer: CellLayer, affine: bool) -> None:
        super().__init__()
        self.states = tuple(state for _, state in node)
        self.operations = nn.ModuleList(
            make_operation(operation, layer.channels, 2 if layer.reduces and state < 2 else 1, affine)
            for operation, state in node
        )

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """The node's value from the cell's states so far."""
        terms = (op(states[j]) for op, j in zip(self.operations, self.states, strict=True))
        return functools.reduce(torch.add, terms)


class Cell(nn.Module):
    """One cell: state 0 and 1 from the two cells before, a state for each node, all nodes concatenated.

        s₀ = preprocess₀(first),   s₁ = preprocess₁(last),   s_{i+2} = Σ_{(op, j) ∈ node i} op(s_j)

    preprocess is a 1×1 convolution to the cell's channels; of the first input a factorised reduction where the last
    cell was a reduction cell, since the two inputs then differ in resolution.

    Shapes: first (N, in_channels[0], H', W'), last (N, in_channels[1], H, W) → (N, nodes · channels, H, W), or half
    of H and W, rounded up, from a reduction cell.
    """

    def __init__(self, layer: CellLayer, affine: bool) -> None:
        super().__init__()
        first, last = layer.in_channels
        preprocess = FactorizedReduction if layer.halves_first else PointwiseConvolution
        self.preprocess0 = preprocess(first, layer.channels, affine)
        self.preprocess1 = PointwiseConvolution(last, layer.channels, affine)
        self.nodes = nn.ModuleList(NodeSum(node, layer, affine) for node in layer.nodes)

    def forward(self, first: Tensor, last: Tensor) -> Tensor:
        """Return the nodes, concatenated along the channels."""
        states = [self.preprocess0(first), self.preprocess1(last)]
        for node in self.nodes:
            states.append(node(states))
        return torch.cat(states[2:], dim=1)


class CellNetwork(nn.Module):
    """Stem (3×3 convolution and batch norm), cells, global average pooling, classifier.

    Takes images (N, channels, H, W) in [0, 1], as they are. Returns logits (N, classes). H and W need not be those
    of `spec.input`. Without the auxiliary head and the drop path that some of DARTS' trainings add. Made by
    `rcnas_env.networks.build`, which also initialises it; `spec` is kept as an attribute.
    """

    def __init__(self, spec: CellNetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        channels = STEM_MULTIPLIER * spec.channels
        self.stem = nn.Conv2d(spec.input[0], channels, 3, stride=spec.stem_stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        layers = list(cell_layers(spec))
        self.cells = nn.ModuleList(Cell(layer, spec.affine) for layer in layers)
        self.classifier = nn.Linear(layers[-1].out_channels, spec.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        first = last = self.bn(self.stem(images))
        for cell in self.cells:
            first, last = last, cell(first, last)
        return self.classifier(last.mean(dim=(2, 3)))

    @property
    def middle_layer(self) -> nn.Module:
        """The cell half-way, whose output is a feature map of middle depth; for attacks on features."""
        return self.cells[len(self.cells) // 2]

    def folded_pairs(self) -> Pairs:
        """The stem's pair; the cells' operations name their own."""
        yield self.stem, self.bn
