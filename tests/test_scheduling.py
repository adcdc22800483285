"""What is next of a set of jobs: no more weights in memory than are in use, and nothing lost with the store."""

from __future__ import annotations

from dataclasses import replace

from rcnas_env.evaluation import work
from rcnas_env.evaluation.scheduling import Schedule
from rcnas_env.evaluation.store import MemoryStore
from tests import tiny


def test_no_more_trainings_are_held_than_are_in_use() -> None:
    store = MemoryStore()
    jobs = [tiny.job(network) for network in (tiny.STUDENT, tiny.TEACHER, tiny.network(16))]
    for job in jobs:
        store.save_training(job.training_key, *work.train(job))
    wanted = [*jobs, *(replace(job, task=replace(job.task, attack="pgd-1")) for job in jobs)]
    schedule, held = Schedule({job.key: job for job in wanted}, store), []
    while (given := schedule.next()) is not None:
        assert given[0] == "measure" and schedule.training(given[1])[0]["network"] == given[1].network.to_dict()
        held.append(len(schedule._held))
    assert len(held) == 6 and max(held) == 1


def test_a_training_that_the_store_loses_meanwhile_is_done_anew() -> None:
    store, job = MemoryStore(), tiny.job()
    store.save_training(job.training_key, *work.train(job))
    schedule = Schedule({job.key: job}, store)
    store._trainings.clear()
    assert schedule.next() == ("train", job)


def test_work_that_is_given_out_again_finds_its_training_again_or_has_it_done_anew() -> None:
    store, job = MemoryStore(), tiny.job()
    store.save_training(job.training_key, *work.train(job))
    schedule = Schedule({job.key: job}, store)
    given = schedule.next()
    assert given == ("measure", job) and schedule.next() is None  # and what was held is let go of
    schedule.repeat(given)
    assert schedule.next() == given and schedule.training(job)[1]
    schedule.repeat(given)
    store._trainings.clear()
    assert schedule.next() == ("train", job)
