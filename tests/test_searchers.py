"""The searchers without a policy, and the rule by which a trial is chosen."""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents.random_search
from agents.random_search import RandomSearch
from agents.scaling_rule import ScalingRule, rule_network, scaling_rule
from agents.trial import SELECTION_RULES, Trial, info_of, plain, select, trial_of
from rcnas_env.architecture import NetworkSpec, named_network
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.env import RCNASEnv
from rcnas_env.evaluation.job import Job
from rcnas_env.reward import reward_terms
from rcnas_env.task import Task
from tests.landscape import N_EVAL, environments, task, teacher

# -- random search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.3, 10.0])
def test_random_search_proposes_within_the_budget_only(share: float) -> None:
    tight = task(budget_share=share)
    searcher = RandomSearch(tight, seed=1)
    for _ in range(60):
        assert cost(compress(tight.teacher, searcher.propose())).macs <= tight.budget


def test_random_search_is_uniform_where_the_budget_binds_nothing() -> None:
    n, searcher = 2_000, RandomSearch(task(budget_share=100.0), seed=2)
    actions = [searcher.propose() for _ in range(n)]
    keep, switch = (np.stack([action[part] for action in actions]) for part in ("keep", "switch"))
    assert abs(keep.mean(0) - 0.5).max() < 5 * math.sqrt(1 / 12 / n)
    assert abs(keep.var(0) - 1 / 12).max() < 5 * math.sqrt(1 / 180 / n)
    assert abs(switch.mean(0) - 0.5).max() < 5 * 0.5 / math.sqrt(n)


def test_random_search_names_a_budget_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents.random_search, "MOST_DRAWS", 500)
    impossible = Task("digits", "fgsm", teacher(), 1_000.0)
    with pytest.raises(ValueError, match=r"task\.budget must be within reach.*got 1,000 MACs where.*costs [\d,]+"):
        RandomSearch(impossible).propose()


@pytest.mark.parametrize(("evaluations", "num_envs"), [(1, 4), (7, 3), (8, 4)])
def test_random_search_tries_as_many_as_granted_the_same_for_the_same_seed(evaluations: int, num_envs: int) -> None:
    binding, seen = task(budget_share=0.2), list[Trial]()
    trials = RandomSearch(binding, seed=3).search(environments(num_envs, binding), evaluations, seen.append)
    assert len(trials) == evaluations and seen == trials
    assert all(trial.within_budget and trial.robust_accuracy is not None for trial in trials)
    assert trials == RandomSearch(binding, seed=3).search(environments(num_envs, binding), evaluations)
    assert trials != RandomSearch(binding, seed=4).search(environments(num_envs, binding), evaluations)


def test_random_searchs_trials_do_not_depend_on_the_number_of_environments() -> None:
    one, four = (RandomSearch(task(), seed=5).search(environments(n), 8) for n in (1, 4))
    assert one == four


@pytest.mark.parametrize("drawn", [0, 1, 2])
def test_random_search_loaded_draws_what_the_saved_one_draws_next(tmp_path: Path, drawn: int) -> None:
    """After an odd number of 32-bit draws, numpy keeps the other half of a 64-bit draw: that is saved too."""
    searcher = RandomSearch(task(budget_share=0.3), seed=6)
    for _ in range(drawn):
        searcher._rng.random(dtype=np.float32)
    searcher.save(tmp_path / "deep" / "agent")
    loaded = RandomSearch.load(tmp_path / "deep" / "agent")
    assert loaded.task == searcher.task
    for _ in range(5):
        ours, theirs = searcher.propose(), loaded.propose()
        assert all(np.array_equal(ours[part], theirs[part]) for part in ("keep", "switch"))


def test_random_search_saved_in_vain_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher, path = RandomSearch(task(), seed=7), tmp_path / "agent"
    searcher.save(path)
    before = path.read_bytes()
    searcher.propose()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "replace", full)
        searcher.save(path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b'{"format": NaN}'])
def test_a_file_that_is_no_json_holds_no_agent(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "agent"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="agent file must be JSON, but"):
        RandomSearch.load(path)


RANDOM_SEARCH_DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "other format": (lambda v: v.update(format=2), "must hold 'random search' in format 1, got .* in format 2"),
    "other agent": (lambda v: v.update(agent="TPE"), "must hold 'random search' in format 1, got 'TPE'"),
    "no task": (lambda v: v.pop("task"), "agent file must .*missing 'task'"),
    "bad task": (lambda v: v["task"].update(budget=-1), "task.budget .*got -1"),
    "no state": (lambda v: v.update(generator=None), "generator must be an object .*got None"),
    "other generator": (lambda v: v["generator"].update(bit_generator="MT19937"), "bit_generator must .*'MT19937'"),
    "missing word": (lambda v: v["generator"]["state"].pop("inc"), "generator.state must .*missing 'inc'"),
    "wide word": (lambda v: v["generator"]["state"].update(state=2**128), "state.state must .*got 340282"),
    "even step": (lambda v: v["generator"]["state"].update(inc=4), "state.inc must be odd, got 4"),
    "bad flag": (lambda v: v["generator"].update(has_uint32=2), "has_uint32 must .*got 2"),
    "bad half": (lambda v: v["generator"].update(uinteger="x"), "uinteger must .*got 'x'"),
}


@pytest.mark.parametrize("damage", RANDOM_SEARCH_DAMAGES)
def test_random_search_tells_what_is_wrong_with_its_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "agent"
    RandomSearch(task()).save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    inflict, message = RANDOM_SEARCH_DAMAGES[damage]
    inflict(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        RandomSearch.load(path)


def test_random_search_names_a_task_that_is_none() -> None:
    with pytest.raises(ValueError, match="task must be a Task, got 'half'"):
        RandomSearch("half")  # type: ignore[arg-type]


# -- RobustResNet's rule ---------------------------------------------------------------------------------

LIKE = named_network("WRN-28-10")
PUBLISHED = {"RobustResNet-A1": 5.12e9, "RobustResNet-A2": 10.8e9, "RobustResNet-A3": 19.9e9, "RobustResNet-A4": 39.4e9}


def larger_than(blocks: float, like: NetworkSpec) -> NetworkSpec:
    """The next network of the rule that is another one than at `blocks`."""
    start, step = rule_network(blocks, like), 0.25
    while rule_network(blocks + step, like) == start:
        step += 0.25
    return rule_network(blocks + step, like)


@pytest.mark.parametrize("budget", [5e7, 5.12e9, 10.8e9, 19.9e9, 39.4e9])
def test_the_rule_fills_the_budget_and_no_more(budget: float) -> None:
    found = scaling_rule(budget, LIKE)
    assert cost(found).macs <= budget
    blocks = max(step / 4 for step in range(4, 400) if rule_network(step / 4, LIKE) == found)
    assert cost(larger_than(blocks, LIKE)).macs > budget
    assert (found.stem, found.input, found.classes) == (LIKE.stem, LIKE.input, LIKE.classes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_rule_is_close_to_what_its_authors_published(name: str) -> None:
    """Blocks of a stage within 1, widening factors within 1, MACs within 8 %, at the published budgets."""
    ours, theirs = scaling_rule(PUBLISHED[name], LIKE), named_network(name)
    for i, (mine, published) in enumerate(zip(ours.stages, theirs.stages, strict=True)):
        assert abs(mine.depth - published.depth) <= 1
        assert abs(mine.planes - published.planes) <= 16 * 2**i
        assert (mine.downsample, mine.robust) == (published.downsample, published.robust)
    assert 0.92 <= cost(ours).macs / cost(theirs).macs <= 1


def test_the_rules_proportions() -> None:
    found = rule_network(100, LIKE)
    assert [stage.depth for stage in found.stages] == [40, 40, 20]  # 2 : 2 : 1
    widths = [stage.planes / base for stage, base in zip(found.stages, (16, 32, 64), strict=True)]
    assert sum(stage.depth for stage in found.stages) / sum(widths) == pytest.approx(7 / 3, rel=0.01)
    assert widths == pytest.approx([100 * 3 / 7 * share for share in (4 / 11, 5 / 11, 2 / 11)], abs=0.5)


def test_a_larger_rule_network_costs_more() -> None:
    networks = [rule_network(step / 4, LIKE) for step in range(4, 300)]
    macs = [cost(network).macs for network in networks]
    assert all(b > a or networks[i] == networks[i + 1] for i, (a, b) in enumerate(zip(macs, macs[1:], strict=False)))


def test_the_rule_names_a_budget_that_is_too_small() -> None:
    smallest = cost(rule_network(1, LIKE)).macs
    assert cost(scaling_rule(smallest, LIKE)).macs == smallest
    with pytest.raises(ValueError, match=rf"budget must be at least {smallest:,} MACs.*got {smallest - 1:,}"):
        scaling_rule(smallest - 1, LIKE)


def test_the_rule_as_an_agent_scores_its_one_network_as_the_environment_would() -> None:
    own, seen = task(budget_share=0.5), list[Trial]()
    envs = environments(2, own, training_seed=3, engine_options={"noise": 0.05})
    (trial,) = ScalingRule(own).search(envs, 10, seen.append)
    assert seen == [trial]
    assert trial.student == scaling_rule(own.budget, own.teacher)
    assert trial.within_budget and (trial.params, trial.macs) == (cost(trial.student).params, cost(trial.student).macs)
    job = Job(trial.student, own, envs.envs[0].recipe, 3)
    student, network = envs.evaluator.evaluate([job, job.teacher_job])
    terms = reward_terms(
        cost(trial.student), cost(own.teacher), own.budget, student.robust_accuracy, network.robust_accuracy, 0.0
    )
    assert trial.robust_accuracy == student.robust_accuracy
    assert trial.reward == terms.reward


# -- trials and their selection --------------------------------------------------------------------------


def step(*keeps: float, share: float = 0.3) -> list[Trial]:
    """One trial an environment, whose student keeps that share of everything; the whole teacher is over budget."""
    shared = task(budget_share=share)
    envs = environments(len(keeps), shared)
    envs.reset(seed=0)
    actions = {
        "keep": np.stack([np.full((3, 2), keep, np.float32) for keep in keeps]),
        "switch": np.zeros((len(keeps), 3, 2), np.int8),
    }
    actions["switch"][:, 1:, 0] = 1
    *_, infos = envs.step(actions)
    return [trial_of(info_of(infos, index)) for index in range(len(keeps))]


def test_a_trial_is_what_the_single_environments_info_says() -> None:
    env = RCNASEnv(tasks=task(), engine="analytic", store=None, annealing_steps=0, recipe={"n_eval": N_EVAL})
    env.reset(seed=0)
    action = {"keep": np.full((3, 2), 0.3, np.float32), "switch": np.array([[0, 1], [1, 0], [1, 0]], np.int8)}
    _, value, _, _, info = env.step(action)
    trial = trial_of(info)
    assert trial.student == compress(task().teacher, action)
    assert (trial.params, trial.macs) == (cost(trial.student).params, cost(trial.student).macs)
    assert (trial.reward, trial.robust_accuracy) == (value, info["robust_accuracy"])
    assert trial.within_budget and not trial.from_store
    assert trial.robust_accuracy is not None and trial.robust_accuracy > 0


@pytest.mark.parametrize("keeps", [(0.3, 1.0), (1.0, 0.3), (1.0, 1.0), (0.3, 1.0, 0.4)])
def test_a_student_that_was_not_trained_has_no_accuracy_wherever_it_stands(keeps: tuple[float, ...]) -> None:
    for keep, trial in zip(keeps, step(*keeps), strict=True):
        over = keep == 1.0
        assert (trial.robust_accuracy is None) == over == (not trial.within_budget)
        assert (trial.reward == -1) == over


def test_a_trial_as_json_values_gives_its_student_back() -> None:
    trial = step(0.3)[0]
    value = trial.to_dict()
    assert NetworkSpec.from_dict(value["student"]) == trial.student
    assert {**value, "student": trial.student} == {field.name: getattr(trial, field.name) for field in fields(Trial)}


def test_plain_leaves_no_numpy_behind() -> None:
    nested = {"a": np.float32(0.5), "b": [np.int64(2), np.bool_(True)], "c": (np.array([[1, 2]]), "text", None)}
    found = plain(nested)
    assert found == {"a": 0.5, "b": [2, True], "c": [[[1, 2]], "text", None]}
    assert [type(entry) for entry in (found["a"], *found["b"])] == [float, int, bool]


STUDENT = teacher(1, 16)


def trial(accuracy: float | None, reward: float, macs: int = 100, within: bool = True) -> Trial:
    return Trial(STUDENT, 10, macs, within, reward, accuracy, False)


def test_the_accuracy_rule_takes_the_most_accurate_within_the_budget() -> None:
    accurate = trial(0.6, 0.1)
    trials = [trial(0.5, 0.9), accurate, trial(0.8, 0.95, within=False), trial(None, -1.0, within=False)]
    assert select(trials, "accuracy") is accurate
    assert select(trials[::-1], "accuracy") is accurate


def test_the_reward_rule_takes_the_highest_reward() -> None:
    rewarded = trial(0.5, 0.9)
    assert select([trial(0.6, 0.1), rewarded, trial(None, -1.0, within=False)], "reward") is rewarded


def test_of_equally_accurate_students_the_cheaper_is_taken() -> None:
    cheap = trial(0.6, 0.1, macs=50)
    for trials in ([trial(0.6, 0.9, macs=80), cheap], [cheap, trial(0.6, 0.9, macs=80)]):
        assert select(trials, "accuracy") is cheap


def test_with_none_within_the_budget_the_reward_decides() -> None:
    least_bad = trial(0.4, -0.2, within=False)
    trials = [trial(0.9, -0.5, within=False), least_bad, trial(None, -1.0, within=False)]
    assert all(select(trials, rule) is least_bad for rule in SELECTION_RULES)


@pytest.mark.parametrize("rule", SELECTION_RULES)
def test_no_trials_are_an_error(rule: str) -> None:
    with pytest.raises(ValueError, match="trials must be one or more, got none"):
        select([], rule)


def test_an_unknown_rule_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ValueError, match="select must be one of 'reward', 'accuracy', got 'test'"):
        select([trial(0.5, 0.5)], "test")


def test_selection_sees_trials_alone_and_they_hold_no_test_figures() -> None:
    assert {field.name for field in fields(Trial)} == {
        "student", "params", "macs", "within_budget", "reward", "robust_accuracy", "from_store"
    }  # fmt: skip
    assert list(inspect.signature(select).parameters) == ["trials", "rule"]
    envs = environments(2)
    RandomSearch(task()).search(envs, 2)
    job = Job(STUDENT, task(), replace(envs.envs[0].recipe))
    assert job.split == "eval"
