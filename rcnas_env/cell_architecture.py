"""What a network of cells is, without building it: RobNet, AdvRush, RACL and others of DARTS' kind.

A cell is a small directed graph (Liu et al. 2019, DARTS). Its states 0 and 1 are the outputs of the cell before the
last and of the last one, both brought to the cell's own channels; each of its nodes, the states from 2 on, is a sum
of operations on states before it; its output is all nodes, concatenated. A network stacks normal cells and, at a
third and at two thirds of the way, reduction cells, which halve the resolution and double the channels.
`CellNetworkSpec` stands beside `rcnas_env.architecture.NetworkSpec` and serves the same purposes;
`rcnas_env.cell_rivals` holds the published ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rcnas_env.image_shape import require_input_shape
from rcnas_env.validation import require_boolean, require_choice, require_fields, require_integer, shown

OPERATIONS = (
    "none",
    "skip_connect",
    "avg_pool_3x3",
    "max_pool_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "res_sep_conv_3x3",
)
"""What an edge may do: DARTS' operations, and RobNet's residual one, input + sep_conv_3x3(input)."""

CELL_NETWORK_KIND = "cells"
"""Value of the JSON form's "kind", which tells it from that of a `NetworkSpec`."""

STEM_MULTIPLIER = 3
"""The stem puts out 3 × `channels` (DARTS and all three rivals)."""

MIN_LAYERS = 3
"""Below 3 cells, the reductions at a third and at two thirds of the way are not two."""

MAX_LAYERS = 1_024
MAX_CHANNELS = 4_096
MAX_NODES = 64
MAX_CLASSES = 1_000_000
"""Of any network; ImageNet-21k has 21,841."""

Edge = tuple[str, int]
"""(operation, index of the state that it reads)."""

Node = tuple[Edge, ...]
"""The edges that a node sums up."""


@dataclass(frozen=True)
class Genotype:
    """The graphs of the `normal` and the `reduce` cell, as tuples of nodes.

    Node i is state i + 2 and may read the states 0 … i + 1. In a reduction cell, edges from the states 0 and 1
    have stride 2.

    Raises:
        ValueError: a cell has no node, a node no edge, or an edge an unknown operation or a state that is not there.
    """

    normal: tuple[Node, ...]
    reduce: tuple[Node, ...]

    def __post_init__(self) -> None:
        for name in ("normal", "reduce"):
            object.__setattr__(self, name, _require_cell(f"genotype.{name}", getattr(self, name)))


def _require_cell(field: str, value: object) -> tuple[Node, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_NODES:
        raise ValueError(f"{field} must be a list of 1 to {MAX_NODES} nodes, got {shown(value)}")
    nodes = []
    for position, node in enumerate(value):
        place = f"{field}[{position}]"
        if not isinstance(node, list | tuple) or not 1 <= len(node) <= MAX_NODES:
            raise ValueError(f"{place} must be a list of 1 to {MAX_NODES} edges [operation, state], got {shown(node)}")
        nodes.append(tuple(_require_edge(f"{place}[{i}]", edge, position + 1) for i, edge in enumerate(node)))
    return tuple(nodes)


def _require_edge(field: str, value: object, last_state: int) -> Edge:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{field} must be an edge [operation, state], got {shown(value)}")
    operation, state = value
    return (
        require_choice(f"{field}[0] (operation)", operation, OPERATIONS),
        require_integer(f"{field}[1] (state)", state, 0, last_state),
    )


def require_classes(value: object) -> int:
    """Return `value`, a network's number of classes.

    Raises:
        ValueError: it is no integer from 2 to MAX_CLASSES.
    """
    classes = require_integer("classes", value, 2)
    if classes > MAX_CLASSES:
        raise ValueError(f"classes must be at most {MAX_CLASSES}, got {shown(classes)}")
    return classes


@dataclass(frozen=True)
class CellNetworkSpec:
    """A whole network of cells: a 3×3 stem, cells, global average pooling, a linear classifier.

    genotype: the two cells.
    layers: number of cells, at least 3. Cells layers // 3 and 2 · layers // 3 are reduction cells.
    channels: C, of each node in the first cells; it doubles with every reduction.
    affine: whether the cells' batch norms learn a scale and a shift (RobNet's do not; the stem's always does).
    stem_stride: 1, or 2 for 64×64 images.
    input: one image's channels, height, width.
    classes: from 2 to MAX_CLASSES.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    genotype: Genotype
    layers: int
    channels: int
    affine: bool = True
    stem_stride: int = 1
    input: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10

    def __post_init__(self) -> None:
        if not isinstance(self.genotype, Genotype):
            raise ValueError(f"genotype must be a Genotype, got {shown(self.genotype)}")
        object.__setattr__(self, "layers", require_integer("layers", self.layers, MIN_LAYERS, MAX_LAYERS))
        object.__setattr__(self, "channels", require_integer("channels", self.channels, 1, MAX_CHANNELS))
        require_boolean("affine", self.affine)
        object.__setattr__(self, "stem_stride", require_integer("stem_stride", self.stem_stride, 1, 4))
        object.__setattr__(self, "input", require_input_shape("input", self.input))
        object.__setattr__(self, "classes", require_classes(self.classes))

    def with_data(self, input: tuple[int, int, int], classes: int) -> CellNetworkSpec:
        """The same network for images of another shape and another number of classes."""
        return replace(self, input=input, classes=classes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, see `from_dict`."""
        cells = {"normal": self.genotype.normal, "reduce": self.genotype.reduce}
        return {
            "kind": CELL_NETWORK_KIND,
            "genotype": {name: [[list(edge) for edge in node] for node in cell] for name, cell in cells.items()},
            "layers": self.layers,
            "channels": self.channels,
            "affine": self.affine,
            "stem_stride": self.stem_stride,
            "input": list(self.input),
            "classes": self.classes,
        }

    @classmethod
    def from_dict(cls, value: object) -> CellNetworkSpec:
        """Read the JSON form: `{"kind": "cells", "genotype": {"normal": [[[operation, state], …], …], "reduce"},
        "layers", "channels", "affine", "stem_stride", "input", "classes"}`. All fields are required.

        Raises:
            ValueError: a field is missing, unknown or out of range; the message names it.
        """
        names = ("kind", "genotype", "layers", "channels", "affine", "stem_stride", "input", "classes")
        fields = dict(require_fields("network", value, names))
        require_choice("kind", fields.pop("kind"), (CELL_NETWORK_KIND,))
        fields["genotype"] = Genotype(**require_fields("genotype", fields["genotype"], ("normal", "reduce")))
        return cls(**fields)

    def to_json(self) -> str:
        """The JSON form as one line; `rcnas_env.architecture.network_from_json` reads it."""
        return json.dumps(self.to_dict())

    @property
    def reductions(self) -> tuple[int, int]:
        """Positions of the two reduction cells."""
        return self.layers // 3, 2 * self.layers // 3


@dataclass(frozen=True)
class CellLayer:
    """One cell in its place.

    nodes: its graph.
    in_channels: channels of the cell before the last, and of the last one.
    channels: of each of its nodes.
    reduces: whether it is a reduction cell.
    halves_first: whether the last cell was one, so that state 0 has to be halved to fit state 1.
    """

    nodes: tuple[Node, ...]
    in_channels: tuple[int, int]
    channels: int
    reduces: bool
    halves_first: bool

    @property
    def out_channels(self) -> int:
        """Channels of the concatenated nodes."""
        return len(self.nodes) * self.channels


def cell_layers(spec: CellNetworkSpec) -> Iterator[CellLayer]:
    """The cells of `spec`, in order; both inputs of the first are the stem."""
    first = last = STEM_MULTIPLIER * spec.channels
    channels, halves_first = spec.channels, False
    for position in range(spec.layers):
        reduces = position in spec.reductions
        channels *= 2 if reduces else 1
        nodes = spec.genotype.reduce if reduces else spec.genotype.normal
        layer = CellLayer(nodes, (first, last), channels, reduces, halves_first)
        yield layer
        first, last, halves_first = last, layer.out_channels, reduces
