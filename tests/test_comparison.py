"""The final comparison: which jobs it is made of, and what its tables and its verdict say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from agents.scaling_rule import scaling_rule
from experiments.comparison import TEST_ATTACKS, Candidate, Row, compare, final_jobs, markdown, table
from experiments.progress import progress_bar
from experiments.quickstart import target_task, verdict
from rcnas_env.binomial import standard_error
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import AnalyticEvaluator
from rcnas_env.evaluation.evaluator import OnDone
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.training.recipe import Recipe
from tests.conftest import CountingEvaluator

RECIPE = Recipe(epochs=1, n_eval=20)


def test_final_figures_are_white_box_on_the_test_set_of_one_training() -> None:
    task = target_task()
    jobs = final_jobs(task.teacher, task, RECIPE.but(n_test=20), 3, autoattack_images=10)
    assert [job.task.attack for job in jobs] == list(TEST_ATTACKS)
    assert {job.split for job in jobs} == {"test"} and {job.seed for job in jobs} == {3}
    assert all(job.source_job is None for job in jobs)
    assert len({job.training_key for job in jobs}) == 1
    assert [job.recipe.n_test for job in jobs] == [20, 20, 20, 10]


def test_compare_gives_a_row_a_candidate_of_its_own_figures() -> None:
    task, engine, seen = target_task(), CountingEvaluator(AnalyticEvaluator()), list[str]()
    rule = scaling_rule(task.budget, task.teacher)
    candidates = [Candidate("teacher", task.teacher, None), Candidate("rule", rule, 1)]
    rows = compare(candidates, task, RECIPE, 0, engine, on_done=lambda job, evaluation: seen.append(job.task.attack))
    assert len(engine.calls) == 1 and sorted(seen) == sorted(2 * TEST_ATTACKS)
    for row, candidate in zip(rows, candidates, strict=True):
        assert (row.name, row.network, row.evaluations) == (candidate.name, candidate.network, candidate.evaluations)
        assert (row.params, row.macs) == (cost(row.network).params, cost(row.network).macs)
        for attack in TEST_ATTACKS:
            (job,) = [job for job in engine.calls[0] if (job.network, job.task.attack) == (row.network, attack)]
            assert row.accuracies[attack] == engine.engine.evaluate([job])[0].robust_accuracy
    assert [row.within_budget for row in rows] == [False, True]


def test_a_training_that_diverged_is_told() -> None:
    class Diverging(AnalyticEvaluator):
        def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
            found = super().evaluate(jobs, on_done)
            return [*found[:-1], replace(found[-1], diverged=True)]

    task = target_task()
    candidates = [Candidate("a", task.teacher, None), Candidate("b", task.teacher, None)]
    assert [row.diverged for row in compare(candidates, task, RECIPE, 0, Diverging())] == [False, True]


def row(name: str, **accuracies: float) -> Row:
    """A row with these accuracies, 0.5 elsewhere; AutoAttack on 60 images, the others on 240."""
    all_of_them = {attack: accuracies.get(attack.replace("-", ""), 0.5) for attack in TEST_ATTACKS}
    images = {attack: 60 if attack == "autoattack" else 240 for attack in TEST_ATTACKS}
    return Row(name, target_task().teacher, 174_778, 1_648_256, True, all_of_them, images, 8, False)


def test_standard_error_is_the_binomials() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    draws = np.random.default_rng(0).binomial(60, 0.3, 20_000) / 60
    assert standard_error(0.3, 60) == pytest.approx(draws.std(), rel=0.02)
    nothing = standard_error(0.5 / 60, 60)  # 0 of 60 says less than that it is never so
    assert standard_error(0.0, 60) == nothing > 0 and standard_error(1.0, 60) == pytest.approx(nothing)


@pytest.mark.parametrize(
    ("ours", "theirs", "attack", "expected"),
    [
        (0.6, 0.5, "cw40", "A wins against B under cw-40 by 10.0 points"),
        (0.4, 0.5, "cw40", "A loses to B under cw-40 by 10.0 points"),
        (0.52, 0.5, "cw40", "A wins against B under cw-40 by 2.0 points (within one standard error)"),
        (0.48, 0.5, "cw40", "A loses to B under cw-40 by 2.0 points (within one standard error)"),
        (0.5, 0.5, "cw40", "A ties with B under cw-40 by 0.0 points (within one standard error)"),
        (0.0, 0.0, "cw40", "A ties with B under cw-40 by 0.0 points (within one standard error)"),
        (0.6, 0.5, "autoattack", "A wins against B under autoattack by 10.0 points"),
        (1 / 60, 0.0, "autoattack", "A wins against B under autoattack by 1.7 points (within one standard error)"),
        # with a quarter of the images the same difference is no longer clear
        (0.58, 0.5, "cw40", "A wins against B under cw-40 by 8.0 points"),
        (0.58, 0.5, "autoattack", "A wins against B under autoattack by 8.0 points (within one standard error)"),
    ],
)
def test_the_verdict_says_who_wins_and_whether_clearly(ours: float, theirs: float, attack: str, expected: str) -> None:
    words = verdict([row("B", **{attack: theirs}), row("A", **{attack: ours})], "A", ["B"])
    assert words.count("\n") == 1 and words.endswith(".")
    (said,) = [part.rstrip(".") for part in words.split("\n") if expected.split(" under ")[1].split(" ")[0] in part]
    assert said == expected


def test_an_unsure_difference_is_measured_by_both_errors() -> None:
    """The bound is √(e₁² + e₂²): a difference between one error and that is not clear."""
    error = standard_error(0.5, 240)
    difference = 1.2 * error
    assert error < difference < math.sqrt(2) * error
    assert (
        "within one standard error" in verdict([row("A", cw40=0.5 + difference), row("B")], "A", ["B"]).split("\n")[0]
    )


def test_the_verdict_names_every_rival_under_both_attacks() -> None:
    words = verdict([row("A"), row("B"), row("C")], "A", ["B", "C"])
    pairs = [(rival, attack) for rival in "BC" for attack in ("cw-40", "autoattack")]
    assert all(
        f"with {rival} under {attack}" in part for (rival, attack), part in zip(pairs, words.split("\n"), strict=True)
    )


def test_tables_show_every_figure_with_its_number_of_images() -> None:
    rows = [row("A", clean=0.91, pgd20=0.62, cw40=0.58, autoattack=0.55), replace(row("B"), evaluations=None)]
    lines = markdown(rows).splitlines()
    heading = ["clean (n=240)", "PGD-20 (n=240)", "CW-40 (n=240)", "AutoAttack (n=60)", "tried"]
    assert [cell.strip() for cell in lines[0].strip("|").split("|")][4:] == heading
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == [
        "A", "2×16 2×32↓ 2×64↓", "174,778", "1,648,256", "91.0", "62.0", "58.0", "55.0", "8"
    ]  # fmt: skip
    assert lines[3].endswith("| – |")
    assert len({line.count("|") for line in lines}) == 1
    console = Console(width=80)
    with console.capture() as drawn:
        console.print(table(rows, "a title"))
    for text in ("a title", "CW", "174,778", "1,648,256", "91.0", "55.0", "yes"):
        assert text in drawn.get()
    assert "…" not in drawn.get(), "80 columns are enough"


def test_a_progress_bar_counts_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("teachers", 5, done=2) as bar:
        for _ in range(3):
            bar.advance(note="loss 0.1")
    printed = capsys.readouterr().out
    assert "teachers" in printed and "5/5" in printed
    assert printed.count("teachers") == 1, "a log file gets the last state only"
