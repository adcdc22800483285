"""Record the tabular twin: train students of one teacher for real, attack each by every attack of the search.

    python -m experiments.record_table --students 2000

Every training and every evaluation goes to the store as soon as it is there: a run that was interrupted, or that is
asked for more students, goes on where it was. The order of the students does not depend on how many are asked for.
`python -m experiments.fit_table` makes the table of what the store has.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import tyro

from experiments.progress import progress_bar
from experiments.stopping import stoppable
from experiments.training_engine import TrainingEngine, training_options
from rcnas_env.architecture import NetworkSpec
from rcnas_env.compression import planes_multiple
from rcnas_env.cost import cost
from rcnas_env.evaluation.evaluator import make_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import open_store
from rcnas_env.presets import preset_entry
from rcnas_env.tabular.space import StudentSpace
from rcnas_env.task import Task, resolve_teacher
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_integer

CHUNK = 96
"""Students that the engine gets at a time, so that the weights that it holds stay few."""

REPEAT_EVERY = 32
"""Of so many students one is trained by every seed, all others by the first alone."""


@dataclass(frozen=True)
class Shares:
    """Which share of the students of a kind is recorded; of all others, all. The shares multiply.

    over_half, over_teacher: those that cost more than half the teacher, or more than the teacher: over most budgets.
    second_generation: those that no single action makes of the teacher: seldom met.
    one_robust, more_robust: those of one robust stage, and of two or three: the slowest, and here the least robust.
    """

    over_half: float
    over_teacher: float
    second_generation: float
    one_robust: float
    more_robust: float


PHASES = (
    (0, Shares(over_half=0.25, over_teacher=0.05, second_generation=0.4, one_robust=1.0, more_robust=1.0)),
    (240, Shares(over_half=0.12, over_teacher=0.03, second_generation=0.4, one_robust=1.0, more_robust=0.4)),
    (720, Shares(over_half=0.06, over_teacher=0.02, second_generation=0.4, one_robust=0.4, more_robust=0.1)),
    (840, Shares(over_half=0.06, over_teacher=0.02, second_generation=0.4, one_robust=0.1, more_robust=0.03)),
)
"""From which student on which shares hold: first the whole space, then more and more where good students are."""


@dataclass(frozen=True)
class TableRecording:
    """Settings of a recording.

    Raises:
        UnknownNameError: no preset has this name; a ValueError.
        ValueError: a number is out of range.
    """

    preset: str = "digits"
    """Gives recipe and attacks; its data set is the buffers' first."""
    teacher: str = "WRN-16-1"
    """Whose students, and their students, make up the space."""
    students: int = 2_000
    """How many to train, in a fixed random order."""
    seeds: int = 3
    """Training seeds of the students that are trained more than once."""
    workers: int = 2
    """Processes, one training each; 0 for this one."""
    store: str = "default"
    """Folder of the store."""
    engine: TrainingEngine = "trained"
    """What trains: processes of its own, or a Ray cluster's workers (docs/scaling.md)."""
    ray_address: str | None = None
    """Of the Ray cluster; if not given, $RAY_ADDRESS, else one is started in this process."""
    time_limit: float | None = None
    """Seconds that one training or attack may take; it counts as diverged then. Needs workers (docs/faults.md)."""
    first_phase: int = 0
    """Which of PHASES to begin with: each takes fewer of the dear students than the one before; 3 is the last."""
    changes: dict[str, int] = field(default_factory=dict)
    """Fields of the recipe that are not as in the preset, whole numbers: `--changes n_train 800 epochs 2`."""

    def __post_init__(self) -> None:
        preset_entry(self.preset)  # raises if there is none of this name
        require_integer("students", self.students, 1)
        require_integer("seeds", self.seeds, 1)
        require_integer("workers", self.workers, 0)
        require_integer("first_phase", self.first_phase, 0, len(PHASES) - 1)
        _ = self.recipe  # raises if a change is of no field, or out of range

    @property
    def recipe(self) -> Recipe:
        """Of every training: the preset's, with the changes."""
        return Recipe.from_dict(preset_entry(self.preset).recipe.to_dict() | self.changes)


def anchors(teacher: NetworkSpec) -> list[NetworkSpec]:
    """The networks that tasks take as teachers: the teacher's stages as they are, at every depth."""
    depths = itertools.product(*(range(stage.depth, 0, -1) for stage in teacher.stages))
    return [
        replace(teacher, stages=tuple(replace(s, depth=d) for s, d in zip(teacher.stages, chosen, strict=True)))
        for chosen in depths
    ]


def design(space: StudentSpace, seed: int = 0, first_phase: int = 0) -> Iterator[int]:
    """Rows of the space in the order in which they are recorded: the anchors, then at random by the phases' shares."""
    phases = ((0, PHASES[first_phase][1]), *PHASES[first_phase + 1 :])
    first = [space.row(network) for network in anchors(space.teacher)]
    yield from first
    rng, count = np.random.default_rng(seed), len(first)
    for row in rng.permutation(len(space)):
        shares = next(shares for first_of_phase, shares in reversed(phases) if count >= first_of_phase)
        share = _share(space, int(row), shares)
        if rng.random() < share and row not in first:
            count += 1
            yield int(row)


def _share(space: StudentSpace, row: int, shares: Shares) -> float:
    network, teacher = space.network(row), space.teacher
    macs, most = cost(network).macs, cost(teacher).macs
    share = shares.over_teacher if macs > most else shares.over_half if macs > most / 2 else 1.0
    if not _first_generation(teacher, network):
        share *= shares.second_generation
    robust = sum(stage.robust for stage in network.stages)
    return share * (1.0 if robust == 0 else shares.one_robust if robust == 1 else shares.more_robust)


def _first_generation(teacher: NetworkSpec, student: NetworkSpec) -> bool:
    """Whether one compression makes `student` of `teacher`."""
    pairs = zip(student.stages, teacher.stages, strict=True)
    return all(ours.planes % planes_multiple(its.planes) == 0 for ours, its in pairs)


def recorded_jobs(config: TableRecording, space: StudentSpace, attacks: tuple[str, ...]) -> list[list[Job]]:
    """The jobs of each student, in the order of `design`."""
    dataset = preset_entry(config.preset).buffers().datasets[0]
    tasks = [Task(dataset, attack, space.teacher, float(cost(space.teacher).macs)) for attack in attacks]
    jobs = []
    for position, row in zip(range(config.students), design(space, first_phase=config.first_phase), strict=False):
        repeated = position < len(anchors(space.teacher)) or position % REPEAT_EVERY == 0
        network = space.network(row)
        seeds = range(config.seeds if repeated else 1)
        jobs.append([Job(network, task, config.recipe, seed) for seed in seeds for task in tasks])
    return jobs


def record(config: TableRecording) -> int:
    """Train and attack what the store does not have yet; returns the exit code 0."""
    buffers = preset_entry(config.preset).buffers()
    space = StudentSpace(resolve_teacher(config.teacher, buffers.datasets[0]))
    jobs = recorded_jobs(config, space, tuple(buffers.attacks))
    options = training_options(config.engine, config.workers, "cpu", config.ray_address, config.time_limit)
    evaluator = make_engine(config.engine, open_store(config.store), **options)
    try:
        with progress_bar("students", len(jobs)) as bar:
            for start in range(0, len(jobs), CHUNK):
                chunk = jobs[start : start + CHUNK]
                evaluator.evaluate([job for student in chunk for job in student])
                for _ in chunk:
                    bar.advance()
                print(start + len(chunk), flush=True)
    finally:
        evaluator.close()
    return 0


def main() -> int:
    """Command line."""
    try:
        config = tyro.cli(TableRecording, description=__doc__)
        kept = "What was trained and attacked is in the store."
        return stoppable(lambda: record(config), "record_table", kept)
    except (ValueError, OSError) as error:  # DataUnavailableError is an OSError
        print(f"record_table: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
