"""Compiled networks: `torch.compile` for the batches of one training, and nothing of it left afterwards.

What a recipe's `compilation` names:

- "graphs": the kernels that torch has, recorded as CUDA graphs, which launch at once. Takes seconds to trace.
- "inductor": kernels that the inductor generates, fused over what lies between convolutions. Takes up to minutes.
- "inductor-graphs": both (mode "reduce-overhead").

All compute the same mathematics, and agree to rounding with each other and with no compilation at all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from rcnas_env.networks.frozen import FrozenNetwork
from rcnas_env.training.recipe import Recipe

OPTIONS: dict[str, dict[str, Any]] = {
    "graphs": {"backend": "cudagraphs"},
    "inductor": {"backend": "inductor"},
    "inductor-graphs": {"backend": "inductor", "mode": "reduce-overhead"},
}
"""Arguments of `torch.compile` by the recipe's name for them."""

ONLY_ON_GPU = ("graphs", "inductor-graphs")


def require_compiler(compilation: str, device: torch.device) -> None:
    """See that `compilation`, of a recipe, works on `device`; looked into once in a process.

    Raises:
        ValueError: it needs a GPU and `device` is none, or compiling fails, for want of a C++ compiler for instance.
    """
    if compilation == "off":
        return
    if compilation in ONLY_ON_GPU and device.type != "cuda":
        raise ValueError(f"recipe.compilation must be 'off' or 'inductor' where there is no GPU, got {compilation!r}")
    reason = failure_to_compile(compilation, device.type)
    if reason is not None:
        raise ValueError(
            f"recipe.compilation must be 'off' where torch.compile does not work, got {compilation!r}: {reason}"
        )


@functools.cache
def failure_to_compile(compilation: str, kind: str) -> str | None:
    """Why `compilation` does not work on this machine's devices of `kind` ("cpu", "cuda"); None where it does.

    Compiles one small function to find out.
    """
    attempt = torch.compile(_own_code(nn.Tanh()), dynamic=False, **OPTIONS[compilation])
    try:
        attempt(torch.zeros(64, device=kind))
    except Exception as error:  # whatever compilers and drivers raise
        # a backend's own words are on the second line
        return " ".join(str(error).strip().split("\n")[:2]) or type(error).__name__
    return None


class Compiled(nn.Module):
    """`network`, compiled for batches of `batch_size` images; batches of any other size go through it as it is.

    So the last batch of an epoch, and micro-batches where memory ran out, cost no compilation of their own. A mode of
    the network (training or evaluation), and whether gradients are wanted, is compiled when it first comes up.

    Args:
        network: images → logits. It is no submodule: its mode and its parameters are not this module's.
        batch_size: at least 1.
        compilation: a name among `OPTIONS`.
    """

    network: nn.Module
    _call: Callable[[Tensor], Tensor]

    def __init__(self, network: nn.Module, batch_size: int, compilation: str) -> None:
        super().__init__()
        self.__dict__["network"] = network
        self.batch_size = batch_size
        self._call = torch.compile(_own_code(network), dynamic=False, **OPTIONS[compilation])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        return self._call(images) if len(images) == self.batch_size else self.network(images)

    def give_up(self) -> None:
        """Be the network as it is from now on, and let go of the memory that graphs keep."""
        self.__dict__["_call"] = self.network  # no submodule


def as_asked(network: nn.Module, recipe: Recipe) -> nn.Module:
    """`network` as `recipe.compilation` says: compiled for whole batches, or as it is.

    A `FrozenNetwork`, a CPU's plan of fused operations without a graph, stays as it is: it is faster than what the
    inductor makes of a folded network there (docs/performance.md).
    """
    if recipe.compilation == "off" or isinstance(network, FrozenNetwork):
        return network
    return Compiled(network, recipe.batch_size, recipe.compilation)


def _own_code(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """`network`'s call, as a function with a code object of its own.

    Torch keeps what it compiles with the code object, and gives up on one that was compiled too often. Sharing one,
    each network that a process trains would add to that count, and stay in memory.
    """

    def call(images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        return network(images)

    return FunctionType(call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__)
