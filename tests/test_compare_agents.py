"""The arena as a whole, on the analytic engine: interrupted, in processes, its charges, its tables, its agreement."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from experiments import compare_agents
from experiments.arena_agreement import agreement
from experiments.arena_runs import AgentRun
from experiments.compare_agents import CompareAgents, compare, search
from rcnas_env.training.recipe import Recipe

THREE = CompareAgents(
    engine="analytic",
    tasks=("half",),
    agents=("rc-nas", "random-search", "evolution"),
    seeds=2,
    evaluations=8,
    meta_iterations=1,
    meta_envs=1,
    meta_seeds=2,
    pretrain_steps=5,
    recipe=Recipe(n_eval=10),
)
"""Three agents, two seeds, eight evaluations; each seed has a meta-training of its own."""


class Interrupted(Exception):
    """Stands for whatever ends a comparison."""


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "record.json").read_text(encoding="utf-8"))["results"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a comparison that nothing interrupted."""
    return compare(replace(THREE, out=tmp_path_factory.mktemp("arena") / "whole"))


def test_an_interrupted_comparison_goes_on_to_the_same_result(whole: Path, tmp_path: Path) -> None:
    config, done = replace(THREE, out=tmp_path / "run"), list[AgentRun]()

    def stop_after_two(run: AgentRun) -> None:
        done.append(run)
        if len(done) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        compare(config, stop_after_two)
    log = tmp_path / "run" / "runs.jsonl"
    kept = log.read_text(encoding="utf-8")
    assert len(kept.splitlines()) == 2 and not (tmp_path / "run" / "table.md").exists()
    log.write_text(kept + kept[:50], encoding="utf-8")  # broken off within a line
    again: list[AgentRun] = []
    compare(config, again.append)
    assert {run.key for run in done} | {run.key for run in again} == set(config.runs())
    assert len(done) + len(again) == len(config.runs()) == 6
    assert log.read_text(encoding="utf-8").startswith(kept)
    assert log.read_bytes() == (whole / "runs.jsonl").read_bytes()
    assert (tmp_path / "run" / "table.md").read_bytes() == (whole / "table.md").read_bytes()
    assert results(tmp_path / "run") == results(whole)


def test_worker_processes_change_nothing(whole: Path, tmp_path: Path) -> None:
    """Two runs in two processes; of the comparison in this one, the same two."""
    config = replace(THREE, out=tmp_path / "run", agents=("evolution",), workers=2)
    search(config)
    ours, theirs = (set((folder / "runs.jsonl").read_text().splitlines()) for folder in (tmp_path / "run", whole))
    assert len(ours) == 2 and ours < theirs


def test_a_folder_takes_more_agents_and_seeds(whole: Path, tmp_path: Path) -> None:
    config = replace(THREE, out=tmp_path / "run", agents=("random-search",), seeds=1)
    search(config)
    added: list[AgentRun] = []
    search(replace(config, agents=("random-search", "evolution"), seeds=2), added.append)
    assert [run.key[::2] for run in added] == [("evolution", 0), ("random-search", 1), ("evolution", 1)]
    ours, theirs = ((folder / "runs.jsonl").read_text().splitlines() for folder in (tmp_path / "run", whole))
    assert set(ours) < set(theirs), "a run depends on who else competes"


def test_the_tabular_twin_judges_by_its_expected_accuracies(tmp_path: Path) -> None:
    config = CompareAgents(engine="tabular", tasks=("quarter",), agents=("random-search",), seeds=1, evaluations=6)
    (run,) = search(replace(config, out=tmp_path)).runs.values()
    assert run.best is not None and 0 <= max(run.expected) <= run.best
    assert set(run.expected).isdisjoint(run.observed), "what was seen is what is expected: there is no noise"
    assert min(run.seconds) > 0


@pytest.mark.slow
def test_real_training(tmp_path: Path) -> None:
    """Tiny trainings; the incumbent is judged by a training that the search has not seen."""
    recipe = Recipe(epochs=1, batch_size=50, inner_steps=1, n_train=200, n_eval=50)
    config = replace(
        THREE, engine="trained", recipe=recipe, evaluations=2, seeds=1, envs=1, store=str(tmp_path / "store")
    )
    folder = compare(replace(config, out=tmp_path / "run", device="cpu"))
    runs = [AgentRun.from_dict(json.loads(line)) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert all(run.best is None and max(run.seconds) > 0 for run in runs)
    assert results(folder)["best"]["half"] == max(max(run.expected) for run in runs) > 0
    assert "Real training: expected rewards are means" in (folder / "table.md").read_text(encoding="utf-8")


def test_all_that_is_promised_is_there(whole: Path) -> None:
    found = results(whole)
    assert found["best"] == {"half": 0.8}
    assert [row["agent"] for row in found["agents"]] == ["rc-nas", "random-search", "evolution"]
    runs = [AgentRun.from_dict(json.loads(line)) for line in (whole / "runs.jsonl").read_text().splitlines()]
    for row in found["agents"]:
        mine = np.array([run.expected for run in runs if run.label == row["agent"]])
        assert row["mean_regret"] == pytest.approx((0.8 - mine.mean(axis=0)).tolist())
        assert row["regret"]["8"]["value"] == pytest.approx(0.8 - mine[:, -1].mean())  # of two, all are in the middle
        assert row["regret"]["8"]["low"] <= row["regret"]["8"]["value"] <= row["regret"]["8"]["high"]
        assert set(row["improvement"]) == (set() if row["agent"] == "random-search" else {"8"})
    text = (whole / "table.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")] == [
        "| agent", "| ---", "| rc-nas", "| random-search", "| evolution"
    ]  # fmt: skip
    picture = imread(whole / "curves.png")
    assert picture.shape[0] > 800 and picture.shape[1] > 1_200
    assert picture[..., :3].std() > 0.05, "blank"


def test_only_the_meta_trained_are_charged(whole: Path) -> None:
    """Seven teachers under two attacks, then up to five students and as many teachers made of them."""
    charged = {row["agent"]: (row["charged_evaluations"], row["charged_hours"]) for row in results(whole)["agents"]}
    assert charged["random-search"] == charged["evolution"] == (0, 0)
    assert 14 < charged["rc-nas"][0] <= 14 + 5 + 5
    assert charged["rc-nas"][1] > 0


def test_runs_of_a_seed_share_its_noise_and_differ_otherwise(whole: Path) -> None:
    runs = [AgentRun.from_dict(json.loads(line)) for line in (whole / "runs.jsonl").read_text().splitlines()]
    assert len({run.observed for run in runs}) == len(runs)
    assert all(run.best == 0.8 and max(run.expected) <= 0.8 + 1e-12 for run in runs)
    assert all(len(run.observed) == len(run.expected) == len(run.seconds) == 8 for run in runs)


def test_a_folder_of_other_settings_is_left_alone(whole: Path) -> None:
    before = (whole / "runs.jsonl").read_bytes()
    with pytest.raises(ValueError, match="out must be a new folder for 'evaluations' 9, got one with runs of 8"):
        compare(replace(THREE, out=whole, evaluations=9))
    with pytest.raises(ValueError, match="out must be a new folder for 'engine' 'tabular'"):
        compare(replace(THREE, out=whole, engine="tabular"))
    assert (whole / "runs.jsonl").read_bytes() == before


def test_agreement_of_two_runs(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agreement(whole, whole).tau == agreement(whole, whole).rho == 1
    shorter = compare(replace(THREE, out=tmp_path / "run", evaluations=3, noise=0.0))
    assert agreement(whole, shorter).evaluations == 3
    for line in (shorter / "runs.jsonl").read_text().splitlines():  # without noise, what was seen is what it is worth
        run = AgentRun.from_dict(json.loads(line))
        seen = np.maximum.accumulate(run.observed)
        assert run.expected == pytest.approx(np.where(seen == -1, 0, seen).tolist())
    monkeypatch.setattr(sys, "argv", ["compare_agents", "--agree", str(whole), str(shorter)])
    assert compare_agents.main() == 0
    assert "3 agents after 3 evaluations" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "analytic", "--agents", "ppo", "ppo"], "agents must be different ones"),
        (["--agents", "pppo"], "agents must be one of .*'random-search'.*got 'pppo'"),
        (["--tasks", "third"], "tasks must be among quarter, half, got 'third'"),
        (["--evaluations", "0"], "evaluations must be an integer of at least 1, got 0"),
        (["--seeds", "0"], "seeds must be an integer of at least 1, got 0"),
        (["--workers", "-1"], "workers must be an integer of at least 0, got -1"),
        (["--agree", "nowhere", "nowhere"], "agree must be folders of finished comparisons, got 'nowhere'"),
    ],
)
def test_what_is_out_of_range_is_named_before_anything_is_made(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["compare_agents", *arguments])
    try:
        code = compare_agents.main()
    except SystemExit as stopped:  # from tyro, which makes the settings
        code = stopped.code
    assert code == 2
    shown = capsys.readouterr()
    assert re.search(message, " ".join((shown.err + shown.out).replace("│", " ").split()))
    assert list(tmp_path.iterdir()) == []
