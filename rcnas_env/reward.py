"""The reward (Eq. 4), as a pure function with every term named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rcnas_env.cost import Cost
from rcnas_env.validation import require_choice, require_number

PENALTIES = ("annealed", "hard")
OVER_BUDGET_REWARD = -1.0
"""Eq. 4 over budget at ε = 0, and the hard penalty of the ablation (paper section 4.4.3)."""


@dataclass(frozen=True)
class RewardTerms:
    """Eq. 4, term by term.

    compression: C = 1 − params(student) / params(teacher); 1 at best, negative for a larger student.
    compression_weight: C(2 − C), which peaks at C = 1.
    accuracy_weight: w = (1 − λ) + λ·C(2 − C), what the accuracy ratio is multiplied by; C(2 − C) in Eq. 4 (λ = 1).
    accuracy_ratio: Ã_RL / Ã_teacher; None where the reward does not depend on it and nothing was trained.
    macs, budget: ζ_RL and CB, multiply-accumulates an image.
    within_budget: ζ_RL ≤ CB.
    annealing: ε, from 1 at the start of training to 0.
    reward: r(s_t, a_t).
    """

    compression: float
    compression_weight: float
    accuracy_weight: float
    accuracy_ratio: float | None
    macs: int
    budget: float
    within_budget: bool
    annealing: float
    reward: float

    def to_dict(self) -> dict[str, Any]:
        """The terms as JSON values."""
        return dict(vars(self))  # all are numbers; asdict would copy each deeply


def depends_on_accuracy(macs: int, budget: float, annealing: float, penalty: str) -> bool:
    """Whether Eq. 4 needs the student's accuracy; where not, the student need not be trained."""
    return macs <= budget or (penalty == "annealed" and annealing > 0)


def linear_annealing(step: int, steps: int) -> float:
    """ε at environment step `step`: from 1 linearly to 0 after `steps` steps; 0 throughout for `steps` = 0."""
    return max(0.0, 1.0 - step / steps) if step < steps else 0.0


def reward_terms(
    student: Cost,
    teacher: Cost,
    budget: float,
    student_accuracy: float | None,
    teacher_accuracy: float,
    annealing: float,
    penalty: str = "annealed",
    smallest_accuracy: float = 1 / 256,
    compression_emphasis: float = 1.0,
) -> RewardTerms:
    """Eq. 4, and its relatives that reward compression less.

    r = w · A_RL / A_teacher within the budget, ε(w · A_RL / A_teacher + 1) − 1 over it, with
    w = (1 − λ) + λ·C(2 − C) = 1 − λ(params(student) / params(teacher))²: λ = 1 is Eq. 4 to the bit; λ = 0
    rewards robust accuracy within the budget alone, however many parameters it takes.

    Args:
        student, teacher: parameters and MACs of both networks.
        budget: CB, in MACs.
        student_accuracy: Ã_RL in [0, 1]; may be None where `depends_on_accuracy` is False.
        teacher_accuracy: Ã_teacher in [0, 1].
        annealing: ε in [0, 1].
        penalty: "annealed" (Eq. 4) or "hard" (−1 over budget).
        smallest_accuracy: the floor of Ã_teacher in the ratio, one image of the eval set: a teacher that
            gets none right would otherwise divide by zero (the paper is silent).
        compression_emphasis: λ in [0, 1].

    Raises:
        ValueError: ε, λ or the penalty is out of range, or the accuracy is needed and absent.
    """
    require_number("annealing", annealing, minimum=0.0, maximum=1.0)
    require_choice("penalty", penalty, PENALTIES)
    require_number("compression_emphasis", compression_emphasis, minimum=0.0, maximum=1.0)
    compression = 1.0 - student.params / teacher.params
    compression_weight = compression * (2.0 - compression)
    # in this order λ = 1 gives 0 + 1·C(2 − C), which no rounding moves
    weight = (1.0 - compression_emphasis) + compression_emphasis * compression_weight
    within = student.macs <= budget
    ratio = None if student_accuracy is None else student_accuracy / max(teacher_accuracy, smallest_accuracy)
    if not depends_on_accuracy(student.macs, budget, annealing, penalty):
        value = OVER_BUDGET_REWARD
    elif ratio is None:
        raise ValueError("student_accuracy must be a number in [0, 1] where the reward depends on it, got None")
    elif within:
        value = weight * ratio
    else:
        value = annealing * (weight * ratio + 1.0) - 1.0
    return RewardTerms(compression, compression_weight, weight, ratio, student.macs, budget, within, annealing, value)
