"""Recording and fitting a table: the order of the students, the models against references, a table of one's own."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor

from experiments import fit_table, matrix, record_table
from experiments.fit_table import Fit, TableFit, gather, make_card, network_means, seed_residuals, write_table
from experiments.record_table import PHASES, TableRecording, anchors, design, recorded_jobs
from experiments.table_model import FOLDS, GaussianProcess, features, held_out_predictions, worth
from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec, named_network
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import AnalyticEvaluator
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import MemoryStore
from rcnas_env.tabular.landscape import TaskLandscape
from rcnas_env.tabular.space import StudentSpace
from rcnas_env.tabular.table import Table, load_table
from rcnas_env.task import Task

TEACHER = NetworkSpec(tuple(StageSpec(2, 16, strided) for strided in (False, True, True)), StemSpec(16), (1, 8, 8))
SPACE = StudentSpace(TEACHER)
ATTACKS = ("fgsm", "pgd-20")
STUDENTS = 60
Floats = np.ndarray[Any, np.dtype[np.float64]]

# the fit of so few points may end at a bound of a length scale, which says nothing about the code
pytestmark = pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}")


def smooth(count: int = 60, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Points in three dimensions, a smooth function of two of them with noise, and trainings behind each."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3))
    return x, np.sin(x[:, 0]) + 0.3 * x[:, 1] + 0.1 * rng.normal(size=count), rng.integers(1, 4, count).astype(float)


# -- the order of the students -------------------------------------------------------------------------


def test_the_design_begins_with_the_anchors_and_repeats_none() -> None:
    chosen = list(design(SPACE))
    first = [SPACE.row(network) for network in anchors(TEACHER)]
    assert chosen[: len(first)] == first and first[0] == SPACE.row(TEACHER)
    depths = {tuple(stage.depth for stage in SPACE.network(row).stages) for row in first}
    assert depths == {*itertools.product((1, 2), repeat=3)}
    assert len(set(chosen)) == len(chosen) < len(SPACE)
    assert chosen == list(design(SPACE)) != list(design(SPACE, seed=1))
    cheap = [row for row in chosen[len(first) :] if cost(SPACE.network(row)).macs <= cost(TEACHER).macs / 2]
    share = np.mean([cost(SPACE.network(row)).macs <= cost(TEACHER).macs / 2 for row in range(len(SPACE))])
    assert len(cheap) / (len(chosen) - len(first)) > share  # dear ones are thinned out


def test_a_later_first_phase_takes_fewer_of_the_dear_from_the_start() -> None:
    assert list(design(SPACE, first_phase=0)) == list(design(SPACE))
    means = []
    for first_phase in range(len(PHASES)):
        chosen = list(itertools.islice(design(SPACE, first_phase=first_phase), 200))
        assert chosen[:8] == list(itertools.islice(design(SPACE), 8))  # the anchors come first
        means.append(np.mean([cost(SPACE.network(row)).macs for row in chosen]))
    assert means == sorted(means, reverse=True) and len(set(means)) == len(PHASES)
    jobs = recorded_jobs(TableRecording(students=60, first_phase=3), SPACE, ATTACKS)
    assert [SPACE.row(student[0].network) for student in jobs] == list(
        itertools.islice(design(SPACE, first_phase=3), 60)
    )
    with pytest.raises(ValueError, match="first_phase must be an integer from 0 to 3, got 4"):
        TableRecording(first_phase=4)


def test_the_first_students_are_the_same_however_many_are_asked_for() -> None:
    few, many = (recorded_jobs(TableRecording(students=count), SPACE, ATTACKS) for count in (20, 45))
    assert (len(few), len(many)) == (20, 45)
    assert many[:20] == few
    seeds = [len({job.seed for job in student}) for student in many]
    assert seeds == [3] * 8 + [1] * 24 + [3] + [1] * 12  # the anchors, and one of every 32
    for student in many:
        assert len({job.network for job in student}) == 1
        assert [job.task.attack for job in student] == [*ATTACKS] * (len(student) // 2)
        assert all(job.split == "eval" and job.task.dataset == "digits" for job in student)


def test_changes_are_of_the_preset_s_recipe_and_leave_the_order_as_it_is() -> None:
    kept = recorded_jobs(TableRecording(students=12), SPACE, ATTACKS)
    changed = recorded_jobs(TableRecording(students=12, changes={"epochs": 1, "n_train": 100}), SPACE, ATTACKS)
    assert [
        [replace(job, recipe=job.recipe.but(epochs=1, n_train=100)) for job in student] for student in kept
    ] == changed


# -- the models ----------------------------------------------------------------------------------------


def test_the_gaussian_process_predicts_as_scikit_learn_s_with_the_same_noise() -> None:
    x, y, weights = smooth()
    model = GaussianProcess(x, y, weights)
    reference = GaussianProcessRegressor(model.signal, alpha=model.noise / weights, optimizer=None)
    reference.fit(x, (y - y.mean()) / y.std())
    new = smooth(500, seed=1)[0]
    np.testing.assert_allclose(model.predict(new), y.mean() + y.std() * reference.predict(new), rtol=1e-6, atol=1e-8)
    heavy = GaussianProcess(x, y, weights).refit(x, y, np.where(np.arange(60) == 0, 1e9, weights))
    assert heavy.predict(x[:1])[0] == pytest.approx(y[0], abs=1e-4)  # a mean of many trainings is believed
    assert abs(model.predict(x[:1])[0] - y[0]) > 1e-3


def test_predictions_do_not_depend_on_how_they_are_asked_for() -> None:
    x, y, weights = smooth()
    model = GaussianProcess(x, y, weights)
    new = smooth(4_500, seed=2)[0]  # predicted in parts
    expected = np.concatenate([model.predict(part) for part in np.array_split(new, 45)])
    np.testing.assert_allclose(model.predict(new), expected, rtol=1e-9)


def test_a_held_out_prediction_does_not_see_its_own_fold() -> None:
    x, y, weights = smooth(55)
    model = GaussianProcess(x, y, weights)
    before, expected = model.predict(x), held_out_predictions(model, x, y, weights)
    np.testing.assert_allclose(model.predict(x), before)  # it knows all again afterwards
    for changed in (0, 17):
        other = y.copy()
        other[changed] += 3
        found = held_out_predictions(model, x, other, weights)
        same = np.isclose(found, expected, rtol=0, atol=1e-12)
        assert same[changed]
        assert same.sum() in (55 // FOLDS, 55 // FOLDS + 1)  # the fold's, and none besides
    assert worth(expected, y).r2 > 0.7


def test_features_are_standardised_and_tell_all_networks_apart() -> None:
    costs = [cost(SPACE.network(row)) for row in range(len(SPACE))]
    params, macs = np.array([each.params for each in costs]), np.array([each.macs for each in costs])
    x = features(SPACE.stages, params, macs)
    assert x.shape == (len(SPACE), 16)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(x.std(axis=0), 1)
    assert len(np.unique(x, axis=0)) == len(SPACE)
    planes, depth, downsample, robust = np.moveaxis(SPACE.stages, 2, 0).astype(float)
    sizes = [np.log10(params), np.log10(macs), 8.0 * 8.0 / 4.0 ** downsample.sum(axis=1), depth.sum(axis=1)]
    sizes[2] = np.log2(sizes[2])  # of the last map's pixels: each down-sampling leaves a quarter
    for column, raw in enumerate([*np.log2(planes).T, *depth.T, *downsample.T, *robust.T, *sizes]):
        assert np.corrcoef(x[:, column], raw)[0, 1] == pytest.approx(1.0), column


def test_features_of_a_space_without_depth_are_finite() -> None:
    """Every stage of a WRN-10 has one block, so that depth is constant."""
    teacher = named_network("WRN-10-1", (1, 8, 8), 10)
    assert isinstance(teacher, NetworkSpec)
    space = StudentSpace(teacher)
    costs = [cost(space.network(row)) for row in range(len(space))]
    x = features(space.stages, np.array([each.params for each in costs]), np.array([each.macs for each in costs]))
    assert np.isfinite(x).all()


@pytest.mark.parametrize("seeds", [2, 3])
def test_seed_residuals_have_the_variance_of_one_training(seeds: int) -> None:
    """E[(x − x̄)²] = σ² (s − 1) / s, which the factor undoes."""
    networks, sigma = 4_000, np.array([0.1, 0.4])
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 1, (networks, 1, 2)) + sigma * rng.normal(size=(networks, seeds, 2))
    rows = np.repeat(np.arange(networks), seeds)
    found = seed_residuals(np.r_[angles.reshape(-1, 2), [[9.0, 9.0]]], np.r_[rows, networks])  # the last is alone
    assert found.shape == (networks * seeds, 2)
    np.testing.assert_allclose((found**2).mean(axis=0), sigma**2, rtol=5 * np.sqrt(2 / (networks * (seeds - 1))))
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)


def test_network_means() -> None:
    rows, counts, means = network_means(np.array([[1.0, 2], [5, 5], [3, 6]]), np.array([7, 2, 7]))
    assert (rows.tolist(), counts.tolist(), means.tolist()) == ([2, 7], [1, 2], [[5, 5], [2, 4]])


def test_what_predictions_are_worth() -> None:
    measured = np.random.default_rng(0).uniform(size=400)
    perfect, constant = worth(measured, measured), worth(np.full(400, measured.mean()), measured)
    assert vars(perfect) == {"r2": 1.0, "tau": pytest.approx(1.0), "top_regret": 0.0, "rmse": 0.0}
    assert (constant.r2, constant.rmse) == (pytest.approx(0.0), pytest.approx(measured.std()))
    assert np.isnan(constant.tau)
    # the best of 100 uniform draws is 100 / 101 on average, any one a half
    assert constant.top_regret == pytest.approx(100 / 101 - 0.5, abs=0.12)
    backwards = worth(-measured, measured)
    assert backwards.tau == pytest.approx(-1.0) and backwards.top_regret > 0.9
    assert worth(measured + 0.1, measured).rmse == pytest.approx(0.1)


# -- a table of one's own ------------------------------------------------------------------------------


class Timed(AnalyticEvaluator):
    """The analytic engine with noise between seeds, whose work takes time."""

    def __init__(self) -> None:
        super().__init__(width=1.0, noise=0.02)

    def evaluate(self, jobs: Sequence[Job], on_done: Any = None) -> list[Evaluation]:
        found = super().evaluate(jobs, on_done)
        return [replace(each, training_seconds=each.macs / 1e5, attack_seconds=0.5) for each in found]


@pytest.fixture(scope="module")
def recorded() -> tuple[list[list[Job]], MemoryStore]:
    jobs = recorded_jobs(TableRecording(students=STUDENTS), SPACE, ATTACKS)
    store, engine = MemoryStore(), Timed()
    for student in jobs:
        for evaluation in engine.evaluate(student):
            store.save_evaluation(evaluation)
    return jobs, store


def test_what_is_recorded_becomes_a_table(recorded: tuple[list[list[Job]], MemoryStore], tmp_path: Any) -> None:
    jobs, store = recorded
    fit = Fit(SPACE, gather(store, jobs, SPACE, len(ATTACKS)))
    arrays, measured = fit.arrays()
    config = TableFit(TableRecording(students=STUDENTS), out=str(tmp_path / "mine"))
    card = write_table(config.out, arrays, make_card(config, jobs, fit, arrays, measured))
    table = load_table(config.out)
    assert table.card == json.loads(json.dumps(card))
    assert (table.name, table.attacks, table.space.teacher) == ("mine", ATTACKS, TEACHER)
    assert (card["students"], card["trainings"], card["repeated_students"]) == (STUDENTS, 8 * 3 + 51 + 3, 9)
    for student in jobs:
        for job in student:
            evaluation = store.load_evaluation(job.key)
            assert evaluation is not None
            row, column = SPACE.row(job.network), 1 + ATTACKS.index(job.task.attack)  # type: ignore[arg-type]
            shares = table.accuracies(np.array([row]), job.seed)[0]
            assert shares[column] == round(evaluation.robust_accuracy * table.images) / table.images
            assert table.is_recorded(row, job.seed)
    assert (table.params, table.macs)[0].tolist() == fit.params.tolist()
    assert_predictions_follow(table, store, jobs)
    env = gym.make("RCNAS-Tabular-v0", table=config.out)
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[-1]["evaluated"]
    assert TaskLandscape(table, jobs[0][0].task).best > 0


def assert_predictions_follow(table: Table, store: MemoryStore, jobs: list[list[Job]]) -> None:
    """Times, loss and LIPS of what was recorded are about as recorded; accuracies of the rest as the landscape's."""
    teacher = store.load_evaluation(jobs[0][0].key)
    assert teacher is not None
    row = table.space.row(TEACHER)
    assert table.seconds_of(row, 0) == pytest.approx((teacher.macs / 1e5, 0.5), rel=0.05)
    np.testing.assert_allclose(table.lips_of(row, 0), teacher.lips, rtol=0.02)
    task = Task("digits", "fgsm", TEACHER, 1e9)
    rows = np.random.default_rng(0).choice(len(table.space), 200, replace=False)
    jobs_of = [Job(table.space.network(row), task, table.recipe) for row in rows.tolist()]
    truth = np.array([AnalyticEvaluator(width=1.0).accuracy(job) for job in jobs_of])
    assert stats.pearsonr(table.expected[rows, 1], truth, alternative="greater").pvalue < 1e-4


def test_a_training_counts_where_every_attack_on_it_is_there(recorded: tuple[list[list[Job]], MemoryStore]) -> None:
    jobs, store = recorded
    partial, dropped = MemoryStore(), jobs[0][1]  # the teacher's first training, under the second attack
    for job in itertools.chain(*jobs[:9]):
        evaluation = store.load_evaluation(job.key)
        if job != dropped and evaluation is not None:
            partial.save_evaluation(evaluation)
    found = gather(partial, jobs, SPACE, len(ATTACKS))
    assert len(found.rows) == 8 * 3 + 1 - 1
    assert (found.rows[0], found.seeds[0]) == (SPACE.row(TEACHER), 1)
    first = found.evaluations[0]
    shares = [first[0].clean_accuracy, *(each.robust_accuracy for each in first)]
    assert found.correct()[0].tolist() == [round(share * first[0].images) for share in shares]
    assert found.seconds()[0].tolist() == [first[0].training_seconds, *(each.attack_seconds for each in first)]


def test_a_store_without_repeated_trainings_makes_no_table(recorded: tuple[list[list[Job]], MemoryStore]) -> None:
    jobs, store = recorded
    message = "store must hold students that were trained by more than one seed"
    with pytest.raises(ValueError, match=message):
        gather(MemoryStore(), jobs, SPACE, len(ATTACKS))
    with pytest.raises(ValueError, match=message):
        gather(store, jobs[8:32], SPACE, len(ATTACKS))


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        (record_table, ["--preset", "typo"], "typo"),
        (record_table, ["--teacher", "typo"], "unknown network 'typo'"),
        (record_table, ["--students", "0"], "students"),
        (record_table, ["--changes", "epoch", "2"], "no other fields than"),
        (record_table, ["--changes", "epochs", "0"], "recipe.epochs"),
        (fit_table, ["--recording.preset", "typo", "--out", "mine"], "typo"),
        (fit_table, ["--recording.store", "an-empty-folder", "--out", "mine"], "record some first"),
        (fit_table, [], "--out"),
        (matrix, ["--datasets", "typo"], "typo"),
        (matrix, ["--networks", "typo"], "typo"),
        (matrix, ["--epochs", "0"], "epochs"),
        (matrix, ["--workers", "-1"], "workers"),
        (matrix, ["--seed", "-1"], "seed"),
    ],
)
def test_a_wrong_setting_ends_with_a_message(
    command: ModuleType,
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [command.__name__, *arguments])
    try:
        code: Any = command.main()
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert named in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
