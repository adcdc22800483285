"""The trained engine on a Ray cluster: the same jobs, schedule, store and faults; its workers may be anywhere."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from typing import Any

from rcnas_env.evaluation import work
from rcnas_env.evaluation.attacked_sets import AttackedSet
from rcnas_env.evaluation.evaluator import register_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.ray_workers import RayWorkers, has_gpu, import_ray
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.scheduling import Schedule, Training, Work
from rcnas_env.evaluation.store import Store
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.validation import require_integer, require_number

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Ray's own environment variable for the cluster to join; Ray sets it in submitted jobs."""


class RayEvaluator(TrainedEvaluator):
    """The trained engine with each training, and each attack with its measurement, as a task of a Ray cluster.

    All that `TrainedEvaluator` says holds: results are the same to the bit, a job alone decides them; trainings that
    several jobs need are done once; jobs that fail are flagged (docs/faults.md). The store stays with this process, so
    that worker nodes need no common folder: weights, and images attacked through a teacher, travel through Ray's object
    store, each once a node. docs/scaling.md shows clusters.

    A cluster that is started here listens on the loopback interface only, has no dashboard, sends no usage statistics,
    and keeps its logs in a temporary folder; `close` ends it. One that was there before is left as it was.
    Authentication is as Ray and the user have it, which is on by default from Ray 2.60 on.

    Args:
        store: kept trainings and evaluations.
        workers: most tasks given out at once, at least 1; the rest waits here. None for as many as the cluster has
            room for when it is first used; of one that grows by demand say more.
        num_gpus: the share of a GPU that a task takes, in [0, 1], 0.25 for four tasks a GPU; 0 for the CPU. None for
            a whole one where the cluster has GPUs.
        address: a cluster's "HOST:PORT", or "auto" for the one that runs on this machine. None for $RAY_ADDRESS, or
            where that is not set a cluster in this process, or rather the one that this process has started before.
        modules: names of modules that workers import first: those that register your own attacks, data sets, ….
        retries: how often a training or an attack is given out again whose worker or node was lost, at least 0.
        time_limit: seconds that one task may take once a worker has taken it up; the worker is then killed.

    Raises:
        ValueError: a number is out of range, the address is of Ray's client protocol, or a cluster in this process is
            to have GPUs that are not there.
        ModuleNotFoundError: Ray is not installed.
    """

    def __init__(
        self,
        store: Store,
        workers: int | None = None,
        num_gpus: float | None = None,
        address: str | None = None,
        modules: Sequence[str] = (),
        retries: int = 2,
        time_limit: float | None = None,
    ) -> None:
        address = address or os.environ.get(ADDRESS_VARIABLE) or None
        most = 1 if workers is None else require_integer("workers", workers, 1)
        super().__init__(store, most, "cpu", retries, time_limit)  # whose own processes start with a call, of none here
        _check(num_gpus, address, modules)
        import_ray(own=address is None)
        self._ray = RayWorkers(workers, num_gpus, address, modules)
        self._pool = self._ray
        self.device = self._ray.device

    def _compute(self, jobs: dict[str, Job]) -> Generator[tuple[Job, Evaluation], None, None]:
        if jobs:  # what the store answers needs no cluster
            self._ray.connect()
            self.workers, self.device = self._ray.room, self._ray.device
        return super()._compute(jobs)

    def _start(self, work_to_do: Work, schedule: Schedule) -> Future[Any]:
        kind, job = work_to_do
        threads = job.recipe.threads
        if kind == "train":
            return self._ray.submit(work.train, job, self.device, threads=threads)
        own, through = (
            None if each is None else self._ray.ship(each.training_key, schedule.training(each))
            for each in (job, job.source_job)
        )
        folder, attacked = getattr(self.store, "progress_folder", None), schedule.attacked_set(job)
        if attacked is not None:
            attacked = self._ray.ship(job.teacher_job.key, attacked)
        return self._ray.submit(_measure, job, own, through, self.device, folder, attacked, threads=threads)


def _measure(
    job: Job, own: Training, through: Training | None, device: str, folder: str | None, attacked: AttackedSet | None
) -> tuple[Evaluation, AttackedSet | None]:
    """`work.measure` with each training as one argument, as it lies in the object store."""
    return work.measure(job, *own, through, device, folder, attacked)


def _check(num_gpus: float | None, address: str | None, modules: Sequence[str]) -> None:
    """Refuse what cannot work, before a cluster is started."""
    if num_gpus is not None:
        require_number("num_gpus", num_gpus, minimum=0.0, maximum=1.0)
        if num_gpus and address is None and not has_gpu():
            raise ValueError(f"num_gpus must be 0 or None where there is no GPU, got {num_gpus!r}")
    if address is not None and "://" in address:
        raise ValueError(f'address must be "HOST:PORT" or "auto", run on the cluster itself, got {address!r}')
    if isinstance(modules, str) or not all(isinstance(name, str) for name in modules):
        raise ValueError(f"modules must be a sequence of module names, got {modules!r}")


register_engine("ray", RayEvaluator)
