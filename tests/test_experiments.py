"""The quickstart and what a run leaves behind: on the analytic engine here, for real in the slow test."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import tyro
from matplotlib.image import imread

import experiments.quickstart as quickstart
from agents.checkpoint import load_checkpoint
from agents.trial import select
from experiments.comparison import TEST_ATTACKS
from experiments.quickstart import Quickstart, main, meta_buffers, meta_train, run, target_task
from experiments.run_record import RunRecord, versions
from rcnas_env.architecture import NetworkSpec
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import AnalyticEvaluator
from rcnas_env.evaluation.evaluator import OnDone
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.training.recipe import Recipe
from tests.conftest import CountingEvaluator

ROOT = Path(__file__).resolve().parent.parent
TINY = Recipe(epochs=1, batch_size=128, inner_steps=1, relative_step=1.0, n_eval=20)
SMALL = Quickstart(
    meta_iterations=1,
    meta_envs=1,
    evaluations=2,
    search_envs=2,
    pretrain_steps=20,
    workers=0,
    recipe=TINY,
    final_recipe=TINY.but(n_test=20),
    autoattack_images=10,
)
NAMES = ["teacher WRN-16-1", "RC-NAS", "random search", "RobustResNet rule"]

# -- the whole run ---------------------------------------------------------------------------------------


def strict_json(path: Path) -> Any:
    """The content of a JSON file; NaN and infinity, which are no JSON, fail."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def assert_complete(folder: Path, config: Quickstart) -> dict[str, Any]:
    """All that a run promises is in its folder, and its parts agree; returns the record."""
    record = strict_json(folder / "record.json")
    assert record["experiment"] == "quickstart" and record["command"].startswith("python -m experiments.quickstart")
    assert record["versions"]["python"] == platform.python_version() and "torch" in record["versions"]
    assert record["hardware"]["cores"] >= 1 and record["hardware"]["processor"]
    assert (record["config"]["seed"], record["config"]["evaluations"]) == (config.seed, config.evaluations)
    assert record["config"]["recipe"] == asdict(config.recipe)
    results = record["results"]
    assert [row["name"] for row in results["rows"]] == NAMES
    assert [row["evaluations"] for row in results["rows"]] == [None, config.evaluations, config.evaluations, 1]
    assert {name: len(tried) for name, tried in results["trials"].items()} == {
        "RC-NAS": config.evaluations, "random search": config.evaluations, "RobustResNet rule": 1
    }  # fmt: skip
    for row in results["rows"]:
        assert list(row["accuracies"]) == list(TEST_ATTACKS)
        network = NetworkSpec.from_dict(row["network"])
        assert (row["params"], row["macs"]) == (cost(network).params, cost(network).macs)
        assert row["within_budget"] == (row["macs"] <= results["task"]["budget"])
    assert len(results["meta_rewards"]) == 5 * config.meta_iterations * config.meta_envs
    text = (folder / "table.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].strip("| ") for line in lines[1:]] == NAMES
    assert results["verdict"] in text and f"chosen by eval {config.select}" in text
    for name in ("stages", "learning", "accuracy"):
        picture = imread(folder / f"{name}.png")
        assert picture.shape[0] > 400 and picture.shape[1] > 900
        assert picture[..., :3].std() > 0.05, "blank"
    agent, extra = load_checkpoint(folder / "agent")
    assert (agent.iteration, extra["rewards"]) == (config.meta_iterations, results["meta_rewards"])
    return record


def test_the_run_leaves_all_that_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the trainings: the engine is the analytic one."""
    asked: list[dict[str, Any]] = []

    def analytic(engine: str, store: Any, **options: Any) -> AnalyticEvaluator:
        asked.append({"engine": engine, **options})
        return AnalyticEvaluator()

    monkeypatch.setattr(quickstart, "make_engine", analytic)
    config = replace(
        SMALL, out=tmp_path / "run", meta_iterations=2, meta_envs=2, evaluations=5, select="reward", seed=4
    )
    assert run(config) == tmp_path / "run"
    assert asked == [{"engine": "trained", "workers": 0, "device": "auto", "time_limit": None}]
    first = assert_complete(tmp_path / "run", config)
    run(config)  # resumed: the checkpoint is whole, the search starts from it again
    again = assert_complete(tmp_path / "run", config)
    assert again["results"]["trials"] == first["results"]["trials"]
    assert again["results"]["rows"] == first["results"]["rows"]


@pytest.mark.slow
def test_the_real_run_and_its_repetition_from_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real trainings and attacks, AutoAttack among them: about 80 s on one core."""
    monkeypatch.setenv("RCNAS_STORE", str(tmp_path / "store"))
    config = replace(SMALL, out=tmp_path / "run")
    run(config)
    first = assert_complete(tmp_path / "run", config)
    assert any(row["accuracies"]["clean"] > 0.3 for row in first["results"]["rows"]), "nothing was learnt"
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()}
    assert len([path for path in kept if path.suffix == ".safetensors"]) >= 6
    start = time.perf_counter()
    run(config)
    assert time.perf_counter() - start < 15
    again = assert_complete(tmp_path / "run", config)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()} == kept
    assert again["results"]["rows"] == first["results"]["rows"]
    assert again["results"]["verdict"] == first["results"]["verdict"]
    trained = [trial for tried in again["results"]["trials"].values() for trial in tried]
    assert all(trial["from_store"] for trial in trained if trial["robust_accuracy"] is not None)
    fresh = replace(config, out=tmp_path / "fresh", fresh=True, meta_iterations=0, evaluations=1)
    run(fresh)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*") if path.is_file()} == kept
    assert any((tmp_path / "fresh" / "store").rglob("*.safetensors"))


class Interrupting(AnalyticEvaluator):
    """The analytic engine, with the user's Ctrl-C after so many calls."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
        if not self.calls:
            raise KeyboardInterrupt
        self.calls -= 1
        return super().evaluate(jobs, on_done)


@pytest.mark.parametrize("calls", [0, 20])
def test_meta_training_goes_on_where_it_was_interrupted(tmp_path: Path, calls: int) -> None:
    config = replace(SMALL, meta_iterations=4, meta_envs=2)
    whole, rewards = meta_train(config, AnalyticEvaluator(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        meta_train(config, Interrupting(calls), tmp_path / "cut")
    resumed, same_rewards = meta_train(config, AnalyticEvaluator(), tmp_path / "cut")
    assert same_rewards == rewards and len(rewards) == 40
    ours, theirs = resumed.policy.state_dict(), whole.policy.state_dict()
    assert all((ours[name] == theirs[name]).all() for name in ours)
    untouched = CountingEvaluator(AnalyticEvaluator())
    meta_train(config, untouched, tmp_path / "cut")
    assert untouched.calls == []


def test_a_run_is_not_resumed_under_other_settings(tmp_path: Path) -> None:
    config = replace(SMALL, meta_iterations=1)
    meta_train(config, AnalyticEvaluator(), tmp_path)
    with pytest.raises(ValueError, match="out must be a new folder"):
        meta_train(replace(config, seed=config.seed + 1), AnalyticEvaluator(), tmp_path)


def test_a_kill_while_the_checkpoint_is_replaced_does_not_start_again(tmp_path: Path) -> None:
    config = replace(SMALL, meta_iterations=1)
    agent, rewards = meta_train(config, AnalyticEvaluator(), tmp_path)
    (tmp_path / "agent").rename(tmp_path / ".replaced-agent")  # as save_checkpoint leaves it between its renames
    counted = CountingEvaluator(AnalyticEvaluator())
    assert meta_train(config, counted, tmp_path)[1] == rewards
    assert counted.calls == []


def test_the_target_task_is_none_of_meta_trainings() -> None:
    target, pool = target_task(), meta_buffers().base_tasks()
    assert target.attack not in {each.attack for each in pool}
    assert target.teacher not in {each.teacher for each in pool}
    assert target.budget not in {each.budget for each in pool}


def test_what_is_chosen_cannot_depend_on_test_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every job before the choice is of the eval set, every job after it of the test set."""
    counted = CountingEvaluator(AnalyticEvaluator())
    monkeypatch.setattr(quickstart, "make_engine", lambda *arguments, **options: counted)
    chosen_after: list[int] = []

    def noted(trials: Any, rule: str) -> Any:
        chosen_after.append(len(counted.calls))
        return select(trials, rule)

    monkeypatch.setattr(quickstart, "select", noted)
    run(replace(SMALL, out=tmp_path))
    assert len(set(chosen_after)) == 1 and len(chosen_after) == 3
    before, after = counted.calls[: chosen_after[0]], counted.calls[chosen_after[0] :]
    assert {job.split for call in before for job in call} == {"eval"}
    assert {job.split for call in after for job in call} == {"test"}
    assert counted.closed


# -- the record ------------------------------------------------------------------------------------------


def test_a_record_traces_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--seed", "3"])
    record = RunRecord("quickstart", tmp_path / "deep" / "run", {"seed": 3, "out": tmp_path})
    time.sleep(0.05)
    record.phase("search")
    record.phase("tests")
    time.sleep(0.02)
    record.phase("search")
    record.results = {"accuracy": 0.5}
    found = strict_json(record.finish())
    assert found["command"] == "python -m experiments.quickstart --seed 3"
    assert found["config"] == {"seed": 3, "out": str(tmp_path)}
    assert found["results"] == {"accuracy": 0.5}
    seconds = found["seconds"]
    assert 0.07 <= seconds["search"] < 5 and 0 <= seconds["tests"] < 5
    assert seconds["all"] == pytest.approx(seconds["search"] + seconds["tests"])
    assert found["versions"] == versions() and found["started"].endswith("+00:00")
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert found["commit"].rstrip("+") == (git.stdout.strip() if git.returncode == 0 else "unknown")


def test_a_record_is_of_the_packages_that_run() -> None:
    import gymnasium
    import torch

    assert versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert versions()["gymnasium"] == gymnasium.__version__
    assert versions()["python"] == platform.python_version()


def test_wandb_is_off_unless_asked_for(tmp_path: Path) -> None:
    record = RunRecord("quickstart", tmp_path, {})
    record.log_to_wandb("off")
    assert list(tmp_path.iterdir()) == []


# -- the command line ------------------------------------------------------------------------------------


def test_help_is_printed_and_lists_the_settings() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.quickstart", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for option in ("--select {reward,accuracy}", "--fresh", "--out", "--seed", "--recipe.epochs", "Algorithm 1"):
        assert option in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--select", "nonsense"], ["'nonsense'", "reward", "accuracy"]),
        (["--seed", "many"], ["--seed", "many"]),
        (["--sead", "1"], ["--sead"]),
    ],
)
def test_a_wrong_argument_is_told(
    arguments: list[str], said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["quickstart", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert all(word in captured.err + captured.out for word in said)


def test_arguments_reach_the_settings() -> None:
    given = ["--select", "reward", "--fresh", "--seed", "3", "--recipe.epochs", "7", "--final-recipe.n-test", "50"]
    found = tyro.cli(Quickstart, args=given)
    assert (found.select, found.fresh, found.seed) == ("reward", True, 3)
    assert (found.recipe, found.final_recipe.n_test) == (Quickstart().recipe.but(epochs=7), 50)
    assert found.evaluations == Quickstart().evaluations


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(config: Quickstart) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "run", interrupted)
    monkeypatch.setattr(sys, "argv", ["quickstart"])
    assert main() == 130
    assert "goes on from there" in capsys.readouterr().err
