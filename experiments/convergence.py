"""Whether one agent gets as far as another in fewer evaluations (paper, Figure 3)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from experiments.arena_statistics import probability_of_improvement
from rcnas_env.validation import require_fields, require_number

Curves = Mapping[str, Sequence[Sequence[float]]]
"""Agent → a list a run (seed) → best eval accuracy, in [0, 1], of a student within the budget after 1, 2, …
evaluations; 0 before there is one."""

FIRST, SECOND = "rc-nas", "r-nas"
"""The agent that is to be earlier, and the one that it is compared with."""

TOLERANCE = 1e-9
"""By which an accuracy may miss the target for rounding's sake, relative to it."""


@dataclass(frozen=True)
class Convergence:
    """Evaluations until a run first has the target accuracy: the lower of the two agents' mean final best ones.

    A run that never has it counts as one evaluation more than there were.

    target: that accuracy.
    first, second: mean evaluations until then, of RC-NAS and R-NAS.
    low, high: Welch's interval of second − first, evaluations saved.
    earlier: probability that a run of RC-NAS is earlier than one of R-NAS, ties as halves.
    runs: of each.
    missed: runs of each that never had it.
    """

    target: float
    first: float
    second: float
    low: float
    high: float
    earlier: float
    runs: tuple[int, int]
    missed: tuple[int, int]

    def text(self) -> str:
        """In one sentence; meta-training's own evaluations are not counted."""
        saved = f"{self.second - self.first:+.1f}, interval {self.low:+.1f} to {self.high:+.1f}"
        return (
            f"a best eval accuracy of {self.target:.1%}, the lower of the mean final ones, after {self.first:.1f}"
            f" evaluations of the target task with meta-training and {self.second:.1f} without; saved {saved};"
            f" a run with it is earlier with probability {self.earlier:.2f}; seeds: {self.runs[0]} and {self.runs[1]},"
            f" of which {self.missed[0]} and {self.missed[1]} never got there. Meta-training's own evaluations are not"
            " counted."
        )


def convergence(curves: Curves, confidence: float = 0.95) -> Convergence:
    """Compare the runs of "rc-nas" and "r-nas".

    Args:
        curves: at least two runs of each, all of one length of at least 1, none ever going down.
        confidence: of the interval, in (0, 1).

    Raises:
        ValueError: something is not so.
    """
    require_fields("curves", curves, (FIRST, SECOND))
    lengths = {len(run) for name in (FIRST, SECOND) for run in _checked(name, curves[name])}
    if len(lengths) != 1:
        raise ValueError(f"curves must all have one length, got {', '.join(map(str, sorted(lengths)))}")
    target = min(statistics.fmean(run[-1] for run in curves[name]) for name in (FIRST, SECOND))
    ends = [[passage(run, target) for run in curves[name]] for name in (FIRST, SECOND)]
    saved = statistics.fmean(ends[1]) - statistics.fmean(ends[0])
    half = welch_half_width(ends[0], ends[1], confidence)
    never = lengths.pop() + 1
    return Convergence(
        target=target,
        first=statistics.fmean(ends[0]),
        second=statistics.fmean(ends[1]),
        low=saved - half,
        high=saved + half,
        earlier=probability_of_improvement(*(-np.array(each, dtype=float)[:, None] for each in ends)),
        runs=(len(ends[0]), len(ends[1])),
        missed=(ends[0].count(never), ends[1].count(never)),
    )


def passage(run: Sequence[float], target: float) -> int:
    """Evaluations, from 1, after which the best accuracy is first at `target`; one more than there are if never."""
    least = target - TOLERANCE * abs(target)
    return next((index for index, accuracy in enumerate(run, 1) if accuracy >= least), len(run) + 1)


def welch_half_width(first: Sequence[float], second: Sequence[float], confidence: float) -> float:
    """Half-width of Welch's interval of the difference of two means; 0 if nothing varies."""
    squared = [statistics.variance(each) / len(each) for each in (first, second)]
    if sum(squared) == 0:
        return 0.0
    below = sum(part**2 / (len(each) - 1) for part, each in zip(squared, (first, second), strict=True))
    return float(stats.t.ppf((1 + confidence) / 2, sum(squared) ** 2 / below)) * math.sqrt(sum(squared))


def _checked(name: str, runs: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    if len(runs) < 2:
        raise ValueError(f"curves[{name!r}] must have at least 2 runs, got {len(runs)}")
    for index, run in enumerate(runs):
        where = f"curves[{name!r}][{index}]"
        if len(run) == 0:
            raise ValueError(f"{where} must have at least 1 accuracy, got none")
        for accuracy in run:
            require_number(where, accuracy, minimum=0, maximum=1)
        if any(later < earlier for earlier, later in zip(run, run[1:], strict=False)):
            raise ValueError(f"{where} must never go down, as it is of best accuracies, got {list(run)!r}")
    return runs
