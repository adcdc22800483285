"""What a reproduction leaves out: every scale with every set of missing data sets plans only what it can end."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from agents.trial import Trial
from experiments import reproduce as command
from experiments.arena_meta import Charge
from experiments.reproduce import Reproduce
from experiments.reproduction import results
from experiments.reproduction.contents import TARGETS
from experiments.reproduction.finals import Measured
from experiments.reproduction.plan import Plan, make_plan
from experiments.reproduction.scale import GPU, LAPTOP, PAPER, SCALES, Scale
from experiments.reproduction.searches import Found, SearchKey, SearchSettings, meta_buffers, meta_places
from rcnas_env.cost import cost


def subsets(scale: Scale) -> list[tuple[str, ...]]:
    """Every set of the scale's data sets that leaves one."""
    names = tuple(dict.fromkeys(scale.datasets.values()))
    return [chosen for count in range(len(names)) for chosen in combinations(names, count)]


CASES = [
    pytest.param(s, missing, id=f"{s.name}-{'-'.join(missing)}") for s in SCALES.values() for missing in subsets(s)
]


def searched(scale: Scale, key: SearchKey) -> Found:
    """A search that found the teacher itself."""
    task = scale.task(key.place, key.group, scale.search_attack(key.attack))
    size = cost(task.teacher)
    trial = Trial(task.teacher, size.params, size.macs, True, 0.5, 0.25, False)
    return Found(key, task, (trial,), task.teacher, Charge(10, 3600.0))


@pytest.mark.parametrize(("scale", "missing"), CASES)
def test_what_is_planned_can_be_ended_and_what_cannot_is_named_before(
    scale: Scale, missing: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(results, "meta_charge", lambda *_: Charge(500, 160_000.0))
    for name in ("topology_figure", "ratios_figure"):
        monkeypatch.setattr(results, name, lambda found, _: drawn.append(len(found)))
    monkeypatch.setattr(results, "curves_figure", lambda curves, *_: drawn.append(len(curves)))
    plan = make_plan(scale, TARGETS, True, missing)
    assert plan.targets and {*plan.targets, *plan.left_out} == set(TARGETS)
    assert meta_buffers(scale, missing).base_tasks()
    measured = {final: Measured(0.5, 100, 10**6, 10**9) for final in (*plan.finals, *plan.pruned)}
    found = {key: searched(scale, key) for key in plan.searches}
    collected = results.collect(SearchSettings(scale, tmp_path), plan, found, measured, True)
    assert all(table.rows and table.columns for table in collected.tables.values())
    assert set(collected.tables) >= {name for name in plan.targets if name.startswith("table")}
    results.write(tmp_path, plan, scale, collected)
    assert len(drawn) == sum(name.startswith("figure") for name in plan.targets) and all(drawn)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert all(f"**{name}** is left out: {reason}." in text for name, reason in plan.left_out.items())
    assert results.as_json(collected, plan)["targets left out"] == plan.left_out


def left_out(scale: Scale, *missing: str) -> Mapping[str, str]:
    """Target → why it is left out."""
    return make_plan(scale, TARGETS, True, missing).left_out


def test_the_reason_names_the_data_set_or_the_group() -> None:
    nothing = "scale gpu has no data set at the place of tiny-imagenet"
    assert left_out(GPU) == {
        **dict.fromkeys(("table5", "table6", "table7", "figure1", "figure3"), nothing),
        "table10": "scale gpu has none of its budget groups (10G)",
    }
    assert left_out(LAPTOP) == {}
    reason = "it needs digits, which is not wanted or not here (docs/data.md)"
    assert left_out(LAPTOP, "digits") == dict.fromkeys(
        ("table2", "table3", "table5", "table6", "table7", "table9", "table10", "figure1", "figure3"), reason
    )
    assert set(left_out(PAPER, "tiny-imagenet")) == {"table5", "table6", "table7", "figure1", "figure3"}
    assert "tiny-imagenet" in left_out(PAPER, "tiny-imagenet")["table7"]


def test_agents_are_meta_trained_on_what_is_there() -> None:
    assert meta_places(LAPTOP) == meta_places(LAPTOP, ("fashion-mnist-14",)) == ("cifar10",)
    assert meta_places(LAPTOP, ("digits",)) == ("cifar100",)
    assert meta_places(PAPER, ("cifar10",)) == ("cifar100", "tiny-imagenet")


def test_nothing_is_trained_where_no_target_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> Plan:
        raise AssertionError("a search was begun")

    monkeypatch.setattr(command, "run_searches", refuse)
    monkeypatch.setattr(command, "missing_datasets", lambda *_: ("digits",))
    config = Reproduce(("table7",), out=tmp_path / "run")
    with pytest.raises(ValueError, match="one that can be made at scale 'laptop', got none"):
        command.reproduce(config)
    assert "table7 is left out: it needs digits" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
