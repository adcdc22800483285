"""bf16 against fp32 where it counts: the robust accuracy that a search is rewarded by."""

from __future__ import annotations

import statistics

import pytest

from rcnas_env.evaluation import work
from rcnas_env.evaluation.job import Job
from rcnas_env.training.recipe import Recipe
from tests import tiny

SEEDS = range(6)


def robust_accuracies(precision: str) -> list[float]:
    recipe = Recipe(epochs=2, batch_size=32, inner_steps=1, relative_step=1.0, n_eval=256, precision=precision)
    task = tiny.task("pgd-20", epsilon=0.1)
    jobs = [Job(tiny.network(8), task, recipe, seed) for seed in SEEDS]
    return [work.measure(job, *work.train(job))[0].robust_accuracy for job in jobs]


@pytest.mark.slow
def test_bf16_is_as_robust_as_fp32_within_seed_noise() -> None:
    fp32, bf16 = robust_accuracies("fp32"), robust_accuracies("bf16")
    assert min(fp32) > 0.2  # chance is 0.1: these networks have learnt
    difference = abs(statistics.fmean(fp32) - statistics.fmean(bf16))
    noise = ((statistics.variance(fp32) + statistics.variance(bf16)) / len(SEEDS)) ** 0.5
    print(f"fp32 {fp32}, bf16 {bf16}: means differ by {difference:.3f}, standard error {noise:.3f}")
    assert difference <= 2.5 * noise
    assert difference <= 0.05
