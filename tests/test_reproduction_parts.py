"""Parts of a reproduction that its small run does not show: variants' environments, Table 4, the price of a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.checkpoint import CheckpointError
from experiments.arena_meta import ChargingEvaluator
from experiments.reproduction.building import time_table
from experiments.reproduction.estimate import _attack, _random_students, _student, estimate
from experiments.reproduction.outline import outline
from experiments.reproduction.plan import make_plan
from experiments.reproduction.prices import ASSUMED_TFLOPS, Prices, layers, passes_of, prices, random_images
from experiments.reproduction.scale import GPU, LAPTOP, Scale
from experiments.reproduction.searches import SearchKey, SearchSettings, _environments, search
from experiments.result_table import Cell
from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import AnalyticEvaluator
from rcnas_env.evaluation.job import Job
from rcnas_env.training.recipe import Recipe


@pytest.mark.parametrize(
    ("variant", "hidden", "penalty"),
    [
        ("rc-nas", set(), "annealed"),
        ("no-lips", {"lips"}, "annealed"),
        ("no-cost", {"cost"}, "annealed"),
        ("no-annealing", set(), "hard"),
    ],
)
def test_the_environment_of_a_variant_goes_without_its_component(
    variant: str, hidden: set[str], penalty: str, tmp_path: Path
) -> None:
    charging, task = ChargingEvaluator(AnalyticEvaluator()), LAPTOP.task("cifar10", "5G", "pgd-20")
    envs: Any = _environments(
        SearchSettings(LAPTOP, tmp_path), variant, charging, tasks=task, num_envs=2, recipe=LAPTOP.search_recipe
    )
    observed, _ = envs.reset(seed=0)
    assert {part for part, value in observed.items() if not np.any(value)} == hidden
    assert {env.penalty for env in envs.unwrapped.envs} == {penalty}


def test_what_is_meta_trained_is_not_searched_with_before(tmp_path: Path) -> None:
    settings = SearchSettings(LAPTOP, tmp_path, store=str(tmp_path / "store"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        search(settings, SearchKey("rc-nas", "cifar10", "5G", "clean"))


def test_a_search_is_found_by_its_name() -> None:
    key = SearchKey("no-lips", "tiny-imagenet", "20G", "pgd-20", 3)
    assert SearchKey.named(key.name) == key
    for name in ("rc-nas_cifar10_5G_clean", "rc-nas_cifar10_5G_clean_x", "rc-nas_cifar10_5G_clean_0_1"):
        with pytest.raises(ValueError, match="search must be named VARIANT_PLACE_GROUP_ATTACK_SEED, got"):
            SearchKey.named(name)


def test_table_4_has_the_mean_hours_over_the_attacks_of_seed_0_and_meta_trainings() -> None:
    seconds = {
        SearchKey("rc-nas", "cifar10", "5G", "clean"): 3_600,
        SearchKey("rc-nas", "cifar10", "5G", "pgd-20"): 3 * 3_600,
        SearchKey("rc-nas", "cifar10", "5G", "a3"): 9e9,  # Table 3's
        SearchKey("r-nas", "cifar10", "5G", "clean"): 9e9,
        SearchKey("rc-nas", "cifar10", "5G", "clean", 1): 9e9,
    }
    table = time_table(LAPTOP, seconds, Cell(2.0), ("fashion-mnist-14",))
    assert [row.role for row in table.rows] == ["cifar10/5G", "meta-training"]
    (hours, meta) = (row.cells["hours"] for row in table.rows)
    assert (hours.value, hours.deviation, hours.seeds) == (2.0, pytest.approx(2**0.5), 2)
    assert (meta.value, meta.deviation) == (2.0, None)


def test_passes_cost_their_macs_and_a_layer_of_each_batch() -> None:
    network = NetworkSpec((StageSpec(1, 16), StageSpec(2, 16, robust=True), StageSpec(1, 16)), input=(1, 8, 8))
    assert layers(network) == 3 + 3 + 16 + 3
    expected = 4 * (10 * cost(network).macs * 2e-9 + 3 * 25 * 1e-3)  # ten images in batches of four are three
    assert Prices(2e-9, 1e-3).passes(network, images=10, batch_size=4, count=4) == pytest.approx(expected)


def test_what_would_take_a_processor_minutes_is_not_timed_but_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Prices:
        raise AssertionError("a step was timed")

    monkeypatch.setattr("experiments.reproduction.prices._measured", refuse)
    teacher = GPU.task("cifar10", "5G", "clean").teacher
    assumed = prices([teacher], "cifar10", GPU.search_recipe, "cpu")
    assert (assumed.mac, assumed.layer, assumed.lanes) == (2 / (ASSUMED_TFLOPS * 1e12), 0, False)
    assert "assumed rate of 30 TFLOP/s" in assumed.source and "not measured" in assumed.source
    given = prices([LAPTOP.task("cifar10", "5G", "clean").teacher], "digits", LAPTOP.search_recipe, "cpu", tflops=2.0)
    assert given.mac == 1e-12 and "took" not in given.source


def test_steps_are_timed_on_random_images_of_the_data_set_s_shape() -> None:
    images = random_images("tiny-imagenet", 7)  # whether or not its files are here
    assert images.pixels.shape == (7, 3, 64, 64) and int(images.labels.max()) < 200
    recipe = LAPTOP.search_recipe.but(batch_size=4, inner_steps=1)
    measured = prices([LAPTOP.task("cifar10", "5G", "clean").teacher], "digits", recipe, "cpu")
    assert measured.mac + measured.layer > 0 and measured.lanes and "timed training steps" in measured.source
    assert measured.attack == 1 if recipe.precision == "fp32" else measured.attack > 0


@pytest.mark.parametrize(("dataset", "group", "batches"), [("digits", LAPTOP, 30), ("cifar10", GPU, 3)])
def test_small_networks_are_timed_for_more_steps(
    dataset: str, group: Scale, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[int]()
    monkeypatch.setattr(
        "experiments.reproduction.prices._seconds", lambda network, images, *_: sizes.append(len(images)) or 1.0
    )
    teacher, recipe = group.task("cifar10", "5G", "clean").teacher, LAPTOP.search_recipe.but(precision="fp32")
    monkeypatch.setattr("experiments.reproduction.prices.TIMED_MACS", 1e15)
    found = prices([teacher], dataset, recipe, "cpu")
    assert sizes == [batches * recipe.batch_size] * 2 and f"By {batches} timed" in found.source


def test_students_to_be_found_cost_what_random_ones_do_and_attacks_their_own_price() -> None:
    task, recipe = LAPTOP.task("cifar10", "5G", "pgd-20"), LAPTOP.search_recipe
    students = _random_students(task.teacher)
    assert len(set(students)) == len(students) == 16 and any(s.robust for student in students for s in student.stages)
    plain, dear = Prices(1e-9, 0.0), Prices(1e-9, 0.0, attack=3.0)
    macs = sum(cost(student).macs for student in students) / 16
    training, attack = 2 * 640 * passes_of(recipe) * macs * 1e-9, 128 * 41 * macs * 1e-9
    assert _student({"digits": plain}, task, recipe) == pytest.approx(training + attack)
    assert _student({"digits": dear}, task, recipe) == pytest.approx(training + 3 * attack)
    through = Job(students[0], replace(task, attack_source="teacher"), recipe)
    assert _attack({"digits": dear}, through) == pytest.approx(128 * 2 * cost(students[0]).macs * 1e-9)
    assert _attack({"digits": dear}, through.teacher_job) == pytest.approx(
        3 * 128 * 41 * cost(task.teacher).macs * 1e-9
    )


def test_each_data_set_of_a_plan_has_its_own_price(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = dict[str, tuple[set[tuple[int, ...]], Recipe]]()

    def priced(networks: Sequence[NetworkSpec], dataset: str, recipe: Recipe, *_: Any) -> Prices:
        asked[dataset] = {network.input for network in networks}, recipe
        return Prices(1e-9 if dataset == "digits" else 2e-9, 0.0, f"timed on {dataset}")

    monkeypatch.setattr("experiments.reproduction.estimate.prices", priced)
    plan = make_plan(LAPTOP, ("table1",), through_teacher=False)
    settings = SearchSettings(LAPTOP, tmp_path, store=str(tmp_path / "store"), device="cpu")
    whole = estimate(settings, plan)
    assert asked == {
        "digits": ({(1, 8, 8)}, LAPTOP.search_recipe),
        "fashion-mnist-14": ({(1, 14, 14)}, LAPTOP.recipes("fashion-mnist-14")[0]),
    }
    text = whole.text(2)
    assert "timed on digits\ntimed on fashion-mnist-14\nWith 2 workers" in text
    alike = replace(whole, prices={name: Prices(1.0, 0.0, "timed") for name in asked})
    assert alike.text(2).count("timed") == 1


def test_a_plan_s_outline_names_the_networks() -> None:
    plan = make_plan(LAPTOP, ("table1", "table9"), through_teacher=False, missing=("fashion-mnist-14",))
    lines = outline(LAPTOP, plan).splitlines()
    assert lines[0] == "table1, table9 at scale laptop"
    assert "rc-nas 8, r-nas 8" in lines[1]
    assert lines[3] == (
        "  5G, digits at the place of cifar10: WRN-10-1 (teacher) by trades, mart, sat, hydra, harp; RobustResNet rule;"
        " 4 students of rc-nas; 4 students of r-nas"
    )
