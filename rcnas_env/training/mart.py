"""MART (Wang et al. 2020), misclassification-aware adversarial training: the outer loss.

minimise  BCE(p(x̃), y) + β · KL(p(x) ‖ p(x̃)) · (1 − p_y(x)),
          BCE(p, y) = −log p_y − log(1 − max_{k≠y} p_k),

with p = softmax ∘ f and x̃ from the maximisation of CE(f(x̃), y); β is the paper's λ.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

MARGIN = 1.0001
"""Stands for the 1 in 1 − max_{k≠y} p_k (published code): a wrong probability of 1 costs log 10⁴, not infinity."""

TINY = 1e-12
"""Added to probabilities inside a logarithm (published code): a vanished one costs log 10¹², not infinity."""

WHOLE = 1.0000001
"""Stands for the 1 in 1 − p_y(x) (published code); below the precision of a float32, where it rounds to 1 + 2⁻²³."""


def mart_loss(clean_logits: Tensor, perturbed_logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    """The outer loss, a scalar, mean over images; finite with finite gradients as long as differences of
    logits are.

    Gradients flow through both predictions, the weight 1 − p_y(x) among them, as in the published code.

    Args:
        clean_logits, perturbed_logits: (N, classes), at least two classes.
        labels: int64 (N,).
        beta: weight of the second term, the paper's λ (6 in the authors' script for wide residual networks).
    """
    clean, perturbed = F.softmax(clean_logits, dim=1), F.softmax(perturbed_logits, dim=1)
    index = labels[:, None]
    largest_wrong = perturbed.scatter(1, index, 0.0).amax(dim=1)
    boosted = F.cross_entropy(perturbed_logits, labels) - (MARGIN - largest_wrong + TINY).log().mean()
    # log p(x) comes from the logits: p log p of a vanished p would have no gradient to speak of
    divergence = (clean * (F.log_softmax(clean_logits, dim=1) - (perturbed + TINY).log())).sum(dim=1)
    weight = WHOLE - clean.gather(1, index).squeeze(1)
    return boosted + beta * (divergence * weight).mean()
