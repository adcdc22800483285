"""Local search on architectures (White, Nolen and Savani, "Exploring the loss landscape in NAS", UAI 2021)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from agents.black_box import BlackBoxSearch, HybridAction, Tried, hybrid_action
from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.compression import compress, planes_multiple, round_half_up
from rcnas_env.task import Task

MOST_DRAWS = 1_000
"""Random students drawn for one restart before the space counts as exhausted."""


class LocalSearch(BlackBoxSearch):
    """From a random student to a better neighbour, and on from there; from a new random one at a local optimum.

    A neighbour differs in one decision: one stage's planes or depth, set to any other value, or one of its switches.
    Neighbours are tried in random order, and the first better one is moved to without trying the rest (in the paper a
    variant that stops a neighbourhood's evaluation early). No student is tried twice, none over the budget is tried.

    Args:
        task: searched on.
        seed: of starts and orders.
    """

    name = "local search"

    def __init__(self, task: Task, seed: int = 0) -> None:
        super().__init__(task, seed)
        self.current: Tried | None = None
        """Where the search stands; None before a start."""
        self._seen: set[NetworkSpec] = set()
        self._around: dict[NetworkSpec, HybridAction] = {}

    def propose(self, count: int) -> list[HybridAction]:
        """Untried neighbours of the current student, then untried random students; fewer where there are no more."""
        fresh = self._fresh_neighbours()
        chosen = self.generator().permutation(len(fresh))[:count]
        proposals = [fresh[index] for index in chosen]
        random, proposed = self.random_proposals(), {compress(self.task.teacher, action) for action in proposals}
        for _ in range(MOST_DRAWS):
            if len(proposals) == count:
                break
            action: HybridAction = random.propose()
            student = compress(self.task.teacher, action)
            if student not in self._seen | proposed:
                proposals.append(action)
                proposed.add(student)
        return proposals

    def observe(self, tried: Tried) -> None:
        """Move where it is better; start anew where every neighbour has been tried."""
        super().observe(tried)
        self._seen.add(tried.student)
        if self.current is None or tried.reward > self.current.reward:
            self.current = tried
            found = neighbours(tried.student, self.task.teacher)
            self._around = {student: action for student, action in found.items() if self.within_budget(student)}
        if not self._fresh_neighbours():
            self.current, self._around = None, {}

    def _fresh_neighbours(self) -> list[HybridAction]:
        return [action for student, action in self._around.items() if student not in self._seen]


def neighbours(student: NetworkSpec, teacher: NetworkSpec) -> dict[NetworkSpec, HybridAction]:
    """The students of `teacher` that differ from `student` in one decision, each with an action that makes it.

    Args:
        student: made from `teacher` by `compress`.
        teacher: whose stages bound the values.
    """
    keep = [shares(ours, theirs) for ours, theirs in zip(student.stages, teacher.stages, strict=True)]
    switch = [[int(stage.downsample), int(stage.robust)] for stage in student.stages]
    found: dict[NetworkSpec, HybridAction] = {}
    for action in _changes(np.array(keep), np.array(switch), teacher):
        found.setdefault(compress(teacher, action), action)
    found.pop(student, None)
    return found


def shares(stage: StageSpec, teacher: StageSpec) -> tuple[float, float]:
    """Shares of planes and blocks, each in (0, 1], that `compress` turns into this stage."""
    return min(1.0, stage.planes / teacher.planes), min(1.0, stage.depth / teacher.depth)


def _changes(keep: np.ndarray, switch: np.ndarray, teacher: NetworkSpec) -> Iterator[HybridAction]:
    """Every action with one entry set to each of its values."""
    for index, stage in enumerate(teacher.stages):
        multiple = planes_multiple(stage.planes)
        widths = range(1, max(1, round_half_up(stage.planes / multiple)) + 1)
        values = (
            [min(1.0, multiple * width / stage.planes) for width in widths],
            [depth / stage.depth for depth in range(1, stage.depth + 1)],
        )
        for column in (0, 1):
            for value in values[column]:
                changed = keep.copy()
                changed[index, column] = value
                yield hybrid_action(changed, switch)
            flipped = switch.copy()
            flipped[index, column] ^= 1
            yield hybrid_action(keep, flipped)
