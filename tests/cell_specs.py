"""Random genotypes, and random networks made of them."""

from __future__ import annotations

from hypothesis import strategies as st

from rcnas_env.cell_architecture import MAX_CHANNELS, MAX_LAYERS, OPERATIONS, CellNetworkSpec, Genotype, Node


def node(position: int) -> st.SearchStrategy[Node]:
    """A node of up to four edges from states before it."""
    edge = st.tuples(st.sampled_from(OPERATIONS), st.integers(0, position + 1))
    return st.lists(edge, min_size=1, max_size=4).map(tuple)


def cell(nodes: int) -> st.SearchStrategy[tuple[Node, ...]]:
    """A cell of so many nodes."""
    return st.tuples(*map(node, range(nodes)))


CELLS = st.integers(1, 4).flatmap(cell)
GENOTYPES = st.builds(Genotype, normal=CELLS, reduce=CELLS)
CELL_NETWORKS = st.builds(
    CellNetworkSpec,
    genotype=GENOTYPES,
    layers=st.integers(3, MAX_LAYERS),
    channels=st.integers(1, MAX_CHANNELS),
    affine=st.booleans(),
    stem_stride=st.integers(1, 4),
    input=st.tuples(st.integers(1, 1_024), st.integers(1, 4_096), st.integers(1, 4_096)),
    classes=st.integers(2, 10_000),
)
