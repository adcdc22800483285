"""The state encoder (Eq. 2; Figure 2a) and its pre-training as an auto-encoder (Eq. 10; Figure 5).

| symbol | here | shape |
|---|---|---|
| ST_i | `features.stages[:, i]` | (B, 4) |
| LIPS | `features.lips` | (B, n_eval) |
| CT | `features.cost` | (B, n_eval) |
| H_i^F, H_i^B | halves of the LSTM's output at stage i | (B, hidden) each |
| s_t^i | `StateEncoder.forward(...)[:, i]` | (B, state) |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.seeded_modules import seeded_initialisation

STAGE_FEATURES = 4


@dataclass(frozen=True)
class Features:
    """An observation batch on scales that a network can use: stages (B, N_stage, 4), lips and cost (B, n_eval)."""

    stages: Tensor
    lips: Tensor
    cost: Tensor


def features(observation: Mapping[str, NDArray[Any]]) -> Features:
    """Put observations on fixed logarithmic scales, so that no running statistics tie a state to its history.

    planes → log2(1 + planes) / 10; blocks → log2(1 + blocks) / 5; LIPS → log10(1 + LIPS); GMACs → (3 +
    log10(GMACs)) / 4, which is 0 at a million MACs and about 1 at 10 G. All end up between about −1 and 3.

    Args:
        observation: of RCNASEnv, single or batched (a leading axis).
    """
    stages, lips, cost = (torch.as_tensor(np.asarray(observation[k], np.float32)) for k in ("stages", "lips", "cost"))
    if stages.ndim == 2:
        stages, lips, cost = stages[None], lips[None], cost[None]
    sizes = torch.log2(1 + stages[..., :2]) / stages.new_tensor([10.0, 5.0])
    return Features(
        torch.cat([sizes, stages[..., 2:]], dim=-1),
        torch.log10(1 + lips),
        (3 + torch.log10(cost.clamp_min(1e-9))) / 4,
    )


class StateEncoder(nn.Module):
    """SE(·|θ): a bidirectional LSTM over the stages, then MLP_i per stage on concat(LIPS, H_i^F, H_i^B, CT).

    Args:
        n_eval: length of LIPS and CT.
        stages: N_stage.
        hidden: size of each LSTM direction.
        state: size of s_t^i.
        seed: of the initial weights.
    """

    def __init__(self, n_eval: int, stages: int = 3, hidden: int = 16, state: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.n_eval, self.stages, self.hidden, self.state = n_eval, stages, hidden, state
        width = 2 * n_eval + 2 * hidden
        with seeded_initialisation(seed):
            self.lstm = nn.LSTM(STAGE_FEATURES, hidden, batch_first=True, bidirectional=True)
            self.mlps = nn.ModuleList(
                nn.Sequential(nn.Linear(width, 2 * state), nn.Tanh(), nn.Linear(2 * state, state))
                for _ in range(stages)
            )

    def forward(self, inputs: Features) -> Tensor:
        """s_t = concat of s_t^i: (B, N_stage, state)."""
        encodings, _ = self.lstm(inputs.stages)
        states = [mlp(torch.cat([inputs.lips, encodings[:, i], inputs.cost], dim=1)) for i, mlp in enumerate(self.mlps)]
        return torch.stack(states, dim=1)

    @torch.no_grad()
    def encode(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The flat state of one observation, float32 (N_stage · state,), for `rcnas_env.wrappers.EncodedState`."""
        return self(features(observation)).flatten().numpy()


class StateDecoder(nn.Module):
    """DE(·|θ_d): from s_t^i back to concat(LIPS, ST_i, CT); pre-training only."""

    def __init__(self, encoder: StateEncoder, seed: int = 0) -> None:
        super().__init__()
        self.n_eval = encoder.n_eval
        width = 2 * encoder.n_eval + STAGE_FEATURES
        with seeded_initialisation(seed):
            self.mlps = nn.ModuleList(
                nn.Sequential(
                    nn.Linear(encoder.state, 2 * encoder.state), nn.Tanh(), nn.Linear(2 * encoder.state, width)
                )
                for _ in range(encoder.stages)
            )

    def forward(self, states: Tensor) -> Features:
        """Reconstruct from (B, N_stage, state); lips and cost keep their stage axis: (B, N_stage, n_eval)."""
        outputs = torch.stack([mlp(states[:, i]) for i, mlp in enumerate(self.mlps)], dim=1)
        lips, stages, cost = outputs.split([self.n_eval, STAGE_FEATURES, self.n_eval], dim=-1)
        return Features(stages, lips, cost)


def reconstruction_loss(inputs: Features, outputs: Features) -> Tensor:
    """Eq. 10: the squared error of LIPS, ST_i and CT, a scalar.

    Each of the three counts its own mean: in one mean over the concatenation the 4 numbers of ST_i would be
    lost among the 2 · n_eval others, and the encoder would learn to ignore the architecture.
    """
    lips = F.mse_loss(outputs.lips, inputs.lips.unsqueeze(1).expand_as(outputs.lips))
    cost = F.mse_loss(outputs.cost, inputs.cost.unsqueeze(1).expand_as(outputs.cost))
    return lips + F.mse_loss(outputs.stages, inputs.stages) + cost


def pretrain(
    encoder: StateEncoder,
    observations: Mapping[str, NDArray[Any]],
    steps: int = 500,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
    on_step: Callable[[float], None] | None = None,
) -> list[float]:
    """Pre-train `encoder` with a decoder on a batch of observations (Eq. 10), then freeze it.

    Args:
        observations: batched RCNASEnv observations of diverse tasks.
        steps: optimizer steps (Adam).
        seed: of the decoder's weights and the batches.
        on_step: called with each step's loss.

    Returns:
        The loss of every step.
    """
    inputs = features(observations)
    decoder = StateDecoder(encoder, seed)
    encoder.requires_grad_(True)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(inputs.lips), (batch_size,), generator=generator)
        batch = Features(inputs.stages[chosen], inputs.lips[chosen], inputs.cost[chosen])
        loss = reconstruction_loss(batch, decoder(encoder(batch)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if on_step:
            on_step(losses[-1])
    encoder.requires_grad_(False)
    return losses
