"""Whether two comparisons rank agents alike, such as one on the tabular twin and one on real training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from rcnas_env.strict_json import parse_json
from rcnas_env.validation import require_number, shown

FEWEST_AGENTS = 3
"""Two ranks always agree fully or not at all."""


@dataclass(frozen=True)
class Agreement:
    """Rank agreement of the agents that two comparisons share, by their mean regret.

    evaluations: after how many; the fewer of the two comparisons'.
    tau: Kendall's τ_b, in [−1, 1]; None where a comparison has all agents at the same regret.
    rho: Spearman's ρ, likewise.
    """

    agents: tuple[str, ...]
    evaluations: int
    tau: float | None
    rho: float | None

    def text(self) -> str:
        """One line for people."""
        if self.tau is None or self.rho is None:
            figures = "rank agreement is not defined: a run has all of them at the same regret"
        else:
            figures = f"Kendall's τ {self.tau:.3f}, Spearman's ρ {self.rho:.3f}"
        return f"{len(self.agents)} agents after {self.evaluations} evaluations: {figures} ({', '.join(self.agents)})"


def agreement(run_a: Path, run_b: Path) -> Agreement:
    """Compare the mean regrets, over runs and tasks, in two run folders' records.

    Raises:
        ValueError: a folder holds no finished comparison, or they share fewer than FEWEST_AGENTS agents.
    """
    first, second = mean_regrets(run_a), mean_regrets(run_b)
    shared = [label for label in first if label in second]
    if len(shared) < FEWEST_AGENTS:
        raise ValueError(f"agree must be two runs with {FEWEST_AGENTS} agents in common or more, got {shared}")
    evaluations = min(len(curve) for curves in (first, second) for curve in curves.values())
    ours, theirs = ([curves[label][evaluations - 1] for label in shared] for curves in (first, second))
    if len(set(ours)) == 1 or len(set(theirs)) == 1:
        return Agreement(tuple(shared), evaluations, None, None)
    tau, rho = stats.kendalltau(ours, theirs).statistic, stats.spearmanr(ours, theirs).statistic
    return Agreement(tuple(shared), evaluations, float(tau), float(rho))


def mean_regrets(folder: Path) -> dict[str, list[float]]:
    """Mean regret of each agent after each evaluation, from a finished comparison's record.

    Raises:
        ValueError: the folder holds none.
    """
    path = folder / "record.json"
    try:
        record = parse_json(path.read_bytes())
        rows = record["results"]["agents"]
        return dict(_curve(f"record.results.agents[{at}]", row) for at, row in enumerate(rows))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"agree must be folders of finished comparisons, got {str(folder)!r}: {error}") from None


def _curve(field: str, row: Mapping[str, Any]) -> tuple[str, list[float]]:
    """(agent, its mean regret after each evaluation) of one row of a record."""
    agent, curve = row["agent"], row["mean_regret"]
    if not isinstance(agent, str) or not isinstance(curve, list) or not curve:
        raise ValueError(f"{field} must have a string as agent and a list of numbers as mean_regret, got {shown(row)}")
    return agent, [require_number(f"{field}.mean_regret[{at}]", value) for at, value in enumerate(curve)]
