"""Size of a network with zeros among its weights, dense and without the zeros."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PRUNABLE = (nn.Conv2d, nn.Linear)
"""Layers whose weights are pruned."""


@dataclass(frozen=True)
class NetworkSize:
    """What a network costs with and without the zeros among the weights of its convolutions and linear layers.

    MACs are multiply-accumulates of one image, as in `rcnas_env.cost`; a weight is used once at each output pixel,
    so that a layer has (weights that are not zero) × (output pixels) of them. Biases, batch norm and its parameters
    are never pruned: `nonzero_params` has them all.

    A dense fast path multiplies zeros too: `dense_macs` is what such hardware does, `nonzero_macs` what one that
    skips every zero would do.
    """

    dense_macs: int
    nonzero_macs: int
    dense_params: int
    nonzero_params: int


def prunable_layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers of `model` by name, in order: stem, shortcuts and classifier among them."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PRUNABLE)}


def network_size(model: nn.Module, image: Tensor) -> NetworkSize:
    """Measure `model` as it is; output pixels come from one forward pass in evaluation mode.

    Args:
        model: images → logits; every module's own mode is restored.
        image: one image (1, channels, height, width) on the model's device; its values do not matter.
    """
    layers = prunable_layers(model)
    pixels = dict.fromkeys(layers, 0)
    handles = [layer.register_forward_hook(_counter(pixels, name, layer)) for name, layer in layers.items()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(image)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    nonzero = {name: int(torch.count_nonzero(layer.weight)) for name, layer in layers.items()}
    params = sum(parameter.numel() for parameter in model.parameters())
    zeros = sum(layer.weight.numel() - nonzero[name] for name, layer in layers.items())
    return NetworkSize(
        dense_macs=sum(layer.weight.numel() * pixels[name] for name, layer in layers.items()),
        nonzero_macs=sum(nonzero[name] * pixels[name] for name in layers),
        dense_params=params,
        nonzero_params=params - zeros,
    )


def _counter(
    pixels: dict[str, int], name: str, layer: nn.Conv2d | nn.Linear
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A hook that adds the layer's output pixels of one image; a layer may be called more than once."""

    def count(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """The forward hook; `output` is (N, channels, height, width) or (N, features), N = 1."""
        pixels[name] += output.numel() // len(layer.weight)

    return count
