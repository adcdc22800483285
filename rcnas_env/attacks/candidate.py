"""The search space of `rcnas_env.attacks.discovered`: FGSM, PGD or APGD, on one of four losses, and how one runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnas_env.attacks.apgd import ascend
from rcnas_env.attacks.attack import is_correct
from rcnas_env.attacks.gradient import margins

CE_WEIGHT = 0.01
"""Of the mean cross-entropy in a score, beside the success rate."""

STEPS, STEP_SIZE, RESTARTS, MOST_TARGETS = (20, 200), (1e-3, 1.0), (1, 10), 9
"""The paper's ranges: of PGD and APGD, and the step of PGD as a share of eps."""

DLR_CLASSES, TARGETED_DLR_CLASSES = 3, 4
"""The fewest classes that the DLR losses are defined for."""

Ascend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (n, classes), labels (n,), rows (n,)) → what to ascend, (n,)."""


@dataclass(frozen=True)
class Candidate:
    """One point of the search space.

    attack: "fgsm" (one step of eps, no random start), "pgd" (uniform start) or "apgd" (Croce and Hein 2020).
    loss: "ce", "dlr", "hinge" or "l1"; see `loss_values`.
    probabilities: whether the loss takes softmax outputs in place of logits; never for "ce", which does by itself.
    targets: 0 untargeted, else k: the k most likely wrong classes in turn.
    steps: of one run.
    step_size: of PGD, as a share of eps.
    restarts: runs for each target.
    """

    attack: Literal["fgsm", "pgd", "apgd"]
    loss: Literal["ce", "dlr", "hinge", "l1"]
    probabilities: bool = False
    targets: int = 0
    steps: int = 1
    step_size: float = 1.0
    restarts: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a candidate did to n images: `points` (the image itself where it failed), bool `broken` (n,), `score`."""

    points: Tensor
    broken: Tensor
    score: float


def suggest(trial: Any, classes: int, gradients: int) -> Candidate:
    """The candidate that a trial of optuna, or anything with its suggest_* methods, asks for.

    Losses that `classes` are too few for are not in the space: DLR needs 3, with targets 4. No run has more steps than
    `gradients`, at least 1.
    """
    attack = trial.suggest_categorical("attack", ["fgsm", "pgd", "apgd"])
    targeted = trial.suggest_categorical("targeted", [False, True])
    losses = ["ce", "hinge", "l1"]
    if classes >= (TARGETED_DLR_CLASSES if targeted else DLR_CLASSES):
        losses.append("dlr")
    # Two names, as a parameter of optuna's has one set of choices.
    loss = trial.suggest_categorical("targeted loss" if targeted else "untargeted loss", losses)
    probabilities = loss != "ce" and trial.suggest_categorical("probabilities", [False, True])
    targets = trial.suggest_int("targets", 1, min(MOST_TARGETS, classes - 1)) if targeted else 0
    candidate = Candidate(attack, loss, probabilities, targets)
    if attack == "fgsm":
        return candidate
    fewest, most = (min(limit, gradients) for limit in STEPS)
    steps, restarts = trial.suggest_int("steps", fewest, most), trial.suggest_int("restarts", *RESTARTS)
    size = trial.suggest_float("step_size", *STEP_SIZE, log=True) if attack == "pgd" else 1.0
    return replace(candidate, steps=steps, restarts=restarts, step_size=size)


def loss_values(candidate: Candidate, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """What `candidate` ascends, (n,).

    With s the logits z or p = softmax(z), and π their order from the highest:

    | loss  | untargeted                                   | with target t                               |
    |-------|----------------------------------------------|---------------------------------------------|
    | ce    | −log p_y                                     | log p_t                                     |
    | l1    | −s_y                                         | s_t                                         |
    | hinge | −max(s_y − max_{i≠y} s_i, 0)                 | −max(s_y − s_t, 0)                          |
    | dlr   | −(s_y − max_{i≠y} s_i) / (s_π1 − s_π3)       | −(s_y − s_t) / (s_π1 − (s_π3 + s_π4) / 2)   |

    Args:
        candidate: its loss and probabilities are used.
        logits: (n, classes).
        labels: int64 (n,).
        targets: int64 (n,), or None for untargeted.
    """
    if candidate.loss == "ce":
        sign, wanted = (-1.0, labels) if targets is None else (1.0, targets)
        return sign * F.log_softmax(logits, dim=1).gather(1, wanted[:, None]).squeeze(1)
    scores = logits.softmax(dim=1) if candidate.probabilities else logits
    own = scores.gather(1, labels[:, None]).squeeze(1)
    other = None if targets is None else scores.gather(1, targets[:, None]).squeeze(1)
    if candidate.loss == "l1":
        return -own if other is None else other
    lead = margins(scores, labels) if other is None else own - other
    if candidate.loss == "hinge":
        return -lead.clamp(min=0.0)
    highest = scores.topk(DLR_CLASSES if other is None else TARGETED_DLR_CLASSES, dim=1).values
    return -lead / (highest[:, 0] - highest[:, 2:].mean(dim=1) + 1e-12)


def run_candidate(
    candidate: Candidate,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    generator: torch.Generator,
    *,
    gradients: int,
    batch_size: int,
) -> Outcome:
    """Attack n images, n at least 1, each until it is broken, all runs are done or `gradients` are spent on it.

    The score is the success rate + `CE_WEIGHT` · mean cross-entropy, the highest that each image met.
    """
    points, broken = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    entropies = torch.zeros_like(images[:, 0, 0, 0])
    with torch.no_grad():
        clean = torch.cat([model(batch).float() for batch in images.split(batch_size)])
    likely = clean.scatter(1, labels[:, None], float("-inf")).argsort(dim=1, descending=True)
    runs = [rank for _ in range(candidate.restarts) for rank in range(max(candidate.targets, 1))]
    for rank in runs:
        steps = min(candidate.steps, gradients)
        gradients -= steps
        standing = (~broken).nonzero().squeeze(1)
        if not steps or not len(standing):
            break
        targets = likely[:, rank] if candidate.targets else None
        objective = _objective(candidate, targets, entropies)
        for rows in standing.split(batch_size):
            x, y = images[rows], labels[rows]
            points[rows], broken[rows] = _run(candidate, model, x, y, rows, eps, steps, objective, generator)
    return Outcome(points, broken, float(broken.float().mean() + CE_WEIGHT * entropies.mean()))


def _objective(candidate: Candidate, targets: Tensor | None, entropies: Tensor) -> Ascend:
    """The candidate's loss, which notes in `entropies` (N,) the highest cross-entropy that each row meets."""

    def value(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        """The loss (M,) of `logits` (M, classes), which are those of the images `rows` (M,) out of N."""
        met = F.cross_entropy(logits.detach().float(), labels, reduction="none")
        entropies[rows] = entropies[rows].fmax(met)  # not of NaN
        return loss_values(candidate, logits.float(), labels, None if targets is None else targets[rows])

    return value


def _run(
    candidate: Candidate,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rows: Tensor,
    eps: float,
    steps: int,
    objective: Ascend,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """One run: (points, the image itself where it failed; bool (n,), where it succeeded)."""
    if candidate.attack == "fgsm":
        return _signed_steps(model, images, labels, rows, images, eps, eps, steps, objective)
    uniform = torch.rand(images.shape, generator=generator, device=images.device, dtype=images.dtype)
    start = (images + eps * (2.0 * uniform - 1.0)).clamp(images - eps, images + eps).clamp(0.0, 1.0)
    if candidate.attack == "pgd":
        return _signed_steps(model, images, labels, rows, start, eps, candidate.step_size * eps, steps, objective)
    ascent = ascend(model, images, labels, rows, start, eps, steps, objective)
    return ascent.points, ascent.broken


def _signed_steps(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    rows: Tensor,
    start: Tensor,
    eps: float,
    size: float,
    steps: int,
    objective: Ascend,
) -> tuple[Tensor, Tensor]:
    """`steps` steps of `size` along the sign of the objective's gradient; an image is done where it is broken."""
    low, high = (images - eps).clamp(min=0.0), (images + eps).clamp(max=1.0)
    points, broken = images.clone(), torch.zeros_like(labels, dtype=torch.bool)
    active, iterate = torch.arange(len(images), device=images.device), start
    for step in range(steps + 1):
        with torch.enable_grad():
            inputs = iterate.detach().requires_grad_()
            logits = model(inputs)
            value = objective(logits, labels[active], rows[active]).sum()
            gradient = inputs if step == steps else torch.autograd.grad(value, inputs)[0]  # the last is of no use
        stands = is_correct(logits.detach(), labels[active])
        points[active[~stands]], broken[active[~stands]] = iterate[~stands], True
        active = active[stands]
        if step == steps or not len(active):
            break
        iterate = (iterate[stands] + size * gradient[stands].sign()).clamp(low[active], high[active])
    return points, broken
