"""What a reproduction is of: its tables against the reported ones, its scales against the paper's, its plans."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from experiments.reported_tables import known_reported, load_reported
from experiments.reproduce import Reproduce
from experiments.reproduction.building import build_table, finals_of, network_labels, sizes_group
from experiments.reproduction.contents import FIGURES, TABLES, TARGETS
from experiments.reproduction.finals import Measured
from experiments.reproduction.networks import fixed_network
from experiments.reproduction.plan import make_plan, resolve_targets
from experiments.reproduction.scale import ATTACKS, GPU, LAPTOP, PAPER, PAPER_BUDGETS, SCALES, Scale, recorded_scale
from experiments.reproduction.searches import meta_buffers
from rcnas_env.cost import cost

# --- contents against what the paper reports -----------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_at_paper_scale_every_reported_cell_has_its_place(name: str) -> None:
    reported, spec = load_reported(name), TABLES[name]
    finals = list(finals_of(PAPER, name))
    places = {(spec.role(final.group, final.entry), f"{final.place}/{final.column.key}") for final in finals}
    wanted = {(row.role, key) for row in reported.rows for key in row.cells if key not in ("params", "macs")}
    assert wanted <= places
    assert spec.sizes == any(key == "params" for row in reported.rows for key in row.cells)


def test_every_reported_table_is_a_target_and_the_other_way_round() -> None:
    assert {target for target in TARGETS if target.startswith("table")} == set(known_reported())
    assert {target for target in TARGETS if target.startswith("figure")} == set(FIGURES)


def test_measured_cells_end_in_the_paper_s_places() -> None:
    finals = make_plan(LAPTOP, ("table1",), through_teacher=False, missing=("fashion-mnist-14",)).finals
    measured = {final: Measured(0.25 + 0.5 * final.seed, 200, 1_000_000, 2_000_000) for final in finals}
    table = build_table(LAPTOP, "table1", measured, network_labels(LAPTOP), ("fashion-mnist-14",))
    cell = table.cell("5G/rc-nas", "cifar10/pgd-20")
    assert cell is not None
    assert (cell.value, cell.seeds, cell.images) == (50.0, 2, 200)
    assert cell.deviation == pytest.approx(50 * 2**0.5 / 2 * 1.0)
    params = table.cell("10G/teacher", "params")
    assert params is not None and params.value == 1.0
    assert not any("cifar100" in key for row in table.rows for key in row.cells)
    assert "fashion-mnist-14" in table.caption


def test_sizes_say_on_which_data_sets_they_are_counted() -> None:
    assert sizes_group(LAPTOP, ("5G", "10G"), ("cifar10", "cifar100")) == "digits"  # budgets differ with the images
    assert sizes_group(PAPER, ("5G", "10G"), ("cifar10", "cifar100")) == "cifar10, cifar100"
    assert sizes_group(LAPTOP, ("20G",), ("tiny-imagenet",)) == "digits"


# --- scales --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_every_fixed_network_of_a_scale_is_valid_and_the_rule_keeps_the_budget(scale: Scale) -> None:
    for place in scale.datasets:
        if place == "cifar100" and scale is LAPTOP:
            continue  # the same groups at another shape
        for group, entry in scale.groups.items():
            budget = scale.task(place, group, "clean").budget
            networks = {role: fixed_network(scale, place, group, role) for role in ("teacher", *entry.rivals)}
            assert all(network is not None for network in networks.values())
            if entry.rivals["robustresnet"] == "rule":
                rule = networks["robustresnet"]
                assert rule is not None and cost(rule).macs <= budget


@pytest.mark.parametrize("group", LAPTOP.groups)
def test_laptop_s_budgets_are_the_paper_s_shares_of_the_teacher(group: str) -> None:
    teacher = PAPER.task("cifar10", group, "clean").teacher
    assert LAPTOP.groups[group].budget == pytest.approx(PAPER_BUDGETS[group] / cost(teacher).macs, abs=5e-4)


def test_paper_scale_has_the_paper_s_settings() -> None:
    assert PAPER.final_recipe.epochs == 100 and PAPER.final_recipe.weight_decay == 2e-4
    assert (PAPER.search_recipe.epochs, PAPER.search_recipe.n_eval) == (5, 256)
    assert (PAPER.meta_iterations, PAPER.fine_tune_evaluations) == (100, 10)
    assert len(meta_buffers(PAPER).base_tasks()) == 3 * 4 * 4  # data × attacks × teachers, a budget each


@pytest.mark.parametrize("scale", SCALES.values(), ids=list(SCALES))
def test_a_scale_comes_back_from_a_record(scale: Scale) -> None:
    assert recorded_scale(json.loads(json.dumps(asdict(scale)))) == scale


# --- plans ---------------------------------------------------------------------------------------------------------


def test_targets_are_put_in_order_and_unknown_ones_refused() -> None:
    assert resolve_targets(("figure3", "table1")) == ("table1", "figure3")
    assert resolve_targets(("table1", "all")) == TARGETS
    with pytest.raises(ValueError, match="targets must be among table1, .*, got 'table8'"):
        resolve_targets(("table8",))
    with pytest.raises(ValueError, match="got none"):
        Reproduce(())


@pytest.mark.parametrize("scale", (LAPTOP, GPU, PAPER), ids=lambda scale: scale.name)
def test_a_plan_repeats_nothing_and_searches_for_all_that_it_measures(scale: Scale) -> None:
    plan = make_plan(scale, TARGETS, through_teacher=True)
    for part in (plan.searches, plan.finals, plan.pruned, plan.meta):
        assert len(part) == len(set(part))
    assert {final.search for final in plan.finals} - {None} <= set(plan.searches)
    assert "r-nas" not in plan.meta and all(key.variant == "r-nas" or key.variant in plan.meta for key in plan.searches)


def test_a_table_has_the_places_that_its_scale_gives_it() -> None:
    plan = make_plan(LAPTOP, ("table1", "table9"), through_teacher=False)
    places = {
        final.entry.role: {each.place for each in plan.finals if each.entry == final.entry} for final in plan.finals
    }
    assert places["rc-nas"] == {"cifar10", "cifar100"} and places["r-nas"] == places["sat"] == {"cifar10"}
    assert {final.place for final in plan.pruned} == {"cifar10"}
    table = build_table(LAPTOP, "table9", {}, network_labels(LAPTOP))
    assert {column.key.partition("/")[0] for column in table.columns} == {"cifar10"}
    assert table.caption.endswith("left out: cifar100 (fashion-mnist-14)")
    left_out = make_plan(LAPTOP, ("table9",), through_teacher=False, missing=("digits",)).left_out
    assert left_out["table9"].startswith("it needs digits,")


def test_tables_share_searches() -> None:
    first = make_plan(LAPTOP, ("table1",), through_teacher=False, missing=("fashion-mnist-14",))
    both = make_plan(LAPTOP, ("table1", "table2"), through_teacher=False, missing=("fashion-mnist-14",))
    assert both.searches == first.searches  # Table 2 attacks Table 1's PGD students at other radii
    assert len(first.searches) == 2 * len(ATTACKS)
