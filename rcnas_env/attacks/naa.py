"""NAA, the neuron attribution attack (Zhang et al., CVPR 2022): a transfer attack on a middle layer's features.

It is crafted on the model that it is given, its surrogate. That is the teacher where a task's attack source is
"teacher", and only then a transfer attack; on the attacked model itself it is a weak white-box attack. It is no
bound on robustness: PGD through the same model breaks more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnas_env.attacks.attack import Perturbation
from rcnas_env.attacks.catalogue import register_attack
from rcnas_env.networks.divided import Divided
from rcnas_env.validation import require_integer

PATH_POINTS = 30
"""N of the paper: points of the path integral."""

STEPS = 10
"""Of momentum FGSM, of eps / 10 each."""


def neuron_attribution_attack(
    eps: float, classes: int, *, path_points: int = PATH_POINTS, steps: int = STEPS
) -> Perturbation:
    """Lower Σ (A(x̃) − A(x′)) ⊙ W by momentum FGSM (μ = 1): `steps` steps of eps / steps, no random start.

    A is the output of `surrogate_layer(model)`, x′ = 0, and W is `attribution_weights`. With ∇ the gradient of the
    sum at x̃_t, over its mean absolute value in each image,

        g_{t+1} = g_t + ∇ / mean|∇|,    x̃_{t+1} = clip(x̃_t − eps / steps · sign g_{t+1}),

    the clip being onto the ball and [0, 1].

    Raises:
        ValueError: path_points or steps are below 1.
    """
    path_points = require_integer("path_points", path_points, 1)
    steps = require_integer("steps", steps, 1)

    def perturb(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The last iterate from the clean images; `generator` is not used. See `Perturbation`."""
        if isinstance(model, Divided):  # its layers see no whole batch, nor a graph: divide the images here
            parts = zip(images.split(model.size), labels.split(model.size), strict=True)
            return torch.cat([perturb(model.model, *part, generator) for part in parts])
        network, layer = surrogate_layer(model)
        weights = attribution_weights(network, layer, images, labels, path_points)
        low, high = (images - eps).clamp(min=0.0), (images + eps).clamp(max=1.0)
        momentum, iterate = torch.zeros_like(images), images
        for _ in range(steps):
            gradient = _feature_gradient(network, layer, iterate, weights)
            scale = gradient.abs().flatten(1).mean(dim=1).clamp(min=torch.finfo(gradient.dtype).tiny)
            momentum = momentum + gradient / scale[:, None, None, None]
            iterate = (iterate - eps / steps * momentum.sign()).clamp(low, high)
        return iterate

    return perturb


def surrogate_layer(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(the network to run, the layer of it whose output is A).

    The layer is `model.middle_layer`, or `model.network.middle_layer` for a wrapper that runs another, equal copy of
    `network`: then `network` itself is run, since a hook on its layer would not see the copy. Where there is no such
    attribute it is the middle one of the model's children, the earlier of two, inside of modules with one child; a
    model without children is its own layer, and A its logits.

    Raises:
        ValueError: `middle_layer` is not a module of the network.
    """
    for network in (model, getattr(model, "network", None)):
        if isinstance(network, nn.Module) and hasattr(network, "middle_layer"):
            layer = network.middle_layer
            if not isinstance(layer, nn.Module) or all(layer is not module for module in network.modules()):
                raise ValueError(f"middle_layer must be a module of the network, got {type(layer).__name__}")
            return network, layer
    layer = model
    while len(children := list(layer.children())) == 1:
        layer = children[0]
    return model, children[(len(children) - 1) // 2] if children else layer


def attribution_weights(
    network: nn.Module, layer: nn.Module, images: Tensor, labels: Tensor, path_points: int
) -> Tensor:
    """W = 1/N Σ_{m=1…N} ∂ softmax(f(x′ + m/N (x − x′)))_y / ∂A with x′ = 0, of the shape of A.

    For an A that is linear in x, Σ (A(x) − A(x′)) ⊙ W tends to softmax_y(x) − softmax_y(x′) as N grows, the
    completeness of integrated gradients. Works under no_grad; parameters get no gradient.

    Args:
        network: images → logits (N, classes).
        layer: one of its modules, or itself.
        images: float32 in [0, 1], (N, channels, height, width).
        labels: int64 (N,).
        path_points: N, at least 1.

    Raises:
        ValueError: the layer is not called in a forward pass, or does not return one tensor.
    """
    weights: Tensor | None = None
    for point in range(1, path_points + 1):
        with torch.enable_grad():
            inputs = (images.detach() * (point / path_points)).requires_grad_()
            features, logits = _features_and_logits(network, layer, inputs)
            own = logits.float().softmax(dim=1).gather(1, labels[:, None])
            (gradient,) = torch.autograd.grad(own.sum(), features)
        weights = gradient / path_points if weights is None else weights + gradient / path_points
    assert weights is not None
    return weights.detach()


def _feature_gradient(network: nn.Module, layer: nn.Module, images: Tensor, weights: Tensor) -> Tensor:
    """∂ Σ A(x) ⊙ W / ∂x, of the images' shape, 0 where it is not finite; A(x′) is constant and drops out."""
    with torch.enable_grad():
        inputs = images.detach().requires_grad_()
        features, _ = _features_and_logits(network, layer, inputs)
        (gradient,) = torch.autograd.grad((features * weights).sum(), inputs)
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def _features_and_logits(network: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """(A, logits) of one forward pass; the hook is gone afterwards, also after an exception."""
    outputs: list[object] = []

    def keep(module: nn.Module, arguments: object, output: object) -> object:
        """The hook: keep the layer's output as A and hand on a copy."""
        outputs.append(output)
        # A layer behind it that works in place must not overwrite A.
        return output.clone() if isinstance(output, Tensor) else output

    hook = layer.register_forward_hook(keep)
    try:
        logits = network(images)
    finally:
        hook.remove()
    if not outputs or not isinstance(outputs[-1], Tensor):
        given = f"returns {type(outputs[-1]).__name__}" if outputs else "is not called in a forward pass"
        raise ValueError(
            f"middle_layer must be a module that returns one tensor, got {type(layer).__name__}: it {given}"
        )
    return outputs[-1], logits


register_attack(
    "naa",
    neuron_attribution_attack,
    summary="neuron attribution in a middle layer of the model it is crafted on; a transfer attack, no lower bound",
)
