"""What the searchers on Optuna's samplers (Akiba et al., KDD 2019) share: space, study, budget and silence."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler

from agents.black_box import BlackBoxSearch, HybridAction, Tried, hybrid_action
from rcnas_env.compression import compress
from rcnas_env.reward import OVER_BUDGET_REWARD
from rcnas_env.task import Task
from rcnas_env.validation import require_integer

PARTS = ("keep", "switch")
MOST_OVER_BUDGET = 20
"""Over-budget proposals of the sampler in a row before a random student within the budget takes its place."""


class OptunaSearch(BlackBoxSearch):
    """A search whose proposals come from an Optuna sampler, maximising the reward.

    The first `startup` students are random, within the budget. A proposal over the budget takes no evaluation, since
    its cost is known without training: the sampler is told its reward at ε = 0, −1, and asked again.

    Each batch asks a new study in memory that holds the history, through a new sampler: sampling depends on
    nothing that `save` would leave out, and leaves no file.

    Args:
        task: searched on.
        seed: of all proposals.
        startup: random students before the sampler is asked, at least 1; 10 is Optuna's.

    Raises:
        ValueError: an argument is out of range.
    """

    switch_distribution: ClassVar[BaseDistribution] = CategoricalDistribution((0, 1))
    """How the sampler sees a switch."""

    def __init__(self, task: Task, seed: int = 0, startup: int = 10) -> None:
        super().__init__(task, seed)
        self.startup = require_integer("startup", startup, 1)

    def settings(self) -> dict[str, Any]:
        """See `BlackBoxSearch`."""
        return {"startup": self.startup}

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """A new sampler with `seed`, in [0, 2**32)."""

    def propose(self, count: int) -> list[HybridAction]:
        """Random actions at the start, then the sampler's; those of one call know of each other."""
        random = self.random_proposals()
        missing = max(0, min(count, self.startup - len(self.spent())))
        proposals: list[HybridAction] = [random.propose() for _ in range(missing)]
        if len(proposals) == count:
            return proposals
        space = search_space(len(self.task.teacher.stages), self.switch_distribution)
        with quiet():
            study = optuna.create_study(direction="maximize", sampler=self.sampler(self.stream_seed("sampler") % 2**32))
            for tried in self.history:
                study.add_trial(
                    optuna.create_trial(params=parameters(tried.action), distributions=space, value=tried.reward)
                )
            while len(proposals) < count:
                proposals.append(self._ask(study, space) or random.propose())
        return proposals

    def _ask(self, study: optuna.Study, space: Mapping[str, BaseDistribution]) -> HybridAction | None:
        """The sampler's next proposal within the budget; None where it keeps to students over it."""
        for _ in range(MOST_OVER_BUDGET):
            asked = study.ask(dict(space))
            action = action_of(asked.params, len(self.task.teacher.stages))
            student = compress(self.task.teacher, action)
            if self.within_budget(student):
                return action
            study.tell(asked, OVER_BUDGET_REWARD)
            self.observe(Tried(action, student, OVER_BUDGET_REWARD, spent=False))
        return None


def search_space(stages: int, switch: BaseDistribution) -> dict[str, BaseDistribution]:
    """Optuna's form of RCNASEnv's action space: a parameter for each entry, such as keep_0_1."""
    names = [f"{part}_{stage}_{column}" for part in PARTS for stage in range(stages) for column in (0, 1)]
    return {name: FloatDistribution(0.0, 1.0) if name.startswith("keep") else switch for name in names}


def parameters(action: HybridAction) -> dict[str, float | int]:
    """The parameters of `search_space` that stand for an action."""
    return {
        f"{part}_{stage}_{column}": action[part][stage, column].item()
        for part in PARTS
        for stage in range(len(action[part]))
        for column in (0, 1)
    }


def action_of(given: Mapping[str, Any], stages: int) -> HybridAction:
    """The action that parameters of `search_space` stand for; inverse of `parameters`."""
    keep, switch = (
        [[given[f"{part}_{stage}_{column}"] for column in (0, 1)] for stage in range(stages)] for part in PARTS
    )
    return hybrid_action(keep, switch)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, Optuna logs errors alone and does not warn that a part is experimental; afterwards all is as before."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
