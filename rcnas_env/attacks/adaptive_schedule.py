"""The settings of A3 (Liu et al., CVPR 2022): its rounds, step sizes, and what its directions lean to.

The defaults follow the paper and its authors' settings for CIFAR-10 and CIFAR-100. Left out: their second schedule,
for models of which the directions alone, before any PGD, break 5 % of the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rcnas_env.validation import require_integer, require_number


@dataclass(frozen=True)
class Round:
    """Restarts that share a budget: `repeats` of them, of iterations + 1 steps, on the `share` of the survivors.

    share: of the images that still stand, those closest to breaking; in (0, 1]; of each restart anew.
    iterations: S of the step size's schedule, at least 1.
    repeats: restarts, at least 1.

    Raises:
        ValueError: a field is outside its range.
    """

    share: float
    iterations: int
    repeats: int = 1

    def __post_init__(self) -> None:
        require_number("share", self.share, minimum=0.0, maximum=1.0, exclusive_minimum=True)
        require_integer("iterations", self.iterations, 1)
        require_integer("repeats", self.repeats, 1)


ROUNDS = (
    Round(1.0, 8),
    Round(1.0, 8),
    Round(1.0, 8),
    Round(0.7, 25),
    Round(0.6, 30),
    Round(0.5, 30),
    Round(0.4, 35),
    Round(0.3, 40),
    Round(0.2, 45),
    Round(0.1, 50),
    Round(0.1, 50, 4),
    Round(0.065, 55, 4),
    Round(0.03, 60, 50),
)
"""The authors' 13 rounds. Number 0 starts without a direction."""

LEARNING_ROUND = 1
"""Its directions are drawn without a lean, and the later rounds learn from those that succeed."""

LEAST_IMAGES = 20
"""A restart attacks at least so many images, or all that stand: a small set would else be given up at once. The
authors' 100 are for test sets of 10,000."""

DIRECTION_STEPS = 7
"""Steps of eps along sign ∇(wᵀz) at the start of each restart but the first round's (the authors' setting)."""

FINAL_ROUND = 10
"""From this round on, directions follow `FINAL` (the authors' setting)."""


@dataclass(frozen=True)
class Lean:
    """Which w a restart draws for the true class and for the target, before both are multiplied by classes / 10.

    own: (low, high) of w at the true class.
    target: w at the target class.
    """

    own: tuple[float, float]
    target: float


TOWARDS_TRUE, AWAY_FROM_TRUE = (-0.1, 0.5), (-0.5, 0.1)
"""w at the true class where the directions that succeeded raised it in sum, and where not (the authors' settings)."""

TARGET_WEIGHT = 0.8
"""|w| at the target class (the authors' setting)."""

FINAL = Lean((-0.8, 0.1), TARGET_WEIGHT)

TARGETS = ((100, 14, 14), (2, 9, 4))
"""(classes from which on, targets that restarts cycle through, those from `FINAL_ROUND` on): the most likely wrong
classes. The authors' settings for CIFAR-100 and CIFAR-10."""

LAST_STEP, LAST_STEP_OF_FEW, FEW_ITERATIONS = 0.001, 0.1, 10
"""η_min / eps; with at most `FEW_ITERATIONS` iterations it is the larger one (the authors' settings)."""


def step_size(step: int, iterations: int, eps: float) -> float:
    """η_s = η_min + (eps − η_min)(1 + cos(π s / (S + 1))) / 2 of step s = 0 … S, S the iterations."""
    least = eps * (LAST_STEP_OF_FEW if iterations <= FEW_ITERATIONS else LAST_STEP)
    return least + (eps - least) * (1.0 + math.cos(math.pi * step / (iterations + 1))) / 2.0


def lean_of_round(number: int, own_sum: float, predicted_sum: float) -> Lean:
    """What directions of round `number`, from 2 on, lean to.

    Args:
        number: index in the schedule.
        own_sum: s_y, the sum of w at the true class over round 1's successes.
        predicted_sum: s_w, the same at the class that was predicted.
    """
    if number >= FINAL_ROUND:
        return FINAL
    return Lean(TOWARDS_TRUE if own_sum > 0 else AWAY_FROM_TRUE, math.copysign(TARGET_WEIGHT, predicted_sum))


def targets_in_turn(number: int, classes: int) -> int:
    """How many of the wrong classes, the most likely ones, are targets in turn in round `number`."""
    early, final = next((early, final) for least, early, final in TARGETS if classes >= least)
    return min(final if number >= FINAL_ROUND else early, classes - 1)
