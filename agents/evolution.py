"""Regularised evolution (Real, Aggarwal, Huang and Le, AAAI 2019, Algorithm 1) over the hybrid action."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.black_box import BlackBoxSearch, HybridAction, Tried, hybrid_action
from rcnas_env.compression import compress
from rcnas_env.task import Task
from rcnas_env.validation import require_integer, require_number

MOST_MUTATIONS = 1_000
"""Mutations of one parent before a random student takes the place of its child."""


class RegularisedEvolution(BlackBoxSearch):
    """A tournament chooses the parent, its mutated child replaces the oldest of the population, not the worst.

    The population is therefore the last `population` students tried; the first of them are random. A child
    differs from its parent in one entry of the action, each of the 4 · N_stage being equally likely: a share moves by
    a Gaussian step, a switch flips. Mutations that give the parent's own student, or one over the budget, are drawn
    again. Children proposed together, for several environments, come from the same population.

    Args:
        task: searched on.
        seed: of all proposals.
        population: P of the paper's Algorithm 1, at least 2. Theirs is 100 for 20,000 models; 20 leaves most of a
            budget of 100 evaluations to evolution.
        tournament: S, from 1 to `population`. Theirs is a quarter of the population, and so is this.
        step: standard deviation of a share's step, in (0, 1]; the paper's choices are discrete. Proposals are clipped
            to [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """

    name = "regularised evolution"

    def __init__(self, task: Task, seed: int = 0, population: int = 20, tournament: int = 5, step: float = 0.2) -> None:
        super().__init__(task, seed)
        self.population = require_integer("population", population, 2)
        self.tournament = require_integer("tournament", tournament, 1, self.population)
        self.step = require_number("step", step, minimum=0.0, maximum=1.0, exclusive_minimum=True)

    def settings(self) -> dict[str, Any]:
        """See `BlackBoxSearch`."""
        return {"population": self.population, "tournament": self.tournament, "step": self.step}

    def propose(self, count: int) -> list[HybridAction]:
        """Random actions until the population is full, then children."""
        living, random, rng = self.living(), self.random_proposals(), self.generator()
        missing = min(count, self.population - len(living)) if living else count  # nobody to be a child of
        proposals: list[HybridAction] = [random.propose() for _ in range(missing)]
        while len(proposals) < count:
            proposals.append(self._child(self.parent(living, rng), rng) or random.propose())
        return proposals

    def living(self) -> list[Tried]:
        """The population, oldest first."""
        return self.spent()[-self.population :]

    def parent(self, living: list[Tried], rng: np.random.Generator) -> Tried:
        """The best of `tournament` different ones of the population, the youngest of them on a tie."""
        entered = rng.choice(len(living), size=min(self.tournament, len(living)), replace=False)
        return living[max(entered, key=lambda index: (living[index].reward, index))]

    def mutate(self, action: HybridAction, rng: np.random.Generator) -> HybridAction:
        """`action` with one entry changed."""
        keep, switch = action["keep"].copy(), action["switch"].copy()
        entry = int(rng.integers(keep.size + switch.size))
        if entry < keep.size:
            keep.flat[entry] = np.clip(keep.flat[entry] + self.step * rng.standard_normal(), 0.0, 1.0)
        else:
            switch.flat[entry - keep.size] ^= 1
        return hybrid_action(keep, switch)

    def _child(self, parent: Tried, rng: np.random.Generator) -> HybridAction | None:
        """A mutation of `parent` that is another student within the budget; None where there seems to be none."""
        for _ in range(MOST_MUTATIONS):
            action = self.mutate(parent.action, rng)
            student = compress(self.task.teacher, action)
            if student != parent.student and self.within_budget(student):
                return action
        return None
