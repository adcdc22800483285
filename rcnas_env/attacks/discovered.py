"""An attack found by search, after A^3 (Yao et al., NeurIPS 2021: automated discovery of adaptive attacks), reduced.

What is left out: of the paper's attacks DeepFool, CW, FAB, Square and NES, of its losses logit matching, a third
attack in the sequence, most trials (16 where it has 64, one round of halving where it has two), and the longest runs.
Its time limit is a limit of gradients here, so that a seed gives the same attack everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rcnas_env.attacks.attack import Component, WholeSetComponent
from rcnas_env.attacks.candidate import Candidate, run_candidate, suggest
from rcnas_env.attacks.catalogue import register_attack
from rcnas_env.attacks.progress import Notes
from rcnas_env.validation import require_integer

ATTACKS = 2
"""Attacks in the sequence; the paper has 3."""

TRIALS = 16
"""Candidates tried for each; the paper has 64."""

SAMPLES = 100
"""Standing images that a candidate is tried on, as in the paper."""

GRADIENTS = 100
"""Gradients an image that a candidate may spend, over all its restarts and targets; so also the most steps of one run,
of which the paper allows 200."""

KEPT_SHARE = 0.25
"""The best part of the candidates, tried again on fresh images."""


def discover(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    eps: float,
    classes: int,
    generator: torch.Generator,
    *,
    trials: int,
    samples: int,
    gradients: int,
    batch_size: int,
) -> Candidate:
    """The best candidate on standing images: `trials` by TPE on `samples` of them, the top quarter on fresh ones.

    Where fewer fresh images are left the sample is filled up with used ones, from other random starts.

    Raises:
        ImportError: optuna is not installed.
    """
    optuna = _optuna()
    order = torch.randperm(len(images), generator=generator, device=images.device)
    tried: list[tuple[float, Candidate]] = []

    def score(candidate: Candidate, rows: Tensor) -> float:
        """How well the candidate does on the images `rows` (M,): higher is better."""
        x, y = images[rows], labels[rows]
        run = run_candidate(candidate, model, x, y, eps, generator, gradients=gradients, batch_size=batch_size)
        return run.score

    seed = int(torch.randint(2**31, (), generator=generator, device=images.device))
    with _quiet(optuna):
        # Half of the trials at random, half where those were good: by default the first 10 are random.
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(1, trials // 2))
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for _ in range(trials):
            trial = study.ask()
            candidate = suggest(trial, classes, gradients)
            tried.append((score(candidate, order[:samples]), candidate))
            study.tell(trial, tried[-1][0])
    tried.sort(key=lambda each: each[0], reverse=True)
    kept = [candidate for _, candidate in tried[: math.ceil(KEPT_SHARE * trials)]]
    fresh = order.roll(-samples)[:samples]
    return max(kept, key=lambda candidate: score(candidate, fresh))


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Inside, optuna logs errors only."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("attack 'discovered-reduced' needs the package optuna: pip install optuna") from error
    return optuna


def discovered_reduced(
    eps: float,
    classes: int,
    *,
    attacks: int = ATTACKS,
    trials: int = TRIALS,
    samples: int = SAMPLES,
    gradients: int = GRADIENTS,
) -> tuple[Component, ...]:
    """A greedy sequence of `attacks` discovered attacks, each on the images that those before left standing.

    Each is the winner of `discover` on the survivors, run on all of them from the clean images.

    Raises:
        ValueError: an argument is below 1.
    """
    attacks, trials = require_integer("attacks", attacks, 1), require_integer("trials", trials, 1)
    samples, gradients = require_integer("samples", samples, 1), require_integer("gradients", gradients, 1)

    def perturb(
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        /,
        batch_size: int | None = None,
        notes: Notes | None = None,
    ) -> Tensor:
        """Discover and run up to `attacks` attacks, each on the survivors so far; see `WholeSetPerturbation`."""
        size = len(images) if batch_size is None else batch_size
        adversarial, survivors = images.clone(), torch.arange(len(images), device=images.device)
        for _ in range(attacks):
            if not len(survivors):
                break
            x, y = images[survivors], labels[survivors]
            best = discover(
                model, x, y, eps, classes, generator,
                trials=trials, samples=samples, gradients=gradients, batch_size=size,
            )  # fmt: skip
            outcome = run_candidate(best, model, x, y, eps, generator, gradients=gradients, batch_size=size)
            adversarial[survivors] = outcome.points
            survivors = survivors[~outcome.broken]
        return adversarial

    settings = f"{attacks} attacks, {trials} trials, {samples} samples, {gradients} gradients"
    return (WholeSetComponent("discovered-reduced", perturb, settings=settings),)


register_attack(
    "discovered-reduced",
    discovered_reduced,
    perturb_wrong=False,
    summary=f"{ATTACKS} attacks searched for, {TRIALS} trials each of FGSM, PGD, APGD x 4 losses (Yao et al., reduced)",
)
