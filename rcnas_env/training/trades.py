"""TRADES (Zhang et al. 2019): the outer loss, as a pure function of tensors.

minimise  CE(f(x), y) + β · KL(softmax f(x) ‖ softmax f(x̃)),   x̃ = argmax over ‖x̃ − x‖_∞ ≤ ε of the same KL.

The maximisation is `rcnas_env.training.inner_maximisation`'s.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def trades_loss(clean_logits: Tensor, perturbed_logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    """The outer loss, a scalar: cross-entropy on clean images + β · KL(clean ‖ perturbed), mean over images.

    Gradients flow through both predictions.

    Args:
        clean_logits, perturbed_logits: (N, classes).
        labels: int64 (N,).
        beta: weight of the second term, 1/λ.
    """
    # both as logarithms: where a probability underflows, 0 · log 0 would have no gradient
    log_perturbed, log_clean = F.log_softmax(perturbed_logits, dim=1), F.log_softmax(clean_logits, dim=1)
    divergence = F.kl_div(log_perturbed, log_clean, reduction="batchmean", log_target=True)
    return F.cross_entropy(clean_logits, labels) + beta * divergence
