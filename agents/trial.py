"""A trial: one student that an agent tried, and the rule by which the best is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rcnas_env.architecture import NetworkSpec
from rcnas_env.validation import require_choice

SELECTION_RULES = ("reward", "accuracy")


@dataclass(frozen=True)
class Trial:
    """One student under one task, as the environment's info told it.

    robust_accuracy is None where the reward did not depend on it and nothing was trained.
    """

    student: NetworkSpec
    params: int
    macs: int
    within_budget: bool
    reward: float
    robust_accuracy: float | None
    from_store: bool

    def to_dict(self) -> dict[str, Any]:
        """The trial as JSON values."""
        return {**asdict(self), "student": self.student.to_dict()}


def info_of(infos: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The info of environment `index` out of a vector environment's batched infos."""
    info = {}
    for key, value in infos.items():
        mask = infos.get(f"_{key}")
        if key.startswith("_") or mask is None or not mask[index]:
            continue
        entry = info_of(value, index) if isinstance(value, Mapping) else value[index]
        info[key] = entry.item() if isinstance(entry, np.generic) else entry
    return info


def trial_of(info: Mapping[str, Any]) -> Trial:
    """The trial that a single environment's info describes."""
    terms = info["reward_terms"]
    return Trial(
        student=NetworkSpec.from_dict(plain(info["student"])),
        params=int(info["params"]),
        macs=int(info["macs"]),
        within_budget=bool(terms["within_budget"]),
        reward=float(terms["reward"]),
        # not `is None`: beside a number in a vector environment's batched info, gymnasium stores None as NaN
        robust_accuracy=float(info["robust_accuracy"]) if info["evaluated"] else None,
        from_store=info["effort"].from_store,
    )


def plain(value: Any) -> Any:
    """Nested containers with NumPy scalars and arrays replaced by Python's."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    return value.item() if isinstance(value, np.generic) else value


def select(trials: Sequence[Trial], rule: str) -> Trial:
    """The chosen student, by its figures on the eval set: never on the test set.

    Args:
        trials: what an agent tried on its task.
        rule: of those within the budget, "reward": the highest reward; "accuracy": the most accurate (fewer MACs on a
            tie). Where none is within it, by reward.

    Raises:
        ValueError: no trials, or an unknown rule.
    """
    require_choice("select", rule, SELECTION_RULES)
    if not trials:
        raise ValueError("trials must be one or more, got none")
    fitting = [trial for trial in trials if trial.within_budget and trial.robust_accuracy is not None]
    if rule == "accuracy" and fitting:
        return max(fitting, key=lambda trial: (trial.robust_accuracy, -trial.macs))
    return max(fitting or trials, key=lambda trial: trial.reward)
