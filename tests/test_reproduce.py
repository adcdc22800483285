"""The reproduction of the paper's tables and figures: a small real run, what it leaves, and its command line."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from experiments import reproduce as command
from experiments.arena_meta import ChargingEvaluator
from experiments.export import Export, export
from experiments.reproduce import Reproduce, reproduce
from experiments.reproduction.building import finals_of
from experiments.reproduction.contents import TABLES
from experiments.reproduction.drawing import best_so_far, topology_figure
from experiments.reproduction.estimate import estimate
from experiments.reproduction.finals import final_job, prune_teacher, pruned_figures
from experiments.reproduction.plan import make_plan
from experiments.reproduction.results import Results
from experiments.reproduction.running import _fixed_trainings, run_finals, run_searches
from experiments.reproduction.scale import LAPTOP, Group
from experiments.reproduction.searches import SearchKey, SearchSettings, encoder_of, read_search, search
from experiments.reproduction.topology import keep_ratios
from rcnas_env.architecture import NetworkSpec, StageSpec
from rcnas_env.cost import cost
from rcnas_env.delivery import load_student
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import FolderStore
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.training.recipe import Recipe

QUICK = Recipe(epochs=1, batch_size=64, inner_steps=1, relative_step=0.75, n_eval=20, n_train=64, n_test=20)
RIVALS = {"advrush": "AdvRush-1@4", "robustresnet": "rule"}
TINY = replace(
    LAPTOP,
    name="tiny",
    groups={label: Group("WRN-10-1", 1.0, RIVALS) for label in ("5G", "20G")},
    table_groups={name: ("5G",) for name in ("table1", "table2", "table9", "figure4", "figure6")},
    meta_groups=("5G",),
    meta_attacks=("clean", "pgd-20"),
    search_attacks={"autoattack": "fgsm"},
    final_attacks={"autoattack": "fgsm"},  # AutoAttack takes seconds of each network, however few the images
    search_recipe=QUICK,
    final_recipe=QUICK,
    meta_iterations=1,
    meta_envs=1,
    fine_tune_evaluations=2,
    pretrain_steps=3,
    curve_seeds=2,
    seeds=2,
    autoattack_images=10,
)  # fmt: skip
SMALL_TARGETS = ("table2", "figure3", "figure4")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reproduce, Results]:
    folder = tmp_path_factory.mktemp("reproduce")
    config = Reproduce(
        SMALL_TARGETS,
        datasets=("digits",),  # whether or not there are others on this machine
        workers=0,
        store=str(folder / "store"),
        out=folder / "run",
        device="cpu",
    )
    return config, reproduce(config, TINY)


# --- a small real run ----------------------------------------------------------------------------------------------


def test_a_run_leaves_tables_figures_verdicts_and_a_record(run: tuple[Reproduce, Results]) -> None:
    config, results = run
    assert set(results.tables) == {"table2"}
    assert [row.role for row in results.tables["table2"].rows] == ["5G/rc-nas", "5G/robustresnet"]
    for row in results.tables["table2"].rows:
        assert all(cell.seeds == 2 and cell.images == 20 and 0 <= cell.value <= 100 for cell in row.cells.values())
        assert len(row.cells) == 4
    for name in ("figure3.png", "figure4.png", "tables/table2.json", "searches.json", "verdicts.md", "results.md"):
        assert (config.folder / name).stat().st_size > 0
    record = json.loads((config.folder / "record.json").read_text(encoding="utf-8"))
    assert record["results"]["tables"]["table2"] == results.tables["table2"].to_dict()
    text = (config.folder / "results.md").read_text(encoding="utf-8")
    assert "60.48" in text  # the paper's figure beside the measured one
    assert re.search(r"(not confirmed|untested)", text)


def test_searches_keep_to_their_task_and_choose_within_the_budget(run: tuple[Reproduce, Results]) -> None:
    chosen, (_, results) = [], run
    for key, found in results.found.items():
        assert len(found.trials) == TINY.fine_tune_evaluations
        assert found.task.attack == TINY.search_attack(key.attack)
        fitting = [trial for trial in found.trials if trial.within_budget]
        if fitting:
            chosen.append(key)
            assert cost(found.student).macs <= found.task.budget
            assert max(trial.robust_accuracy or 0 for trial in fitting) == best_so_far(found)[-1]
    assert len(chosen) >= len(results.found) / 2, "the loop above looked at few choices"
    assert {key.variant for key in results.found} == {"rc-nas", "r-nas"}
    assert len(results.curves["rc-nas"]) == len(results.curves["r-nas"]) == TINY.curve_seeds


def test_the_same_command_again_trains_nothing_and_says_the_same(run: tuple[Reproduce, Results]) -> None:
    config, results = run
    store = Path(config.store)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    again = reproduce(config, TINY)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before
    assert again.tables == results.tables and again.found == results.found


def test_after_a_run_an_estimate_counts_everything_as_done(run: tuple[Reproduce, Results], tmp_path: Path) -> None:
    config, _ = run
    settings = SearchSettings(TINY, config.folder, store=config.store, device="cpu")
    plan = make_plan(TINY, SMALL_TARGETS, through_teacher=False, missing=("fashion-mnist-14",))
    before = estimate(replace(settings, folder=tmp_path, store=str(tmp_path / "store")), plan)
    after = estimate(settings, plan)
    assert after.known == after.stored > before.known > before.stored == 0
    assert before.phases["meta-training"].trainings == 5 * len(plan.meta) > 0  # an iteration, an environment, T = 5
    assert before.phases["searches"].trainings == 2 * len(plan.searches)
    for name, phase in before.phases.items():
        assert phase.done == 0 and (phase.seconds > 0) == (phase.trainings > 0)
        then = after.phases[name]  # students that two searches share are trained once, and known only now
        assert then.done == then.trainings <= phase.trainings and then.seconds == 0


def test_a_student_of_the_run_is_delivered_as_it_was_measured(run: tuple[Reproduce, Results], tmp_path: Path) -> None:
    config, results = run
    out = export(Export(config.folder, out=tmp_path / "student", network="rc-nas_cifar10_5G_pgd-20"))
    student = load_student(out)
    key = SearchKey("rc-nas", "cifar10", "5G", "pgd-20")
    assert student.spec == results.found[key].student
    first = {
        final.column.key: each for final, each in results.measured.items() if final.search == key and not final.seed
    }
    clean, *attacked = student.card.measurements
    assert clean.attack == "clean" and clean.images == 20
    assert [each.accuracy for each in attacked] == [each.accuracy for each in first.values()]
    assert [each.epsilon for each in attacked] == pytest.approx([0.5 * attacked[1].epsilon * n for n in (1, 2, 3, 4)])
    assert student.card.search["name"] == "rc-nas_cifar10_5G_pgd-20"
    with pytest.raises(ValueError, match="network must be one of 'rc-nas_cifar10_5G_pgd-20', got None"):
        export(Export(config.folder))
    with pytest.raises(ValueError, match="must have the measurements of .*, got none of 4"):
        export(Export(config.folder, network="rc-nas_cifar10_5G_pgd-20", store=str(tmp_path / "empty")))


def test_the_topology_of_searches_is_drawn(run: tuple[Reproduce, Results], tmp_path: Path) -> None:
    found = list(run[1].found.values())
    topology_figure(found[:1], tmp_path / "one.png")
    topology_figure(found[:2], tmp_path / "two.png")
    heights = [int.from_bytes((tmp_path / name).read_bytes()[20:24]) for name in ("one.png", "two.png")]
    assert heights[1] == pytest.approx(2 * heights[0], abs=2)


def test_a_folder_of_other_searches_is_refused(run: tuple[Reproduce, Results]) -> None:
    config, _ = run
    with pytest.raises(ValueError, match="out must be a new folder"):
        reproduce(config, replace(TINY, fine_tune_evaluations=3))


def test_a_pruned_teacher_is_measured_once_and_kept(tmp_path: Path) -> None:
    columns = TABLES["table9"].columns[:2]
    final = next(each for each in finals_of(TINY, "table9") if each.entry.method == "hydra")
    figures = prune_teacher(TINY, tmp_path, final, columns, "cpu")
    teacher = TINY.task("cifar10", "5G", "clean").teacher
    assert set(figures) == {"clean", "pgd-20"} and figures["clean"].images == 20
    assert 0.45 < figures["clean"].params / cost(teacher).params < 0.55  # KEEP, and the batch norms
    (file,) = (tmp_path / "pruned").iterdir()
    before = file.stat().st_mtime_ns
    assert prune_teacher(TINY, tmp_path, final, columns, "cpu") == figures
    assert file.stat().st_mtime_ns == before
    assert pruned_figures(TINY, tmp_path, final, columns) == figures
    longer = replace(TINY, final_recipe=QUICK.but(epochs=2))
    assert pruned_figures(longer, tmp_path, final, columns) == {}  # of another training


def test_a_search_in_which_a_training_failed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ChargingEvaluator.evaluate

    def failing(self: ChargingEvaluator, *arguments: Any) -> list[Evaluation]:
        found = real(self, *arguments)
        self.failed["key"] = "it took longer than 1 s"
        return found

    monkeypatch.setattr(ChargingEvaluator, "evaluate", failing)
    settings = SearchSettings(TINY, tmp_path, agent_settings={"update": "step"}, store=str(tmp_path / "store"))
    key = SearchKey("r-nas", "cifar10", "5G", "clean")
    assert len(search(settings, key).trials) == 2 and read_search(tmp_path, key) is None
    monkeypatch.setattr(ChargingEvaluator, "evaluate", real)
    assert read_search(tmp_path, key) is None and search(settings, key) == read_search(tmp_path, key)


def test_processes_without_a_meta_training_train_networks_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three processes: one for the meta-training, two for fixed networks until it is done."""
    plan = replace(make_plan(TINY, ("table1",), False, ("fashion-mnist-14",)), searches=())
    settings, called = SearchSettings(TINY, tmp_path, store=str(tmp_path / "store"), device="cpu"), list[Any]()
    jobs = [job for each in _fixed_trainings(settings, plan) for job in each]
    macs = [cost(job.network).macs for job in jobs]
    assert (
        len(plan.meta) == 1
        and macs == sorted(macs)
        and {job.key for job in jobs} == {job.key for job in plan.fixed_jobs(TINY)}
    )

    def each(function: Any, calls: Any) -> Any:
        """As three processes would: the meta-training ends last but one."""
        if isinstance(calls, list):
            yield from map(function, calls)  # of the encoders
            return
        _, *others = itertools.islice(calls, 3)
        called.extend(others)
        yield function(others[0])
        called.append(next(calls))
        yield True
        assert next(calls, None) is None  # nothing more is begun
        yield False

    monkeypatch.setattr("experiments.reproduction.running.encoder_of", lambda *_: None)
    assert run_searches(settings, plan, each) == {}
    assert [call.func.__name__ for call in called] == ["_measure"] * 3
    kept = FolderStore(tmp_path / "store").keys("evaluations")
    assert sorted(kept) == sorted(job.key for job in called[0].args[1])
    monkeypatch.setattr(SearchSettings, "make_evaluator", lambda *_, **__: 1 / 0)
    assert called[1]() is False  # `run_finals` will tell


def test_final_figures_that_failed_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    plan = make_plan(TINY, ("table2",), False, ("fashion-mnist-14",))
    fixed = replace(plan, finals=tuple(final for final in plan.finals if final.search is None))
    settings = SearchSettings(TINY, tmp_path, store=str(tmp_path / "store"), device="cpu")
    real = TrainedEvaluator.evaluate

    def failing(self: TrainedEvaluator, jobs: Sequence[Job], *rest: Any) -> list[Evaluation]:
        found = real(self, jobs, *rest)
        return [replace(found[0], provenance={**found[0].provenance, "failed": "it stalled"}), *found[1:]]

    monkeypatch.setattr(TrainedEvaluator, "evaluate", failing)
    measured = run_finals(settings, fixed, {}, 0)
    assert len(measured) == len(fixed.finals) - 1
    assert f"1 of {len(fixed.finals)} final figures failed and are left out" in capsys.readouterr().err


def test_attacks_through_the_teacher_are_jobs_of_their_own_except_the_teacher_s() -> None:
    for attack_source, count in (("student", 4), ("teacher", 2)):
        finals = [each for each in finals_of(TINY, "table1", (), attack_source) if each.entry.network == "advrush"]
        assert len({each.column.key for each in finals if each.place == "cifar10"}) == count
    pairs = zip(*(_jobs(source) for source in ("student", "teacher")), strict=True)
    assert [white_box.key == through.key for white_box, through in pairs] == [True, False]


def _jobs(attack_source: str) -> list[Job]:
    """PGD on the teacher and on a rival by seed 0."""
    cells = {
        each.entry.network: final_job(TINY, each, {})
        for each in finals_of(TINY, "table1", (), attack_source)
        if each.entry.network in ("teacher", "advrush")
        and (each.place, each.entry.source, each.column.key, each.seed) == ("cifar10", "network", "pgd-20", 0)
    }
    return [job for role in ("teacher", "advrush") if (job := cells[role]) is not None]


def test_an_ablation_does_not_see_what_it_goes_without(tmp_path: Path) -> None:
    settings = SearchSettings(TINY, tmp_path, agent_settings={"update": "step"}, store=str(tmp_path / "store"))
    found = search(replace(settings, agent="vpg"), SearchKey("r-nas", "cifar10", "5G", "clean"))
    assert found.charge.evaluations >= 2  # the teacher and a student at the least
    assert load_file(tmp_path / "encoder" / "none.safetensors")
    encoder_of(settings, "no-lips")
    plain, blind = (load_file(tmp_path / "encoder" / f"{name}.safetensors") for name in ("none", "lips"))
    assert any(not torch.equal(plain[name], blind[name]) for name in plain)


def test_ratios_are_those_of_depths_and_widths() -> None:
    teacher = NetworkSpec(tuple(StageSpec(4, planes) for planes in (16, 32, 64)), input=(1, 8, 8), classes=10)
    student = NetworkSpec(tuple(StageSpec(2, planes) for planes in (16, 16, 16)), input=(1, 8, 8), classes=10)
    ratios = keep_ratios(teacher, student)
    assert [ratios[f"depth {stage}"] for stage in (1, 2, 3)] == [0.5, 0.5, 0.5]
    assert [ratios[f"width {stage}"] for stage in (1, 2, 3)] == [1.0, 0.5, 0.25]
    assert ratios["width : depth"] == pytest.approx((48 / 112) / 0.5)


def test_the_command_plans_without_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = [
        "table3",
        "--dry-run",
        "--workers",
        "0",
        "--store",
        str(tmp_path / "store"),
        "--out",
        str(tmp_path / "run"),
    ]
    monkeypatch.setattr("sys.argv", ["reproduce", *arguments])
    assert command.main() == 0
    printed = capsys.readouterr().out
    assert "meta-training" in printed and "minutes left of one worker" in printed
    assert "WRN-10-1 (teacher)" not in printed and "RobustResNet rule" in printed  # Table 3 trains no teacher
    assert not (tmp_path / "run").exists()


def test_the_command_plans_for_a_gpu_without_one_and_without_the_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RCNAS_DATA", str(tmp_path))
    arguments = ["all", "--scale", "gpu", "--dry-run", "--device", "cpu", "--store"] + [str(tmp_path / "store")]
    monkeypatch.setattr("sys.argv", ["reproduce", *arguments, "--out", str(tmp_path / "run")])
    assert command.main() == 0
    printed = capsys.readouterr()
    assert "5G, cifar10: WRN-28-10 (teacher)" in printed.out and "RobustResNet-A1" in printed.out
    assert "assumed rate" in printed.out
    assert "cifar10 is not on this machine" in printed.err and "table7 is left out" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_an_unknown_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce", "table8"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "targets must be among" in capsys.readouterr().err


def test_a_search_key_names_its_file() -> None:
    assert SearchKey("rc-nas", "cifar10", "5G", "pgd-20", 3).name == "rc-nas_cifar10_5G_pgd-20_3"
