"""A small network really trained, adversarially, on scikit-learn's digits: what the attacks' tests attack.

It computes in float64 inside, and takes and returns float32. An iterative attack follows signs of gradients: where one
vanishes, the last bit decides, and in float32 that bit is another one on another processor, or in a batch of another
size. Two implementations of one attack could then only be compared on the machine that they happen to agree on.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 0.15
EPOCHS = 12


class Exact(nn.Sequential):
    """Layers computed in float64: float32 images → float32 logits, the same on every processor but for rounding."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.double()).float()


@cache
def digits(channels: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(training images, training labels, test images, test labels); images float32 (N, channels, 8, 8) in [0, 1]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1).repeat(1, channels, 1, 1)
    labels = torch.from_numpy(bunch.target).long()
    return images[:1400], labels[:1400], images[1400:], labels[1400:]


def trained_digits(channels: int = 1) -> nn.Module:
    """A CNN of two strided convolutions with batch norm, after `EPOCHS` epochs of PGD-3 training at `EPS`.

    Shared between tests, which must leave it as it was; in eval mode.
    """
    return _trained(channels)


@cache
def _trained(channels: int) -> nn.Module:
    images, labels, _, _ = digits(channels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Exact(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(images)).split(100):
                attacked = _pgd_3(model, images[batch], labels[batch])
                optimizer.zero_grad()
                F.cross_entropy(model(attacked), labels[batch]).backward()
                optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def _pgd_3(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    attacked = images + EPS * (2 * torch.rand_like(images) - 1)
    for _ in range(3):
        attacked.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(attacked), labels), attacked)
        attacked = attacked.detach() + 0.5 * EPS * gradient.sign()
        attacked = torch.min(torch.max(attacked, images - EPS), images + EPS).clamp(0, 1)
    return attacked.detach()
