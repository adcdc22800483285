"""A step of the environment: what is under way, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field

from rcnas_env.architecture import NetworkSpec
from rcnas_env.evaluation.job import Job
from rcnas_env.task import Task


@dataclass(frozen=True)
class Step:
    """A step under way: the action applied, the student's evaluation still to come.

    job is None where Eq. 4 does not depend on the student's accuracy: nothing is trained.
    """

    task: Task
    student: NetworkSpec
    job: Job | None
    annealing: float
    started: float


@dataclass(frozen=True)
class Effort:
    """How a step was computed, as against what it gave: equal steps stay equal if one was looked up.

    from_store: whether the student's evaluation was looked up.
    seconds: wall time of the step; in a vector environment, without the evaluation of the next tasks' teachers.
    evaluation_seconds: what training and attacking the student took when it was computed, or would have taken where
        it was looked up in a table; 0 where it was not evaluated.
    """

    from_store: bool = field(compare=False)
    seconds: float = field(compare=False)
    evaluation_seconds: float = field(default=0.0, compare=False)
