"""The arena's parts: tasks, roster, landscapes, incumbents, curves over time, agreement of ranks."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from scipy import stats

from agents.registry import known_agents, make_agent
from agents.scaling_rule import scaling_rule
from agents.trial import Trial
from agents.vpg import VPGConfig
from agents.vpg_plus_settings import VPGPlusConfig
from experiments import arena_rule
from experiments.arena_agreement import agreement
from experiments.arena_landscape import AnalyticLandscape, LiveLandscape, expected_eq4, students
from experiments.arena_meta import Charge, ChargingEvaluator
from experiments.arena_pages import agent_pages
from experiments.arena_roster import ABLATIONS, RANDOM_SEARCH, ROSTER, available, chosen, entry
from experiments.arena_runs import AgentRun, Progress, RunKey
from experiments.arena_settings import ENGINES, ArenaSettings
from experiments.arena_summary import Estimate, agent_rows, bar_rows, checkpoints, collect, curve_by_hours, own_hours
from experiments.arena_tasks import held_out_task, known_tasks, meta_buffers
from rcnas_env.architecture import StageSpec
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.evaluation.analytic import PEAK_REWARD, AnalyticEvaluator, best_student
from rcnas_env.evaluation.job import Job
from rcnas_env.training.recipe import Recipe
from tests.landscape import task as large_task

RECIPE = Recipe(n_eval=10)


def test_meta_training_sees_neither_the_held_out_teacher_nor_its_attack() -> None:
    base, held_out = meta_buffers().base_tasks(), [held_out_task(name) for name in known_tasks()]
    assert not {task.teacher for task in base} & {task.teacher for task in held_out}
    assert not {task.attack for task in base} & {task.attack for task in held_out}
    depths = {tuple(stage.depth for stage in task.teacher.stages) for task in base}
    assert depths == set(itertools.product((1, 2), repeat=3)) - {(2, 2, 2)} and len(base) == 7 * 2 * 2
    for task in [*base, *held_out]:
        assert min(abs(task.budget / cost(task.teacher).macs - share) for share in (0.25, 0.5)) < 1e-5


def test_the_roster_names_agents_once_and_those_that_there_are() -> None:
    assert len({each.label for each in ROSTER}) == len(ROSTER)
    assert {each.agent for each in ROSTER} >= set(known_agents()) - {"scaling-rule"}
    assert {each.label for each in chosen(())} == set(available())
    assert [each.label for each in chosen(("tpe", "rc-nas"))] == ["rc-nas", "tpe"]
    assert all(each.encoded for each in ROSTER if each.meta_trained)
    assert entry("rc-nas").agent == entry("r-nas").agent == "vpg"
    assert all(each.about.endswith(".") for each in (*ROSTER, *ABLATIONS))


def test_every_setting_that_vpg_plus_adds_or_changes_has_a_competitor_without_it() -> None:
    defaults = vars(VPGConfig())
    added = {name for name, value in vars(VPGPlusConfig()).items() if name not in defaults or value != defaults[name]}
    assert added - {name for each in ABLATIONS for name in each.settings} == {
        "advantage_clip",  # goes with normalise
        "ratio_clip",  # does nothing at one epoch
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_what_decides_is_json_and_leaves_out_what_does_not(engine: str) -> None:
    settings = ArenaSettings(engine=engine)  # type: ignore[arg-type]
    deciding = settings.deciding()
    assert json.loads(json.dumps(deciding)) == deciding
    assert ("table" in deciding, "noise" in deciding) == (engine == "tabular", engine == "analytic")
    assert "store" not in deciding and deciding["recipe"] == settings.recipe.to_dict()


def test_the_students_are_those_that_actions_make() -> None:
    teacher = held_out_task("half").teacher
    everyone = list(students(teacher))
    assert len(everyone) == len(set(everyone))
    rng = np.random.default_rng(0)
    actions = ({"keep": rng.random((3, 2)), "switch": rng.integers(0, 2, (3, 2))} for _ in range(200))
    assert {compress(teacher, action) for action in actions} <= set(everyone)
    first = {student.stages[0] for student in everyone}  # 16 planes, 2 blocks: 8 or 16 planes, robust ones 16 alone
    assert len(first) == (2 + 1) * 2 * 2 and StageSpec(1, 8, True, False) in first


def test_the_analytic_best_is_the_peak_where_it_is_within_the_budget_and_a_real_student_elsewhere() -> None:
    half, quarter = (AnalyticLandscape(held_out_task(name), RECIPE) for name in ("half", "quarter"))
    assert half.best == PEAK_REWARD == pytest.approx(half.expected_reward(best_student(half.task)))
    assert AnalyticLandscape(large_task(), RECIPE).best == PEAK_REWARD
    with pytest.raises(ValueError, match="for the analytic optimum to be known"):
        best_student(quarter.task)
    assert 0 < quarter.best < PEAK_REWARD
    rng = np.random.default_rng(0)
    tried = [
        compress(quarter.task.teacher, {"keep": rng.random((3, 2)), "switch": rng.integers(0, 2, (3, 2))})
        for _ in range(300)
    ]
    assert max(quarter.expected_reward(student) for student in tried) <= quarter.best
    with pytest.raises(ValueError, match="task.teacher must have at most 100,000 students"):
        AnalyticLandscape(large_task(budget_share=0.01), RECIPE)


def test_real_training_judges_by_seeds_that_no_search_has() -> None:
    """Here on the analytic engine with noise, which is a function of the job as a training's is."""
    task, engine = held_out_task("half"), ChargingEvaluator(AnalyticEvaluator(noise=0.01))
    live = LiveLandscape(engine, task, RECIPE, training_seed=3, judge_seeds=20)
    student = compress(task.teacher, {"keep": np.full((3, 2), 0.5), "switch": np.ones((3, 2), int)})
    values = []
    for seed in live.judges:
        job = Job(student, task, RECIPE, seed)
        values.append(expected_eq4(*engine.engine.evaluate([job, job.teacher_job]), task.budget))
    assert live.expected_reward(student) == pytest.approx(mean(values)) and len(set(values)) == 20
    assert live.best is None and min(live.judges) > 1_000
    assert engine.charge().evaluations == 40


def trial(reward: float, within: bool = True) -> Trial:
    network = held_out_task("half").teacher
    return Trial(network, 1, 1, within, reward, 0.5, False)


def test_the_incumbent_is_the_first_of_the_best_within_the_budget() -> None:
    tried = [trial(2.0, within=False), trial(0.1), trial(0.05), trial(0.3), trial(0.3), trial(-1.0, within=False)]
    progress = Progress(make_agent("random-search", held_out_task("half")))
    for each in tried:
        progress.note(each)
    assert [each and tried.index(each) for each in progress.incumbents] == [None, 1, 1, 3, 3, 3]


def agent_run(
    label: str, seed: int, expected: list[float], best: float | None = 1.0, charged: float = 0.0, task: str = "half"
) -> AgentRun:
    """Half an hour each trial."""
    charge = Charge(7, charged * 3_600)
    return AgentRun(label, task, seed, tuple(expected), tuple(expected), (1_800.0,) * len(expected), best, charge)


def runs_of(*runs: AgentRun) -> dict[RunKey, AgentRun]:
    return {run.key: run for run in runs}


def test_a_run_goes_to_json_and_back_exactly() -> None:
    run = agent_run("tpe", 1, [0.1, 1 / 3], best=None, charged=0.1)
    assert AgentRun.from_dict(json.loads(run.to_json())) == run
    broken = {**json.loads(run.to_json()), "seconds": [1.0]}
    with pytest.raises(ValueError, match="run must have one trial or more, with all figures of each"):
        AgentRun.from_dict(broken)


def test_regret_in_time_counts_the_charge_and_an_early_end_keeps_the_incumbent() -> None:
    runs = runs_of(agent_run("rc-nas", 0, [0.2, 0.6, 0.8], charged=2.0), agent_run("rc-nas", 1, [0.4], charged=2.0))
    scores = collect(runs, ("rc-nas",), ("half",), 2, 3, 5)["rc-nas"]
    assert scores.regret[:, 0].tolist() == pytest.approx(np.array([[0.8, 0.4, 0.2], [0.6, 0.6, 0.6]]))
    assert own_hours(scores)[[0, -1]] == pytest.approx([2.5, 3.5])
    value, low, high = curve_by_hours(scores, np.array([2.5, 2.9, 3.0, 3.6]))
    assert value == pytest.approx([0.7, 0.7, 0.5, 0.4])
    assert (low[3], high[3]) == pytest.approx((0.2, 0.6))
    with pytest.raises(ValueError, match="hours must not be before the first evaluation of every run, got 2.4"):
        curve_by_hours(scores, np.array([2.4]))
    assert scores.charged_evaluations == 7


def test_where_nobody_knows_the_best_it_is_what_any_run_found() -> None:
    runs = runs_of(agent_run("tpe", 0, [0.2, 0.5], None), agent_run(RANDOM_SEARCH, 0, [0.7, 0.6], None))
    scores = collect(runs, ("tpe", RANDOM_SEARCH), ("half",), 1, 2, 5)
    assert scores["tpe"].regret[0, 0] == pytest.approx([0.5, 0.2])
    assert scores[RANDOM_SEARCH].share[0, 0] == pytest.approx([1.0, 6 / 7])
    with pytest.raises(ValueError, match="an expected reward above 0 on each task"):
        collect(runs_of(agent_run("tpe", 0, [0.0], None)), ("tpe",), ("half",), 1, 1, 5)


def test_bars_hold_the_meta_trained_against_rivals_after_as_many_evaluations_and_after_more() -> None:
    """RC-NAS is at 0.5 from its tenth student on; random search at 0.4 after 10 and 0.9 after 100, TPE at 0.6."""
    curves = {
        "rc-nas": [0.0] * 9 + [0.5] * 91,
        RANDOM_SEARCH: [0.4] * 99 + [0.9],
        "tpe": [0.6] * 100,
    }
    runs = runs_of(*(agent_run(label, seed, curve) for label, curve in curves.items() for seed in range(3)))
    rows = bar_rows(collect(runs, tuple(curves), ("half",), 3, 100, 5))
    found = [(row["after"], row["rival"], row["rival_after"], row["improvement"]["value"]) for row in rows]
    assert found == [
        (10, RANDOM_SEARCH, 10, 1.0),
        (10, "tpe", 10, 0.0),
        (30, RANDOM_SEARCH, 30, 1.0),
        (30, "tpe", 30, 0.0),
        (100, RANDOM_SEARCH, 100, 0.0),
        (100, "tpe", 100, 0.0),
        (10, RANDOM_SEARCH, 100, 0.0),
        (10, "tpe", 30, 0.0),
    ]
    assert [row["rival_regret"]["value"] for row in rows if row["rival_after"] == 100] == pytest.approx([0.1, 0.4, 0.1])
    assert {row["regret"]["value"] for row in rows} == {0.5}


def test_an_agents_page_has_its_command_settings_and_figures_by_task() -> None:
    """Of two tasks, evolution is at regret 0.5 on one and 0.1 on the other after 10."""
    ends = {("evolution", "quarter"): 0.5, ("evolution", "half"): 0.9}
    ends |= {(RANDOM_SEARCH, task): 0.4 for task in ("quarter", "half")}
    curves = {key: [0.0] * 9 + [end] * 2 for key, end in ends.items()}
    each = [(label, task, seed, curve) for (label, task), curve in curves.items() for seed in range(2)]
    runs = runs_of(*(agent_run(label, seed, curve, task=task) for label, task, seed, curve in each))
    labels, tasks = ("evolution", RANDOM_SEARCH), ("quarter", "half")
    rows = agent_rows(collect(runs, labels, tasks, 2, 11, 5), tasks)
    pages = agent_pages(ArenaSettings(evaluations=11), 2, rows).split("\n## ")
    assert [page.splitlines()[0] for page in pages[1:]] == [RANDOM_SEARCH, "evolution"]
    page = pages[2]
    assert "--engine tabular --seeds 2 --evaluations 11 --agents evolution random-search" in page
    assert "Settings: population 20, tournament 5, step 0.2." in page
    changed = ArenaSettings(
        engine="trained", tasks=("half",), judge_seeds=2, recipe=ArenaSettings().recipe.but(epochs=1), evaluations=11
    )
    options = "--evaluations 11 --tasks half --judge-seeds 2 --recipe.epochs 1 --agents evolution random-search"
    assert f"--engine trained --seeds 2 {options}" in agent_pages(changed, 2, rows)
    assert "| regret on quarter | 0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] |" in page
    assert "| regret on half | 0.100 [0.100, 0.100] |" in page
    assert "| improvement on random search | 1.00 [1.00, 1.00] |" in page


def test_the_scaling_rule_s_page_is_printed_and_an_unknown_table_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["arena_rule"])
    assert arena_rule.main() == 0
    page = capsys.readouterr().out
    assert "| quarter | 412,064 | none is small enough |" in page
    network = scaling_rule(held_out_task("half").budget, held_out_task("half").teacher)
    assert f"| {cost(network).params:,} | {cost(network).macs:,} |" in page
    monkeypatch.setattr(sys, "argv", ["arena_rule", "--table", "nowhere"])
    assert arena_rule.main() == 2 and "nowhere" in capsys.readouterr().err


def test_checkpoints_end_with_the_last_evaluation() -> None:
    assert [checkpoints(n) for n in (8, 10, 40, 100)] == [(8,), (10,), (10, 30, 40), (10, 30, 100)]


def test_no_negative_zero_is_shown() -> None:
    assert Estimate(-1e-17, -0.0004, 0.0004).text() == "0.000 [0.000, 0.000]"


def record(folder: Path, final: dict[str, float]) -> Path:
    """A finished comparison whose agents have these mean regrets after the second evaluation."""
    rows = [{"agent": label, "mean_regret": [1.0, value]} for label, value in final.items()]
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps({"results": {"best": {}, "agents": rows, "bars": []}}))
    return folder


def test_rank_agreement_of_agents_in_common(tmp_path: Path) -> None:
    """Of the six pairs of four agents one is the other way round: τ = (5 − 1) / 6; ρ = 1 − 6 · 2 / (4 · 15)."""
    first = record(tmp_path / "a", {"tpe": 0.1, "ppo": 0.2, "a2c": 0.3, "sac": 0.4, "td3": 0.0})
    second = record(tmp_path / "b", {"sac": 0.9, "tpe": 0.6, "ppo": 0.5, "a2c": 0.8})
    found = agreement(first, second)
    assert (found.agents, found.evaluations) == (("tpe", "ppo", "a2c", "sac"), 2)
    assert found.tau == pytest.approx(4 / 6) and found.rho == pytest.approx(0.8)
    assert found.tau == pytest.approx(stats.kendalltau([1, 2, 3, 4], [2, 1, 3, 4]).statistic)
    assert "4 agents after 2 evaluations: Kendall's τ 0.667, Spearman's ρ 0.800" in found.text()
    flat = record(tmp_path / "c", dict.fromkeys(("tpe", "ppo", "a2c"), 0.5))
    assert agreement(first, flat).tau is None and "not defined" in agreement(first, flat).text()
    with pytest.raises(ValueError, match="3 agents in common or more"):
        agreement(first, record(tmp_path / "d", {"tpe": 0.1, "ppo": 0.2}))
