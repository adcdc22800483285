"""One guard around every attack: what it finds, it leaves as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rcnas_env.random_streams import lent_random_streams


@contextmanager
def attack_guard(model: nn.Module, seed: int, device: torch.device | str) -> Iterator[None]:
    """Inside, `model` is frozen and in eval mode, gradients can be taken and every global random stream is seeded.

    Afterwards, also after an exception, all is as before: every module's own `training` flag, every parameter's
    `requires_grad` and `grad`, and the random streams of torch (CPU and CUDA), numpy and Python. Batch statistics
    do not move, since nothing runs in training mode. Attacks draw from the generator they are given; the global
    streams are seeded for the libraries that draw from those, AutoAttack's components among them.

    Args:
        model: the model that is attacked.
        seed: in [0, 2**63).
        device: where the attack runs.
    """
    # Tensors made under inference mode could not be differentiated, whatever the gradient mode.
    with _frozen(model), lent_random_streams(seed, device), torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    # Flag by flag: model.train() afterwards would wake submodules that the caller keeps in eval mode.
    training = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _, _ in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter, required, gradient in trainable:
            parameter.requires_grad_(required)
            parameter.grad = gradient
