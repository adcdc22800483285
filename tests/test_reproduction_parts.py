"""Parts of a reproduction that its small run does not show: variants' environments, Table 4, the price of a pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.checkpoint import CheckpointError
from experiments.arena_meta import Charge, ChargingEvaluator
from experiments.reproduction.building import time_table
from experiments.reproduction.estimate import Prices, layers
from experiments.reproduction.scale import LAPTOP
from experiments.reproduction.searches import Found, SearchKey, SearchSettings, _environments, search
from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import AnalyticEvaluator


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


def test_table_4_has_the_mean_hours_over_the_attacks_of_seed_0_and_meta_trainings() -> None:
    def found(seconds: float, variant: str = "rc-nas", attack: str = "clean", seed: int = 0) -> Found:
        task = LAPTOP.task("cifar10", "5G", "clean")
        key = SearchKey(variant, "cifar10", "5G", attack, seed)
        return Found(key, task, (), task.teacher, Charge(10, seconds))

    all_found = [found(3_600), found(3 * 3_600, attack="pgd-20"), found(9e9, "r-nas"), found(9e9, seed=1)]
    table = time_table(LAPTOP, {each.key: each for each in all_found}, Charge(99, 7_200), ("fashion-mnist",))
    assert [row.role for row in table.rows] == ["cifar10/5G", "meta-training"]
    (hours, meta) = (row.cells["hours"] for row in table.rows)
    assert (hours.value, hours.deviation, hours.seeds) == (2.0, pytest.approx(2**0.5), 2)
    assert (meta.value, meta.deviation) == (2.0, None)


def test_passes_cost_their_macs_and_a_layer_of_each_batch() -> None:
    network = NetworkSpec((StageSpec(1, 16), StageSpec(2, 16, robust=True), StageSpec(1, 16)), input=(1, 8, 8))
    assert layers(network) == 3 + 3 + 16 + 3
    expected = 4 * (10 * cost(network).macs * 2e-9 + 3 * 25 * 1e-3)  # ten images in batches of four are three
    assert Prices(2e-9, 1e-3).passes(network, images=10, batch_size=4, count=4) == pytest.approx(expected)
