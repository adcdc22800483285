"""Search without a policy: propose students from what was tried so far, evaluate them, take note; save and load."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.agent import Envs, OnTrial, batched
from agents.agent_file import read_agent, write_agent
from agents.random_search import RandomSearch
from agents.trial import Trial, info_of, plain, trial_of
from rcnas_env.architecture import NetworkSpec
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.seeding import derive_seed
from rcnas_env.task import Task
from rcnas_env.validation import require_boolean, require_fields, require_integer, require_number, shown

HybridAction = dict[str, NDArray[Any]]
"""One action of RCNASEnv: keep float32 (N_stage, 2), switch int8 (N_stage, 2)."""


@dataclass(frozen=True)
class Tried:
    """One action with its outcome.

    action: as proposed.
    student: what it makes of the task's teacher.
    reward: Eq. 4.
    spent: whether it took an evaluation; False for a student that is known to be over budget from its cost alone,
        which was never given to the environment.
    """

    action: HybridAction
    student: NetworkSpec
    reward: float
    spent: bool = True


class BlackBoxSearch(ABC):
    """A searcher whose whole state is the history of what it tried on one task.

    The randomness of each batch of proposals derives from (seed, length of the history), so that a search that is
    saved and loaded between two calls goes on exactly as it would have.

    Args:
        task: searched on; its teacher and budget decide what can be proposed.
        seed: of all proposals.

    Raises:
        ValueError: an argument is of another type or out of range.
    """

    name: ClassVar[str]

    def __init__(self, task: Task, seed: int = 0) -> None:
        if not isinstance(task, Task):
            raise ValueError(f"task must be a Task, got {task!r}")
        self.task = task
        self.seed = require_integer("seed", seed, 0)
        self.history: list[Tried] = []

    @abstractmethod
    def propose(self, count: int) -> list[HybridAction]:
        """`count` actions within the budget; fewer, or none, where there is nothing left to try."""

    def observe(self, tried: Tried) -> None:
        """Take note of an outcome; a subclass with state beside the history extends this."""
        self.history.append(tried)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments beside task and seed, as JSON values."""
        return {}

    def search(self, envs: Envs, evaluations: int, on_trial: OnTrial | None = None) -> list[Trial]:
        """See `Agent`; goes on from the history.

        Raises:
            ValueError: evaluations is no integer of at least 0, or `envs` are on another teacher or budget.
        """
        require_integer("evaluations", evaluations, 0)
        trials: list[Trial] = []
        while len(trials) < evaluations:
            _, infos = envs.reset()
            if not trials:
                self._require_own_task(infos, envs.num_envs)
            proposals = self.propose(min(envs.num_envs, evaluations - len(trials)))
            if not proposals:
                break
            *_, infos = envs.step(batched(proposals, envs.num_envs))
            for index, action in enumerate(proposals):
                trials.append(trial_of(info_of(infos, index)))
                self.observe(Tried(action, trials[-1].student, trials[-1].reward))
                if on_trial:
                    on_trial(trials[-1])
        return trials

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent to a JSON file, whole or not at all."""
        state = {
            "seed": self.seed,
            "settings": self.settings(),
            "task": self.task.to_dict(),
            "history": [
                {**plain(tried.action), "reward": tried.reward, "spent": tried.spent} for tried in self.history
            ],
        }
        write_agent(path, self.name, state)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The agent that `save` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no agent of this class and format.
        """
        content = read_agent(path, cls.name, ("seed", "settings", "task", "history"))
        try:
            agent = cls(Task.from_dict(content["task"]), content["seed"], **content["settings"])
        except TypeError as error:
            raise ValueError(f"agent file must hold settings of {cls.name!r}: {error}") from None
        if not isinstance(content["history"], list):
            raise ValueError(f"history must be a list, got {shown(content['history'])}")
        for entry in content["history"]:
            given = require_fields("history entry", entry, ("keep", "switch", "reward", "spent"))
            try:
                action = hybrid_action(given["keep"], given["switch"])
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"history entry must have keep and switch of N_stage pairs, but {error}") from None
            reward = require_number("history.reward", given["reward"])
            spent = require_boolean("history.spent", given["spent"])
            agent.observe(Tried(action, compress(agent.task.teacher, action), reward, spent))
        return agent

    def within_budget(self, student: NetworkSpec) -> bool:
        """Whether the student's cost, known without training, is within the task's budget."""
        return cost(student).macs <= self.task.budget

    def generator(self, label: str = "proposals") -> np.random.Generator:
        """The random stream called `label` for the next proposals."""
        return np.random.default_rng(self.stream_seed(label))

    def stream_seed(self, label: str) -> int:
        """The seed of the stream called `label` for the next proposals, in [0, 2**63)."""
        return derive_seed(self.seed, self.name, label, len(self.history))

    def random_proposals(self) -> RandomSearch:
        """A source of uniform actions within the budget, for the next proposals."""
        return RandomSearch(self.task, self.stream_seed("random"))

    def spent(self) -> list[Tried]:
        """What took an evaluation, in order."""
        return [tried for tried in self.history if tried.spent]

    def _require_own_task(self, infos: dict[str, Any], num_envs: int) -> None:
        for index in range(num_envs):
            theirs = Task.from_dict(plain(info_of(infos, index)["next_task"]))
            if (theirs.teacher, theirs.budget) != (self.task.teacher, self.task.budget):
                raise ValueError(
                    f"envs must be on the agent's task, {self.task.teacher} within {self.task.budget:,.0f} MACs, "
                    f"got {theirs.teacher} within {theirs.budget:,.0f}"
                )


def hybrid_action(keep: Sequence[Any] | NDArray[Any], switch: Sequence[Any] | NDArray[Any]) -> HybridAction:
    """RCNASEnv's action from two nested lists or arrays of (N_stage, 2); `compress` checks their values."""
    return {"keep": np.array(keep, np.float32), "switch": np.array(switch, np.int8)}
