"""One guard around every attack: what it finds, it leaves as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


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
    with _frozen(model), _random_streams(seed, torch.device(device)), torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    # Flag by flag: model.train() afterwards would wake submodules that the caller keeps in eval mode.
    training = [(module, module.training) for module in model.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, flag in training:
            module.training = flag
        for parameter, required in trainable:
            parameter.requires_grad_(required)


@contextmanager
def _random_streams(seed: int, device: torch.device) -> Iterator[None]:
    # torch.manual_seed, which torchattacks calls too, seeds every CUDA device, not only the one in use.
    cuda = device.type == "cuda" or torch.cuda.is_initialized()
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (to restore the global one)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if cuda else ()):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if not cuda:
            # Without CUDA started, torch keeps the last seed to apply at its start: make that the caller's again.
            torch.cuda.manual_seed_all(torch.initial_seed())
