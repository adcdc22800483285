"""Grouped convolutions as dense ones."""

from __future__ import annotations

from torch import Tensor


def dense_weight(weight: Tensor, groups: int) -> Tensor:
    """A grouped weight (out, in / groups, k, k) as a dense one (out, in, k, k); zeros between the groups."""
    out, inside, height, width = weight.shape
    dense = weight.new_zeros(groups, out // groups, groups, inside, height, width)
    blocks = weight.view(groups, out // groups, inside, height, width)
    dense.diagonal(dim1=0, dim2=2).copy_(blocks.permute(1, 2, 3, 4, 0))
    return dense.view(out, groups * inside, height, width)
