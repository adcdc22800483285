"""Random search: uniform actions, over-budget ones drawn again (a student's cost is known without training)."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from agents.agent import Envs, OnTrial, batched
from agents.agent_file import read_agent, write_agent
from agents.trial import Trial, info_of, trial_of
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.task import Task
from rcnas_env.validation import require_choice, require_fields, require_integer

MOST_DRAWS = 10_000
"""Draws for one student before the budget counts as out of reach."""


class RandomSearch:
    """Uniform over the action space, within the budget. Its whole state is that of its random stream.

    Args:
        task: whose budget is kept.
        seed: of the actions.

    Raises:
        ValueError: an argument is of another type or out of range.
    """

    name = "random search"

    def __init__(self, task: Task, seed: int = 0) -> None:
        if not isinstance(task, Task):
            raise ValueError(f"task must be a Task, got {task!r}")
        self.task = task
        self._rng = np.random.default_rng(require_integer("seed", seed, 0))

    def propose(self) -> dict[str, np.ndarray]:
        """An action whose student is within the budget.

        Raises:
            ValueError: none was found in MOST_DRAWS draws.
        """
        stages = len(self.task.teacher.stages)
        cheapest = None
        for _ in range(MOST_DRAWS):
            action: dict[str, np.ndarray] = {
                "keep": self._rng.random((stages, 2), dtype=np.float32),
                "switch": self._rng.integers(0, 2, (stages, 2), dtype=np.int8),
            }
            macs = cost(compress(self.task.teacher, action)).macs
            if macs <= self.task.budget:
                return action
            cheapest = macs if cheapest is None else min(cheapest, macs)
        raise ValueError(
            f"task.budget must be within reach of its teacher's students, got {self.task.budget:,.0f} MACs where "
            f"the cheapest of {MOST_DRAWS} random students costs {cheapest:,}"
        )

    def search(self, envs: Envs, evaluations: int, on_trial: OnTrial | None = None) -> list[Trial]:
        """See `Agent`.

        Raises:
            ValueError: evaluations is no integer of at least 0, or the budget is out of reach.
        """
        require_integer("evaluations", evaluations, 0)
        trials: list[Trial] = []
        while len(trials) < evaluations:
            envs.reset()
            proposals = [self.propose() for _ in range(min(envs.num_envs, evaluations - len(trials)))]
            *_, infos = envs.step(batched(proposals, envs.num_envs))
            for index in range(len(proposals)):
                trials.append(trial_of(info_of(infos, index)))
                if on_trial:
                    on_trial(trials[-1])
        return trials

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the agent to a JSON file, whole or not at all."""
        generator = self._rng.bit_generator.state
        write_agent(path, self.name, {"task": self.task.to_dict(), "generator": generator})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RandomSearch:
        """The agent that `save` wrote; it goes on with the actions that the saved one would have drawn next.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no random search of this format.
        """
        content = read_agent(path, cls.name, ("task", "generator"))
        agent = cls(Task.from_dict(content["task"]))
        agent._rng.bit_generator.state = _generator_state(content["generator"])
        return agent


def _generator_state(value: object) -> dict[str, Any]:
    """`value`, checked to be a state of PCG64, numpy's default generator: 128 bits that move on by an odd increment,
    and the half of a 64-bit draw that no 32-bit draw has taken yet.

    Raises:
        ValueError: it is none.
    """
    given = require_fields("generator", value, ("bit_generator", "state", "has_uint32", "uinteger"))
    require_choice("generator.bit_generator", given["bit_generator"], ("PCG64",))
    words = require_fields("generator.state", given["state"], ("state", "inc"))
    for name in ("state", "inc"):
        require_integer(f"generator.state.{name}", words[name], 0, 2**128 - 1)
    if words["inc"] % 2 == 0:
        raise ValueError(f"generator.state.inc must be odd, got {words['inc']}")
    require_integer("generator.has_uint32", given["has_uint32"], 0, 1)
    require_integer("generator.uinteger", given["uinteger"], 0, 2**32 - 1)
    return {**given, "state": dict(words)}
