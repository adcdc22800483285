"""The paper's inequalities as claims on one seed's outcomes, and how often each held over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from experiments.theory.comparison import FULL, Outcome

CONFIDENCE = 0.95
"""Of all intervals."""

Excess = Callable[[Outcome, Outcome], float]
"""From (network, full network) of a seed to by how much the claim is missed: it holds where this is at most 0."""


@dataclass(frozen=True)
class Claim:
    """An inequality; `of_full`: whether it also says something of the full network by itself."""

    name: str
    excess: Excess
    of_full: bool = False


def _greatest(mine: Sequence[float], other: Sequence[float]) -> float:
    return float(np.max(np.subtract(mine, other)))


CLAIMS = (
    Claim("Lemma 3.1: max ΔL ≤ full's, every t", lambda c, u: _greatest(c.movement, u.movement)),
    Claim("same, mean over t", lambda c, u: float(np.mean(c.movement) - np.mean(u.movement))),
    Claim("Lemma 3.1 at t = T: max ΔL ≤ full's", lambda c, u: c.movement[0] - u.movement[0]),
    Claim("same, weights that may move", lambda c, u: c.free_movement[0] - u.free_movement[0]),
    Claim("same, mean ΔL", lambda c, u: c.mean_movement[0] - u.mean_movement[0]),
    Claim("Eq. 20: c ≤ full's", lambda c, u: c.constant - u.constant),
    Claim("Theorem 3.2: max ‖v‖ ≤ full's", lambda c, u: c.adversarial.mixture - u.adversarial.mixture),
    Claim("same, κ = 1", lambda c, u: c.adversarial.mixture_strict - u.adversarial.mixture_strict),
    Claim("same, as many of full's neurons", lambda c, u: c.adversarial.mixture - c.full_by_chance),
    Claim("mean ‖v‖ ≤ full's", lambda c, u: c.adversarial.mean_mixture - u.adversarial.mean_mixture),
    Claim("dense share ≤ full's", lambda c, u: c.adversarial.dense_share - u.adversarial.dense_share),
    Claim("robust accuracy ≥ full's", lambda c, u: u.adversarial.robust_accuracy - c.adversarial.robust_accuracy),
    Claim("max ‖v‖ ≤ before adversarial training", lambda c, _: c.adversarial.mixture - c.clean.mixture, True),
    Claim(
        "robust accuracy ≥ before adversarial training",
        lambda c, _: c.clean.robust_accuracy - c.adversarial.robust_accuracy,
        True,
    ),
)
"""All that is tested; T is the end of clean training, and every t means every checkpoint."""


@dataclass(frozen=True)
class Finding:
    """One claim on one network over the seeds."""

    claim: str
    network: str
    held: int
    """Seeds in which the excess was at most 0."""
    seeds: int
    """n."""
    low: float
    """The Clopper–Pearson interval of the chance to hold, in [0, 1]."""
    high: float
    """Its other end."""
    sign_test: float
    """p of as many or more seeds on one side, either one, if both were equally likely; seeds without excess apart."""
    mean_excess: float
    """Mean of the excess, negative where the claim holds by far."""
    excess_low: float
    """Its t interval; it takes the seeds' excesses as normal."""
    excess_high: float
    """Its other end."""
    excesses: list[float]
    """By seed."""

    @property
    def word(self) -> str:
        """Held or failed where the interval is all on one side of one half, else open."""
        return "held" if self.low > 0.5 else "failed" if self.high < 0.5 else "open"


def find(claim: str, network: str, excesses: Sequence[float]) -> Finding:
    """Count and test the excesses of at least two seeds.

    Raises:
        ValueError: there are fewer than two, or one is not finite.
    """
    values = np.asarray(excesses, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"excesses must be two or more finite numbers, got {excesses!r}")
    held, n = int((values <= 0).sum()), len(values)
    interval = stats.binomtest(held, n).proportion_ci(CONFIDENCE, method="exact")
    decided = int((values != 0).sum())
    p = stats.binomtest(int((values < 0).sum()), decided).pvalue if decided else 1.0
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    mean = float(values.mean())
    return Finding(
        claim=claim,
        network=network,
        held=held,
        seeds=n,
        low=float(interval.low),
        high=float(interval.high),
        sign_test=float(p),
        mean_excess=mean,
        excess_low=mean - float(half),
        excess_high=mean + float(half),
        excesses=values.tolist(),
    )


def findings(outcomes: Sequence[Mapping[str, Outcome]]) -> list[Finding]:
    """Every claim on every network that it speaks of; the outcomes are by seed.

    Raises:
        ValueError: there are fewer than two seeds.
    """
    return [
        find(claim.name, name, [claim.excess(outcome[name], outcome[FULL]) for outcome in outcomes])
        for claim in CLAIMS
        for name in outcomes[0]
        if claim.of_full or name != FULL
    ]
