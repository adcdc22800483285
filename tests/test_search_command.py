"""From a task to a delivered student, and from a run to a delivered network: real trainings of a second each."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.checkpoint import save_checkpoint
from agents.random_search import RandomSearch
from agents.registry import make_agent
from agents.state_encoder import StateEncoder
from agents.trial import Trial
from agents.vpg import VPG
from experiments import export, quickstart, search
from experiments.export import Export, MissingWeightsError
from experiments.finding_reader import read_finding
from experiments.quickstart import Quickstart
from experiments.report import Report, report
from experiments.reporting.searches import searches_of_record
from experiments.run_record import RunRecord
from experiments.search import NothingFoundError, choose, make_searcher, meta_agent, run
from experiments.search_plan import cheapest_student, duration, parse_budget, read_plan, training_seconds
from experiments.search_settings import Search, read_arguments
from rcnas_env.architecture import NetworkSpec, named_network
from rcnas_env.cost import cost
from rcnas_env.data import load_splits
from rcnas_env.delivery import FORMATS, MismatchError, load_student
from rcnas_env.evaluation.store import FolderStore
from rcnas_env.training.recipe import Recipe
from tests import tiny

RECIPE = Recipe(epochs=1, batch_size=128, inner_steps=1, relative_step=1.0, n_eval=20)
TINY = Search(
    teacher="WRN-10-1",
    dataset="digits",
    attack="pgd-2",
    budget="40%",
    agent="random-search",
    evaluations=2,
    workers=0,
    recipe=RECIPE,
    final_recipe=RECIPE.but(n_test=40),
    slow_attack_images=10,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Search, list[str]]:
    """A search that was really run, and what it said."""
    folder = tmp_path_factory.mktemp("search")
    config, said = replace(TINY, out=folder / "run", store=str(folder / "store")), list[str]()
    assert run(config, said.append) == folder / "run" / "student"
    return config, said


def record_of(config: Search) -> dict[str, Any]:
    return dict(json.loads((config.folder / "record.json").read_text(encoding="utf-8"))["results"])


# -- the whole search ------------------------------------------------------------------------------------


def test_a_search_delivers_the_student_that_it_measured(finished: tuple[Search, list[str]]) -> None:
    config, said = finished
    student, results = load_student(config.folder / "student"), record_of(config)
    names = [row["name"] for row in results["rows"]]
    assert names[:2] == ["teacher WRN-10-1", "random search"] and results["chosen"] == "random search"
    row = results["rows"][1]
    assert NetworkSpec.from_dict(row["network"]) == student.spec
    assert row["macs"] <= results["task"]["budget"] == round(0.4 * results["rows"][0]["macs"])
    measured = {each.attack: (each.accuracy, each.images) for each in student.card.measurements}
    assert measured == {attack: (value, row["images"][attack]) for attack, value in row["accuracies"].items()}
    assert {attack: images for attack, (_, images) in measured.items()} == {
        "clean": 40, "pgd-20": 40, "cw-40": 40, "autoattack": 10, "pgd-2": 40
    }  # fmt: skip
    assert student.card.search["task"]["attack"] == "pgd-2" and student.card.training["seed"] == 0
    assert student.card.training["recipe"] == config.final_recipe.to_dict()
    assert "torch" in student.card.versions and student.card.commit
    assert student.card.preprocessing.scale == 16
    table = (config.folder / "table.md").read_text(encoding="utf-8")
    assert table in said[-2] and all(f"| {name} |" in table for name in names)


def test_its_report_is_of_the_student_that_was_delivered(finished: tuple[Search, list[str]]) -> None:
    config, _ = finished
    record = json.loads((config.folder / "record.json").read_text(encoding="utf-8"))
    chosen, other = record["results"]["rows"][1], record["results"]["rows"][0]["network"]
    (found,) = searches_of_record(record, "record.json")
    assert (found.label, found.student) == ("random search", NetworkSpec.from_dict(chosen["network"]))
    chosen["network"] = other  # whatever the trials' best reward is
    (found,) = searches_of_record(record, "record.json")
    assert found.student == NetworkSpec.from_dict(other) and len(found.trials) == 2
    assert "data-mark" in report(Report((config.folder,), config.folder / "page.html")).read_text(encoding="utf-8")


def test_it_says_beforehand_what_will_be_trained_and_how_long(finished: tuple[Search, list[str]]) -> None:
    said = finished[1]
    assert "digits under pgd-2 (radius 0.2), WRN-10-1 of 763,520 MACs, budget 305,408 MACs (40%)" in said[0]
    assert "the teacher and up to 2 students, trades, 1 epoch each" in said[1]
    (estimate,) = (index for index, line in enumerate(said) if line.startswith("Estimate on "))
    (teacher,) = (index for index, line in enumerate(said) if line.startswith("The teacher: "))
    assert estimate < teacher


def test_the_same_command_trains_nothing_again(finished: tuple[Search, list[str]]) -> None:
    config, _ = finished
    first, weights = record_of(config), (config.folder / "student" / "model.safetensors").read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in Path(config.store).rglob("*") if path.is_file()}
    run(config, lambda line: None)
    assert {path: path.stat().st_mtime_ns for path in Path(config.store).rglob("*") if path.is_file()} == kept
    assert record_of(config)["rows"] == first["rows"]
    assert (config.folder / "student" / "model.safetensors").read_bytes() == weights
    with pytest.raises(ValueError, match="out must be a new folder, or that of a search with these settings"):
        read_plan(replace(config, seed=1))


# -- export ----------------------------------------------------------------------------------------------


def exported(config: Search, tmp_path: Path, **settings: Any) -> Path:
    return export.export(Export(config.folder, out=tmp_path / "out", **settings))


def test_any_network_of_the_table_can_be_exported(finished: tuple[Search, list[str]], tmp_path: Path) -> None:
    config, _ = finished
    teacher = load_student(exported(config, tmp_path, network="teacher WRN-10-1"))
    assert teacher.spec == named_network("WRN-10-1", (1, 8, 8), 10)
    again = load_student(exported(config, tmp_path))
    assert again.card == load_student(config.folder / "student").card
    with pytest.raises(ValueError, match="network must be one of 'teacher WRN-10-1', 'random search'"):
        exported(config, tmp_path, network="vpg")


def test_weights_that_are_gone_are_trained_again_on_request(
    finished: tuple[Search, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    config, _ = finished
    shutil.copytree(config.store, tmp_path / "store")
    store, finding = FolderStore(tmp_path / "store"), read_finding(config.folder)
    for path in store.paths("trainings", finding.job.training_key):
        path.unlink()
    arguments = [str(config.folder), "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    assert export.main() == 1
    said = capsys.readouterr().err
    assert finding.job.training_key in said and f"python -m experiments.export {config.folder} --train" in said
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(sys, "argv", ["export", *arguments, "--train"])
    assert export.main() == 0
    assert "rcnas_env.load_student(" in capsys.readouterr().out
    files = load_student(tmp_path / "out").card.files
    assert files == load_student(config.folder / "student").card.files  # the same bits
    assert store.load_training(finding.job.training_key) is not None


def test_weights_of_another_training_are_not_delivered(finished: tuple[Search, list[str]], tmp_path: Path) -> None:
    """An untrained network of the same spec: its clean accuracy gives it away."""
    from safetensors.torch import save

    from rcnas_env.networks import build

    config, _ = finished
    shutil.copytree(config.store, tmp_path / "store")
    store, finding = FolderStore(tmp_path / "store"), read_finding(config.folder)
    found = store.load_training(finding.job.training_key)
    assert found is not None
    untrained = build(finding.job.network, torch.Generator().manual_seed(9)).state_dict()
    store.save_training(finding.job.training_key, found[0], save(untrained))
    with pytest.raises(MismatchError, match="of 40 clean test images correctly, those that were measured"):
        exported(config, tmp_path, store=str(tmp_path / "store"))
    assert not (tmp_path / "out").exists()


def test_a_quickstarts_run_names_its_student_and_job(tmp_path: Path) -> None:
    recipe = RECIPE.but(n_test=20)
    config = Quickstart(
        out=tmp_path / "run", engine="analytic", meta_iterations=1, meta_envs=1, evaluations=2, pretrain_steps=2,
        workers=0, recipe=RECIPE, final_recipe=recipe, autoattack_images=10, seed=3, fresh=True,
    )  # fmt: skip
    quickstart.run(config)
    finding = read_finding(tmp_path / "run")
    assert (finding.name, finding.job.recipe, finding.job.seed) == ("RC-NAS", recipe, 3)
    assert [each.attack for each in finding.measurements] == ["clean", "pgd-20", "cw-40", "autoattack"]
    assert finding.store == str(tmp_path / "run" / "store")
    with pytest.raises(MissingWeightsError, match="--train"):  # a formula trains nothing
        export.export(Export(tmp_path / "run"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "must have a record.json: No such file"),
        ("{}", "record.json is of no finished run: no 'experiment'"),
        ('{"experiment": "matrix"}', "experiment must be one of 'search', 'quickstart', 'reproduce', got 'matrix'"),
        ("[", "Expecting value"),
    ],
)
def test_a_folder_without_a_finished_run_is_told(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "record.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_finding(tmp_path)


# -- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "macs"),
    [
        ("660000", 660_000), ("660k", 660_000), ("3G", 3e9), ("3 g", 3e9), ("1.5M", 1.5e6), ("0.2T", 2e11),
        ("1_000_000", 1e6), ("5e9", 5e9), ("40%", 400_001), ("12.5%", 125_000), ("100%", 1_000_002),
    ],
)  # fmt: skip
def test_budgets_are_macs_or_a_share(text: str, macs: float) -> None:
    assert parse_budget(text, 1_000_002) == pytest.approx(macs, rel=1e-12)


@pytest.mark.parametrize("text", ["", "0", "-5", "40 percent", "3X", "nan", "inf", "1.2.3", "%", "0%"])
def test_other_budgets_are_told(text: str) -> None:
    with pytest.raises(ValueError, match="budget must be MACs an image above 0"):
        parse_budget(text, 1_000_000)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "teacher": ({"teacher": "WRN-11-1"}, "WRN-d-w must be 6n"),
    "dataset": ({"dataset": "digit"}, "unknown dataset 'digit'"),
    "attack": ({"attack": "pdg-20"}, "unknown attack 'pdg-20'"),
    "budget": ({"budget": "1"}, "budget must be at least .* MACs, the cheapest student's, got 1"),
    "agent": ({"agent": "vgp"}, "agent must be one of 'vpg', 'vpg"),
    "rule": (
        {"agent": "scaling-rule", "budget": "20%"},
        "agent must be another than 'scaling-rule', which has no network",
    ),
    "test images": ({"slow_attack_images": 999}, r"slow_attack_images \(of digits's 240 test images\) must be"),
    "evaluations": ({"evaluations": 0}, "evaluations must be an integer of at least 1, got 0"),
    "meta": ({"meta": Path("nowhere")}, "checkpoint 'nowhere' cannot be read"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_setting_is_told_before_anything_is_done(name: str, tmp_path: Path) -> None:
    settings, said = WRONG[name]
    with pytest.raises(ValueError, match=said):
        run(replace(TINY, out=tmp_path / "run", store=str(tmp_path / "store"), **settings), lambda line: None)
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "agents.tpe", raising=False)
    monkeypatch.delitem(sys.modules, "agents.optuna_search", raising=False)
    with pytest.raises(ModuleNotFoundError, match="optuna"):
        run(replace(TINY, agent="tpe", out=tmp_path / "run", store=str(tmp_path / "store")), lambda line: None)
    assert not list(tmp_path.iterdir())


def test_recipes_are_those_of_the_data_set() -> None:
    given = ["--teacher", "WRN-28-10", "--attack", "cw-40", "--budget", "3G"]
    cifar = read_arguments([*given, "--dataset=cifar10", "--final-recipe.beta", "4"], None)
    assert (cifar.recipe.epochs, cifar.final_recipe.epochs, cifar.final_recipe.beta) == (5, 100, 4.0)
    digits = read_arguments([*given, "--dataset", "digits", "--recipe.epochs", "1"], None)
    assert (digits.recipe.epochs, digits.final_recipe.epochs, digits.recipe.batch_size) == (1, 8, 64)
    fashion = read_arguments([*given, "--dataset", "fashion-mnist", "--format", "onnx", "safetensors"], None)
    assert (fashion.recipe.n_train, fashion.final_recipe.n_train) == (2_000, None)
    assert fashion.format == ("onnx", "safetensors") and set(fashion.format) < set(FORMATS)


def test_wandb_gets_the_record_once_the_student_is_there(
    finished: tuple[Search, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, asked = finished[0], list[str]()

    def ask(record: RunRecord, mode: str) -> None:
        assert (config.folder / "student" / "student.json").exists() and record.results["trials"]
        asked.append(mode)

    monkeypatch.setattr(RunRecord, "log_to_wandb", ask)
    run(replace(config, wandb="offline"), lambda text: None)
    assert asked == ["offline"]


def test_equal_settings_have_the_same_folder_and_others_another() -> None:
    assert TINY.folder == replace(TINY, workers=2, format=("onnx",), wandb="offline").folder
    folders = {replace(TINY, **change).folder for change in ({}, {"seed": 1}, {"budget": "3G"}, {"agent": "vpg"})}
    assert len(folders) == 4


def test_a_meta_trained_agent_is_started_from_if_it_fits(tmp_path: Path) -> None:
    agent = make_agent("vpg+", read_plan(TINY).task, 5, StateEncoder(RECIPE.n_eval))
    assert isinstance(agent, VPG)
    save_checkpoint(agent, tmp_path / "agent")
    config = replace(TINY, agent=None, meta=tmp_path / "agent")
    found = meta_agent(config)
    assert found is not None and (found.kind, found.seed) == ("vpg+", 5)
    made = [make_searcher(replace(config, seed=seed), read_plan(TINY).task, None) for seed in (0, 1)]  # type: ignore[arg-type]
    assert isinstance(made[0], VPG) and isinstance(made[1], VPG)
    assert len({5, made[0].seed, made[1].seed}) == 3  # its draws are the search's, not meta-training's again
    with pytest.raises(ValueError, match="agent must be that of meta, 'vpg\\+', or not given, got 'vpg'"):
        meta_agent(replace(config, agent="vpg"))
    with pytest.raises(ValueError, match="recipe.n_eval must be 20, as in the meta-training"):
        meta_agent(replace(config, recipe=RECIPE.but(n_eval=30)))


def trial(macs: int, accuracy: float | None, within: bool = True) -> Trial:
    return Trial(tiny.STUDENT, 1, macs, within, -1.0 if accuracy is None else accuracy, accuracy, False)


def test_the_chosen_student_is_within_the_budget() -> None:
    agent = RandomSearch(read_plan(TINY).task)
    tried = [trial(9, 0.9, within=False), trial(3, 0.5), trial(2, 0.6), trial(1, None)]
    for rule in ("agent", "accuracy", "reward"):
        assert choose(replace(TINY, select=rule), agent, tried) is tried[2]  # type: ignore[arg-type]
    with pytest.raises(NothingFoundError, match="none of 1 students is within the budget and right on any"):
        choose(TINY, agent, [trial(20, 0.0)])  # as of a training that diverged
    with pytest.raises(NothingFoundError, match="none of 2 students is within the budget"):
        choose(TINY, agent, [tried[0], tried[3]])


def test_the_cheapest_student_is_one() -> None:
    teacher = named_network("WRN-16-1", (1, 8, 8), 10)
    assert isinstance(teacher, NetworkSpec)
    assert 0 < cheapest_student(teacher) < 0.05 * cost(teacher).macs


def test_the_estimate_is_a_step_s_seconds_times_epochs_and_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    real = training_seconds(tiny.job(recipe=RECIPE.but(epochs=50)), "cpu")
    images = len(load_splits("digits", 20).train)
    assert real > 50 * images / 128 * 1e-4, "less than a tenth of a millisecond a step"
    monkeypatch.setattr("experiments.search_plan._step_seconds", lambda *_: 0.25)
    estimates = [training_seconds(tiny.job(recipe=RECIPE.but(epochs=epochs)), "cpu") for epochs in (1, 50)]
    assert estimates == pytest.approx([0.25 * images / 128, 50 * 0.25 * images / 128])
    assert [duration(seconds) for seconds in (0.2, 89, 90, 600, 9000)] == ["1 s", "89 s", "2 min", "10 min", "2.5 h"]


def test_an_error_on_the_command_line_ends_with_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--teacher", "WRN-10-1", "--dataset", "digits", "--attack", "pgd-2", "--budget", "many"]
    monkeypatch.setattr(sys, "argv", ["search", *arguments])
    assert search.main() == 2
    assert "search: error: budget must be MACs an image" in capsys.readouterr().err
