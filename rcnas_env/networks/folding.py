"""A twin of a network for evaluation mode: batch norms folded into the convolutions before them.

In evaluation mode a batch norm after a convolution is an affine map of its output, and so part of the convolution:

    bn(W ∗ x) = (s ⊙ W) ∗ x + (β − s μ),    s = γ / √(σ² + eps).

The result is the same to rounding. It pays wherever a network is evaluated many times between two updates of its
weights: in the inner maximisation of adversarial training, and in attacks.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

DENSE_WIDTH = 16
"""Grouped convolutions of at most so many channels become dense ones on a CPU: many tiny groups cost it more than
the zeros do."""


class FoldedTwin:
    """A twin that shares every parameter of `network` but those that it folds.

    `module` is the twin, to be called in evaluation mode; `refresh` brings it up to date with the network's
    weights. Modules that are not folded are shared, so that `network.eval()` is what puts both in that mode.

    Args:
        network: its blocks say by `folded_pairs()` which batch norms follow which convolutions directly.
    """

    def __init__(self, network: nn.Module) -> None:
        pairs = [
            pair
            for module in network.modules()
            if hasattr(module, "folded_pairs")
            for pair in module.folded_pairs()  # type: ignore[operator]
        ]
        self._folds = [(conv, bn, _folded_conv(conv)) for conv, bn in pairs]
        inside = {id(module) for pair in pairs for module in pair}
        leaves = [m for m in network.modules() if not any(m.children()) and id(m) not in inside]
        shared = (*leaves, *network.parameters(), *network.buffers())
        known: dict[int, object] = {id(part): part for part in shared}
        for conv, bn, folded in self._folds:
            known[id(conv)], known[id(bn)] = folded, nn.Identity()
        self.module: nn.Module = copy.deepcopy(network, known)  # copies containers; all else comes out of `known`
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Fold the network's present weights and statistics."""
        for conv, bn, folded in self._folds:
            assert bn.running_var is not None and bn.running_mean is not None and folded.bias is not None
            scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
            _copy_weight(conv.weight * scale[:, None, None, None], conv.groups, folded)
            mean = bn.running_mean if conv.bias is None else bn.running_mean - conv.bias
            folded.bias.copy_(bn.bias - mean * scale)


def _folded_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """A frozen convolution of the same map with a bias; a narrow grouped one becomes dense on a CPU."""
    narrow = conv.groups > 1 and conv.out_channels <= DENSE_WIDTH and conv.weight.device.type == "cpu"
    with torch.device("meta"):
        folded = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            groups=1 if narrow else conv.groups,
            padding_mode=conv.padding_mode,
            dtype=conv.weight.dtype,
        )
    folded.to_empty(device=conv.weight.device)
    assert folded.bias is not None
    layout = torch.channels_last if conv.weight.is_contiguous(memory_format=torch.channels_last) else None
    folded.weight.data = torch.zeros_like(folded.weight, memory_format=layout or torch.contiguous_format)
    return folded.requires_grad_(False)


def _copy_weight(weight: Tensor, groups: int, folded: nn.Conv2d) -> None:
    """Copy a grouped weight (out, in / groups, k, k); into a dense one along its block diagonal."""
    if folded.groups == groups:
        folded.weight.copy_(weight)
        return
    out, inside, *kernel = weight.shape
    blocks = folded.weight.view(groups, out // groups, groups, inside, *kernel)
    diagonal = blocks.diagonal(dim1=0, dim2=2)  # (out / groups, in / groups, k, k, groups)
    diagonal.copy_(weight.view(groups, out // groups, inside, *kernel).permute(1, 2, 3, 4, 0))
