"""The multi-head policy (Eq. 3): a shared trunk, a Gaussian head and a Bernoulli head; the hybrid distribution.

| symbol | here | shape |
|---|---|---|
| s_t^i | `states[:, i]` | (B, state) |
| μ_i, Σ_i = diag(σ²) | `mean`, `log_std` | (B, N_stage, 2) |
| p_i | sigmoid of `logits` | (B, N_stage, 2) |
| α_i ~ N(μ_i, Σ_i) | `alpha` | (B, N_stage, 2) |
| β_i ~ Ber(p_i) | `beta` | (B, N_stage, 2) |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.seeded_modules import seeded_initialisation

LOG_STD_RANGE = (-3.0, 1.0)
"""Bounds of log σ: below, exploration is over; above, σ(α) is all but binary."""


@dataclass(frozen=True)
class HybridDistribution:
    """N(α | mean, diag(exp(2 log_std))) × Ber(β | sigmoid(logits)), independent over stages and entries."""

    mean: Tensor
    log_std: Tensor
    logits: Tensor

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(α, β), each (B, N_stage, 2), without gradient; β in {0, 1}."""
        with torch.no_grad():
            noise = torch.randn(self.mean.shape, generator=generator)
            uniform = torch.rand(self.logits.shape, generator=generator)
            alpha = self.mean + self.log_std.exp() * noise
            return alpha, (uniform < torch.sigmoid(self.logits)).float()

    def mode(self) -> tuple[Tensor, Tensor]:
        """The most likely (α, β)."""
        return self.mean.detach(), (self.logits.detach() > 0).float()

    def log_prob(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """The sum of log N(α) + log Ber(β) over stages and entries: (B,)."""
        gaussian, bernoulli = self._log_probs(alpha, beta)
        return (gaussian + bernoulli).flatten(1).sum(dim=1)

    def density(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """What stands in Eq. 5, to the letter: Σ_i N(α_i | μ_i, Σ_i) + Ber(β_i | p_i), of two entries each; (B,)."""
        gaussian, bernoulli = self._log_probs(alpha, beta)
        return (gaussian.sum(dim=2).exp() + bernoulli.sum(dim=2).exp()).sum(dim=1)

    def _log_probs(self, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Log N(α) and log Ber(β) of each entry: (B, N_stage, 2) each."""
        standard = (alpha - self.mean) / self.log_std.exp()
        gaussian = -0.5 * standard**2 - self.log_std - 0.5 * math.log(2 * math.pi)
        return gaussian, -F.binary_cross_entropy_with_logits(self.logits, beta, reduction="none")

    def entropy(self) -> Tensor:
        """Differential entropy of α plus entropy of β, in nats: (B,)."""
        gaussian = self.log_std + 0.5 * (1 + math.log(2 * math.pi))
        bernoulli = F.binary_cross_entropy_with_logits(self.logits, torch.sigmoid(self.logits), reduction="none")
        return (gaussian + bernoulli).flatten(1).sum(dim=1)


def to_action(alpha: Tensor, beta: Tensor) -> dict[str, NDArray[np.float32] | NDArray[np.int8]]:
    """Eq. 3's a_t = concat(σ(α), β) as RCNASEnv's action, batched: keep, switch (B, N_stage, 2)."""
    return {"keep": torch.sigmoid(alpha).numpy().astype(np.float32), "switch": beta.numpy().astype(np.int8)}


class HybridPolicy(nn.Module):
    """f_φ: the trunk φ_E is shared by both heads and all stages; each stage has its own φ_N and φ_B.

    Args:
        state: size of s_t^i.
        stages: N_stage.
        hidden: width of the trunk.
        initial_std: σ of every α at the start.
        seed: of the initial weights.
    """

    def __init__(self, state: int, stages: int = 3, hidden: int = 64, initial_std: float = 1.0, seed: int = 0) -> None:
        super().__init__()
        with seeded_initialisation(seed):
            self.trunk = nn.Sequential(nn.Linear(state, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())
            self.gaussian = nn.ModuleList(nn.Linear(hidden, 4) for _ in range(stages))
            self.bernoulli = nn.ModuleList(nn.Linear(hidden, 2) for _ in range(stages))
        for head in (*self.gaussian, *self.bernoulli):  # start at σ(α) around a half, switches at even odds
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.bias)
            with torch.no_grad():
                head.weight.mul_(0.1)
        with torch.no_grad():
            for head in self.gaussian:
                head.bias[2:] = math.log(initial_std)  # type: ignore[operator]

    def forward(self, states: Tensor) -> HybridDistribution:
        """The distribution of actions in `states` (B, N_stage, state)."""
        shared = self.trunk(states)
        gaussian = torch.stack([head(shared[:, i]) for i, head in enumerate(self.gaussian)], dim=1)
        logits = torch.stack([head(shared[:, i]) for i, head in enumerate(self.bernoulli)], dim=1)
        mean, log_std = gaussian.split(2, dim=-1)
        return HybridDistribution(mean, log_std.clamp(*LOG_STD_RANGE), logits)
