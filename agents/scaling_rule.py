"""RobustResNet's scaling rule (Huang et al. 2022): no search, one network a budget.

Robust blocks throughout; blocks in the three stages as 2 : 2 : 1, widening factors as 2 : 2.5 : 1, and blocks
to widening factors in total as 7 : 3. RobustResNet-A1 … A4 are the rule at 5, 10, 20 and 40 G, rounded by
their authors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from agents.agent import Envs, OnTrial
from agents.trial import Trial
from rcnas_env.architecture import ROBUST_MIN_PLANES, NetworkSpec, StageSpec
from rcnas_env.compression import round_half_up
from rcnas_env.cost import cost
from rcnas_env.evaluation.job import Job
from rcnas_env.reward import reward_terms
from rcnas_env.task import Task
from rcnas_env.validation import require_integer

DEPTH_SHARES = (0.4, 0.4, 0.2)
"""2 : 2 : 1."""
WIDTH_SHARES = (4 / 11, 5 / 11, 2 / 11)
"""2 : 2.5 : 1."""
DEPTH_TO_WIDTH = 7 / 3
BASE_PLANES = (16, 32, 64)
"""Planes of a stage at widening factor 1."""
PLANES_MULTIPLE = 16


def rule_network(blocks: float, like: NetworkSpec) -> NetworkSpec:
    """The rule's network with about `blocks` blocks in all, for the input, stem and classes of `like`.

    Planes are rounded to multiples of 16, so that small budgets are not left with widening factor 1 only.
    """
    widths = blocks / DEPTH_TO_WIDTH
    stages = tuple(
        StageSpec(
            depth=max(1, round_half_up(blocks * depth_share)),
            planes=max(
                ROBUST_MIN_PLANES, PLANES_MULTIPLE * round_half_up(widths * width_share * base / PLANES_MULTIPLE)
            ),
            downsample=stage > 0,
            robust=True,
        )
        for stage, (depth_share, width_share, base) in enumerate(
            zip(DEPTH_SHARES, WIDTH_SHARES, BASE_PLANES, strict=True)
        )
    )
    return replace(like, stages=stages)


def _candidates(like: NetworkSpec) -> Iterator[NetworkSpec]:
    """The rule's networks in growing size."""
    last = None
    for step in range(4, 4_000):
        network = rule_network(step / 4, like)
        if network != last:
            last = network
            yield network


def scaling_rule(budget: float, like: NetworkSpec) -> NetworkSpec:
    """The rule's largest network within `budget` MACs, for the input, stem and classes of `like`.

    Raises:
        ValueError: even the smallest costs more.
    """
    best = None
    for network in _candidates(like):
        macs = cost(network).macs
        if macs > budget:
            if best is None:
                raise ValueError(f"budget must be at least {macs:,} MACs for the scaling rule, got {budget:,.0f}")
            return best
        best = network
    raise ValueError(f"budget must be below {macs:,} MACs for the scaling rule, got {budget:,.0f}")


class ScalingRule:
    """The rule as an agent of one trial. Its network need not be reachable by compressing the teacher, so that
    it is evaluated beside the environment, by the same engine and job.

    Args:
        task: whose budget the network fills.
    """

    name = "RobustResNet rule"

    def __init__(self, task: Task) -> None:
        self.task = task

    def search(self, envs: Envs, evaluations: int = 1, on_trial: OnTrial | None = None) -> list[Trial]:
        """See `Agent`; one evaluation, if any was granted. `envs` must be an RCNASVectorEnv.

        Raises:
            ValueError: evaluations is no integer of at least 0.
        """
        if require_integer("evaluations", evaluations, 0) == 0:
            return []
        first = envs.envs[0]  # type: ignore[attr-defined]
        student = scaling_rule(self.task.budget, self.task.teacher)
        job = Job(student, self.task, first.recipe, first.training_seed)
        teacher, found = envs.evaluator.evaluate([job.teacher_job, job])  # type: ignore[attr-defined]
        terms = reward_terms(
            cost(student),
            cost(self.task.teacher),
            self.task.budget,
            found.robust_accuracy,
            teacher.robust_accuracy,
            annealing=0.0,
            smallest_accuracy=1 / first.recipe.n_eval,
            compression_emphasis=first.compression_emphasis,
        )
        trial = Trial(
            student,
            found.params,
            found.macs,
            terms.within_budget,
            terms.reward,
            found.robust_accuracy,
            found.from_store,
        )
        if on_trial:
            on_trial(trial)
        return [trial]
