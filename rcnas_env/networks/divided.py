"""A network that takes its images in parts, where memory does not suffice for all of them at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Divided(nn.Module):
    """`model`, in evaluation mode, on at most `size` images at a time.

    Feature maps are computed again for the gradient, a part at a time. Gradients reach the images, not the parameters.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        self.model, self.size = model, size

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, H, W)."""
        if torch.is_grad_enabled() and images.requires_grad:
            logits: Tensor = _InParts.apply(images, self.model, self.size)
            return logits
        return torch.cat([self.model(part) for part in images.split(self.size)])


class _InParts(torch.autograd.Function):
    """Forward without a graph; backward by a graph for each part, which is gone before the next."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, model: nn.Module, size: int) -> Tensor:
        """Logits; the images alone are kept."""
        ctx.save_for_backward(images)
        kind = images.device.type
        ctx.model, ctx.size = model, size
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        return torch.cat([model(part) for part in images.split(size)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The images' gradient."""
        (images,) = ctx.saved_tensors
        kind, dtype, enabled = ctx.autocast
        gradients = list[Tensor]()
        # on a GPU this runs in a thread of autograd's, which knows nothing of the caller's autocast
        with torch.enable_grad(), torch.autocast(kind, dtype=dtype, enabled=enabled):
            for part, own in zip(images.split(ctx.size), gradient.split(ctx.size), strict=True):
                leaf = part.detach().requires_grad_(True)
                gradients += torch.autograd.grad(ctx.model(leaf), leaf, own)
        return torch.cat(gradients), None, None
