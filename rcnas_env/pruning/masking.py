"""Masks put on a network's layers and taken off again, in the three states that pruning goes through.

plain:   weights and biases are parameters;
scored:  they are buffers, which no optimizer moves and no `requires_grad_` thaws; the scores are parameters;
masked:  they are parameters again, under a fixed mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from rcnas_env.pruning.macs import prunable_layers
from rcnas_env.pruning.mask import FixedMask, ScoredMask

Mask = TypeVar("Mask", bound=ScoredMask)


def put_scores(model: nn.Module, make: Callable[[Tensor], Mask]) -> dict[str, Mask]:
    """Plain → scored: freeze all convolutions and linear layers, each under the mask that `make` makes of its weight.

    Batch norms stay as they are and go on learning, as in both papers' published code.

    Returns:
        The masks by the layers' names, in order.
    """
    masks = {}
    for name, layer in prunable_layers(model).items():
        weight, bias = layer.weight.detach(), layer.bias
        del layer.weight
        layer.register_buffer("weight", weight)
        if bias is not None:
            del layer.bias
            layer.register_buffer("bias", bias.detach())
        masks[name] = make(weight)
        parametrize.register_parametrization(layer, "weight", masks[name])
    return masks


def fix_masks(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Scored → masked: thaw the layers, each under its fixed mask (ones and zeros of the weight's shape)."""
    for name, layer in prunable_layers(model).items():
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        _make_plain(layer, layer.weight, layer.bias)
        parametrize.register_parametrization(layer, "weight", FixedMask(masks[name]))


def take_off_masks(model: nn.Module) -> None:
    """Masked → plain: zeros stand where the mask had zeros, and names and order of the parameters are as before."""
    for layer in prunable_layers(model).values():
        weight = layer.weight.detach()
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        _make_plain(layer, weight, layer.bias)


def _make_plain(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Make weight and bias parameters, in this order, whatever they were."""
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            delattr(layer, name)
            layer.register_parameter(name, nn.Parameter(value.detach()))
