"""A frozen residual network: for evaluation mode, and for gradients of the images alone.

In the inner maximisation of adversarial training and in attacks a network is evaluated, and differentiated by its
input, many times between two updates of its weights. Frozen, it is a flat sequence of fused operations: batch norms
folded into the convolutions before them, weights laid out once for both directions, no module calls, no autograd
graph. The results are the network's to rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rcnas_env.networks import pixel_major
from rcnas_env.networks.basic_block import BasicBlock
from rcnas_env.networks.folding import FoldedTwin
from rcnas_env.networks.frozen.blocks import FrozenActivation, FrozenBasicBlock, FrozenPart
from rcnas_env.networks.frozen.convolution import FrozenConvolution
from rcnas_env.networks.frozen.kernels import Saved, Size
from rcnas_env.networks.frozen.robust_block import FrozenRobustBlock
from rcnas_env.networks.residual_network import ResidualNetwork


class FrozenNetwork(nn.Module):
    """`network` in evaluation mode, as a module of its own: images → logits, differentiable by the images.

    Its weights are those of the last `refresh`. It has no parameters; `network` stays as it is, and reachable.

    Args:
        network: a residual network; its train or eval mode plays no part.
        dtype: what weights and feature maps are computed in; logits are float32.
        pixels_first: whether feature maps are pixel-major (`rcnas_env.networks.pixel_major`), not channels-last; None
            for what is faster: in bfloat16 they are.
    """

    network: ResidualNetwork

    def __init__(
        self, network: ResidualNetwork, dtype: torch.dtype = torch.float32, pixels_first: bool | None = None
    ) -> None:
        super().__init__()
        self.__dict__["network"] = network  # no submodule: its mode and its parameters are not this module's
        self.dtype = dtype
        self.pixels_first = dtype == torch.bfloat16 if pixels_first is None else pixels_first
        self._plans: dict[Size, _Plan] = {}

    def refresh(self) -> None:
        """Take over the network's present weights and statistics."""
        with torch.no_grad(), _own_precision():
            for plan in self._plans.values():
                plan.refresh(self.dtype)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 (N, classes), of images (N, channels, H, W)."""
        plan = self._plan((images.shape[2], images.shape[3]))
        if torch.is_grad_enabled() and images.requires_grad:
            return _Forward.apply(images, plan, self.dtype)
        with _own_precision():
            return plan.forward(plan.lay_out(images.to(self.dtype)), keep=False)[0].float()

    def _plan(self, size: Size) -> _Plan:
        if size not in self._plans:
            with torch.no_grad(), _own_precision():
                self._plans[size] = _Plan(self.network, size, self.pixels_first)
                self._plans[size].refresh(self.dtype)
        return self._plans[size]


class _Forward(torch.autograd.Function):
    """A plan as one node of the caller's graph."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, plan: _Plan, dtype: torch.dtype) -> Tensor:
        """Logits, float32; what the backward pass needs is kept."""
        with _own_precision():
            logits, ctx.saved = plan.forward(plan.lay_out(images.to(dtype)), keep=True)
        ctx.plan, ctx.dtype = plan, images.dtype
        return logits.float()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The images' gradient."""
        with _own_precision():
            return ctx.plan.backward(gradient, ctx.saved).to(ctx.dtype), None, None


def _own_precision() -> torch.autocast:
    """No autocast: a plan says itself what is computed in which precision, and each cast costs."""
    return torch.autocast("cpu", enabled=False)


class _Plan:
    """The sequence of operations for images of one size."""

    def __init__(self, network: ResidualNetwork, size: Size, pixels_first: bool) -> None:
        self.pixels_first = pixels_first
        self.stem = FrozenConvolution(network.stem, None, False, size, pixels_first)
        self.blocks: list[FrozenPart] = []
        size = self.stem.out_size
        for module in (block for stage in network.stages for block in stage):  # type: ignore[attr-defined]
            part = FrozenBasicBlock if isinstance(module, BasicBlock) else FrozenRobustBlock
            self.blocks.append(part(module, size, pixels_first))
            size = self.blocks[-1].out_size
        self.size = size
        self.activation = FrozenActivation(network.bn, pixels_first)
        self.classifier = network.classifier

    def refresh(self, dtype: torch.dtype) -> None:
        """Prepare the present weights of every part, as `dtype`."""
        self.stem.refresh(dtype)
        for block in self.blocks:
            block.refresh(dtype)
        self.activation.refresh(dtype)
        self.weight, self.bias = self.classifier.weight.detach().to(dtype), self.classifier.bias.detach().to(dtype)

    def lay_out(self, images: Tensor) -> Tensor:
        """`images` in the memory layout of the feature maps."""
        if self.pixels_first:
            return pixel_major.lay_out(images)
        return images.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor, keep: bool) -> tuple[Tensor, list[Saved]]:
        """(logits, what `backward` needs; empty unless `keep`)."""
        x = self.stem.forward(images)
        saved: list[Saved] = []
        for block in self.blocks:
            x, needed = block.forward(x)
            if keep:
                saved.append(needed)
        features = self.activation.forward(x)
        if keep:
            saved.append(features)
        return torch.addmm(self.bias, features.mean(dim=(2, 3)), self.weight.T), saved

    def backward(self, gradient: Tensor, saved: list[Saved]) -> Tensor:
        """The images' gradient from that of the logits."""
        features = saved[-1]
        pooled = gradient.to(features.dtype) @ self.weight / (self.size[0] * self.size[1])
        spread = torch.empty_like(features).copy_(pooled[:, :, None, None])
        x = self.activation.backward(spread, features)
        for block, needed in zip(reversed(self.blocks), reversed(saved[:-1]), strict=True):
            x = block.backward(x, needed)
        return self.stem.backward(x, x)


class FrozenTwin(nn.Module):
    """A folded twin under the interface of `FrozenNetwork`: for networks and devices that have no plan.

    Args:
        network: in evaluation mode when this is called.
    """

    network: nn.Module
    _twin: FoldedTwin

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.__dict__["network"] = network  # as in FrozenNetwork
        self.__dict__["_twin"] = FoldedTwin(network)

    def refresh(self) -> None:
        """Take over the network's present weights and statistics."""
        self._twin.refresh()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        return self._twin.module(images)


def freeze(network: nn.Module, dtype: torch.dtype = torch.float32) -> FrozenNetwork | FrozenTwin:
    """`network` at rest, by the fastest way there is for it where it is.

    Args:
        network: stays as it is; its weights are taken over now and by `refresh`.
        dtype: that a residual network on a CPU is computed in; others follow the caller's autocast.
    """
    if isinstance(network, ResidualNetwork) and network.stem.weight.is_cpu:
        return FrozenNetwork(network, dtype)
    return FrozenTwin(network)
