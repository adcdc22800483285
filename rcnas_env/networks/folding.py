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

from rcnas_env.networks.convolution import Convolution


class FoldedTwin:
    """A twin that shares every parameter of `network` but those that it folds.

    `module` is the twin, to be called in evaluation mode; `refresh` brings it up to date with the network's
    weights. Layers that are not folded are shared, so that `network.eval()` is what puts both in that mode; the
    modules around them are copies, which are in it from the start.

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
        ours = {id(leaf) for leaf in leaves}
        for module in self.module.modules():
            if id(module) not in ours:
                module.training = False
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Fold the network's present weights and statistics."""
        for conv, bn, folded in self._folds:
            assert folded.bias is not None
            scale, shift = affine(bn)
            torch.mul(conv.weight, scale[:, None, None, None], out=folded.weight)
            folded.bias.copy_(shift if conv.bias is None else shift + conv.bias * scale)


def affine(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(scale, shift), each (channels,), detached: the affine map that a batch norm is in evaluation mode."""
    assert bn.running_var is not None and bn.running_mean is not None
    scale = torch.rsqrt(bn.running_var + bn.eps)
    if bn.weight is not None:
        scale = scale * bn.weight.detach()
    shift = -bn.running_mean * scale
    return scale, shift if bn.bias is None else shift + bn.bias.detach()


def _folded_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """A frozen convolution of the same kind and shape, with a bias."""
    with torch.device("meta"):
        folded = (Convolution if isinstance(conv, Convolution) else nn.Conv2d)(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            groups=conv.groups,
            padding_mode=conv.padding_mode,
            dtype=conv.weight.dtype,
        )
    folded.to_empty(device=conv.weight.device)
    folded.weight.data = torch.empty_like(conv.weight.detach())  # of its memory format
    return folded.requires_grad_(False)
