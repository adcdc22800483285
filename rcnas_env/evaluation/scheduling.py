"""Which training or measurement is next, of what a set of jobs needs and of what no other process works on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from rcnas_env.cost import cost
from rcnas_env.evaluation.attacked_sets import AttackedSet, attacked_set_key
from rcnas_env.evaluation.claims import Claim
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import Store

Training = tuple[dict[str, Any], bytes]
"""(report, weights as safetensors bytes)."""

Work = tuple[Literal["train", "measure"], Job]
"""What is to be done, and the job that says how."""

NOBODY = ""
"""No job's key."""


class Schedule:
    """The work that `jobs` need: each measurement as soon as its trainings are there, each training once.

    Measurements come before trainings, so that results come early, and of either the largest network first. A training
    is claimed in the store before it is given out. One that another process has claimed waits while there is other
    work; it is asked for again after `retry`, and taken from the store once its claim is released or has lapsed.

    Of students that are attacked through one teacher the first has the images attacked; the others wait for them.

    Args:
        jobs: by key, none of which the store has an evaluation of.
        store: looked up for trainings and attacked sets, and given the new ones.
        device: where attacks run.
    """

    def __init__(self, jobs: dict[str, Job], store: Store, device: str = "cpu") -> None:
        self._store = store
        self._device = device
        self._attacking: dict[str, str] = {}  # the teacher's job → the first of its students' jobs, by their keys
        self._set_keys: dict[str, str | None] = {}  # of the jobs that are being measured
        self._to_measure = dict(jobs)
        self._known, self._to_train = _find_trainings(jobs.values(), store)
        self._held: dict[str, Training] = {}  # of `_known`, those in use: all at once may be tens of GB
        self._elsewhere: list[Job] = []
        self._claims: dict[str, Claim] = {}
        self._again: list[Work] = []

    @property
    def unfinished(self) -> bool:
        """Whether there is work that has not been given out."""
        return bool(self._again or self._to_measure or self._to_train or self._elsewhere)

    @property
    def waits(self) -> bool:
        """Whether a training is under way in another process."""
        return bool(self._elsewhere)

    def next(self) -> Work | None:
        """The next piece of work; None if all that is left waits for trainings under way, here or elsewhere."""
        self._let_go()
        if self._again:
            kind, job = self._again.pop()
            if kind == "train" or not self._lost(job):
                return kind, job
            self._to_measure[job.key] = job
        while True:
            ready = [job for job in self._to_measure.values() if self._is_ready(job)]
            if ready:
                chosen = max(ready, key=lambda job: cost(job.network).macs)
                if self._lost(chosen):
                    continue
                if chosen.task.attack_source == "teacher":
                    self._attacking.setdefault(chosen.teacher_job.key, chosen.key)
                return "measure", self._to_measure.pop(chosen.key)
            if not self._to_train:
                return None
            job = self._to_train.pop()
            if self._take(job):
                return "train", job

    def retry(self) -> None:
        """Let `next` ask again for the trainings that other processes had claimed."""
        self._to_train = sorted(self._to_train + self._elsewhere, key=lambda job: cost(job.network).macs)
        self._elsewhere = []

    def training(self, job: Job) -> Training:
        """The training of the network of a job that `next` has just given out to measure."""
        return self._held[job.training_key]

    def attacked_set(self, job: Job) -> AttackedSet | None:
        """The images of a job that `next` has just given out to measure, where they were attacked before."""
        through = self.training(job.source_job) if job.source_job else None
        key = attacked_set_key(job, self.training(job)[1], through, self._device)
        self._set_keys[job.key] = key
        return None if key is None else self._store.load_attacked_set(key)

    def finish_measuring(self, job: Job, attacked: AttackedSet | None = None) -> None:
        """Save the images that were attacked for a job that `next` gave out, if any; others need not wait for them."""
        key = self._set_keys.pop(job.key, None)
        if key is not None and attacked is not None:
            self._store.save_attacked_set(key, attacked)
        if self._attacking.get(job.teacher_job.key) == job.key:
            self._attacking[job.teacher_job.key] = NOBODY

    def finish_training(self, job: Job, training: Training) -> None:
        """Save a training that `next` gave out, and let go of its claim."""
        key = job.training_key
        self._known.add(key)
        self._held[key] = training
        self._store.save_training(key, *training)
        self._claims.pop(key).release()

    def repeat(self, work: Work) -> None:
        """Have `next` give out once more, first of all, what it gave out before; a training stays claimed."""
        self._again.append(work)

    def give_up_training(self, job: Job) -> list[Job]:
        """Let go of a training that `next` gave out and that cannot be done; return the jobs that are lost by it.

        What only they need is not trained any more.
        """
        key = job.training_key
        self._claims.pop(key).release()
        lost = [each for each in self._to_measure.values() if key in needed_trainings(each)]
        for each in lost:
            del self._to_measure[each.key]
        needed = {name for each in self._to_measure.values() for name in needed_trainings(each)}
        self._to_train = [each for each in self._to_train if each.training_key in needed]
        self._elsewhere = [each for each in self._elsewhere if each.training_key in needed]
        return lost

    def close(self) -> None:
        """Let go of the claims on trainings that were not finished."""
        while self._claims:
            self._claims.popitem()[1].release()

    def _is_ready(self, job: Job) -> bool:
        """Whether a job's trainings are there, and no other job has its images attacked just now."""
        if job.task.attack_source == "teacher":
            first = self._attacking.get(job.teacher_job.key, NOBODY)
            if first not in (NOBODY, job.key):
                return False
        return needed_trainings(job).keys() <= self._known

    def _take(self, job: Job) -> bool:
        """Whether a training is for this process to do: nobody has claimed it, and it has not been done meanwhile."""
        key = job.training_key
        claim = self._store.claim(key)
        if claim is None:
            self._elsewhere.append(job)
            return False
        self._claims[key] = claim
        done = self._store.load_training(key)  # by one that held the claim after our last look
        if done is not None:
            self._known.add(key)
            self._claims.pop(key).release()
        return done is None

    def _let_go(self) -> None:
        """Drop the trainings that nothing that waits needs any more."""
        needed = {key for job in self._to_measure.values() for key in needed_trainings(job)}
        self._held = {key: training for key, training in self._held.items() if key in needed}

    def _lost(self, job: Job) -> bool:
        """Load the trainings that a job needs; whether the store has one no longer, which is then done anew."""
        for key, training in needed_trainings(job).items():
            if key in self._held:
                continue
            found = self._store.load_training(key)
            if found is None:
                self._known.discard(key)
                self._to_train.append(training)
                return True
            self._held[key] = found
        return False


def needed_trainings(job: Job) -> dict[str, Job]:
    """The trainings that a job's measurement needs, by key: its own network's, and an attacked teacher's."""
    return {training.training_key: training for training in (job, job.source_job) if training is not None}


def _find_trainings(jobs: Iterable[Job], store: Store) -> tuple[set[str], list[Job]]:
    """(keys of the trainings that the store has; one job for each that it has not, the largest network last)."""
    needed = {key: training for job in jobs for key, training in needed_trainings(job).items()}
    known = {key for key in needed if store.load_training(key) is not None}
    missing = [job for key, job in needed.items() if key not in known]
    return known, sorted(missing, key=lambda job: cost(job.network).macs)
