"""The registered environments: Gymnasium's contract, the transition, the info, errors; engine "analytic"."""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from rcnas_env.architecture import NetworkSpec
from rcnas_env.cost import cost
from rcnas_env.env import RCNASEnv
from rcnas_env.reward import reward_terms
from rcnas_env.step import Effort
from rcnas_env.task import Task, TaskBuffers
from rcnas_env.training.recipe import Recipe
from rcnas_env.wrappers import DiscreteAction, FlatAction

if TYPE_CHECKING:
    from tests.conftest import CountingEvaluator

IDS = [name for name, spec in gym.registry.items() if str(spec.entry_point).startswith("rcnas_env.")]
N_EVAL = 12
RECIPE = {"n_eval": N_EVAL}

# Every warning of the two checkers, by how it begins, and why it stays.
GYMNASIUM_WARNINGS = {
    "A Box observation space maximum value is infinity": "neither LIPS nor the cost of a teacher has an upper bound",
}
SB3_WARNINGS = {
    "Your observation stages has an unconventional shape": "a row a stage is what a stage encoder reads; SB3 flattens",
}


def make(env_id: str = "RCNAS-v0", **options: Any) -> gym.Env[Any, Any]:
    own = {"engine": "analytic", "store": None, "recipe": RECIPE} if env_id == "RCNAS-v0" else {}
    return gym.make(env_id, **{**own, **options})


def bare(env: gym.Env[Any, Any]) -> RCNASEnv:
    assert isinstance(env.unwrapped, RCNASEnv)
    return env.unwrapped


def actions(env: gym.Env[Any, Any], count: int, seed: int = 0) -> list[dict[str, Any]]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def keep_all(task: Task) -> dict[str, Any]:
    """The action that returns the teacher itself."""
    switch = [[stage.downsample, stage.robust] for stage in task.teacher.stages]
    return {"keep": np.ones((3, 2), np.float32), "switch": np.array(switch, np.int8)}


def rollout(env: gym.Env[Any, Any], seed: int, steps: int = 8) -> str:
    """Observations, rewards and infos as JSON to the bit, with resets where an episode ends; without the effort."""
    observation, info = env.reset(seed=seed)
    found: list[Any] = [(observation, info)]
    for action in actions(env, steps, seed):
        observation, reward, terminated, truncated, info = env.step(action)
        del info["effort"]
        found.append((observation, reward, terminated, truncated, info))
        if truncated:
            found.append(env.reset())
    return json.dumps(found, default=np.ndarray.tolist)


def assert_only_known(caught: list[warnings.WarningMessage], known: dict[str, str]) -> None:
    texts = [str(each.message) for each in caught]
    assert [text for text in texts if not any(beginning in text for beginning in known)] == []
    assert [beginning for beginning in known if not any(beginning in text for text in texts)] == []  # none is stale


def test_the_package_registers_its_environments() -> None:
    assert "RCNAS-v0" in IDS


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_s_checker_passes(env_id: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(make(env_id, render_mode="rgb_array").unwrapped)
    assert_only_known(caught, GYMNASIUM_WARNINGS)


@pytest.mark.parametrize("wrapper", [FlatAction, DiscreteAction])
@pytest.mark.parametrize("env_id", IDS)
def test_stable_baselines3_s_checker_passes_behind_flat_actions(env_id: str, wrapper: type[gym.Wrapper]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env_for_sb3(wrapper(make(env_id)))
    assert_only_known(caught, SB3_WARNINGS)


@pytest.mark.parametrize("env_id", IDS)
def test_equal_seeds_and_actions_give_equal_runs(env_id: str) -> None:
    first = rollout(make(env_id), seed=3)
    assert rollout(make(env_id), seed=3) == first
    again = make(env_id)
    rollout(again, seed=4)  # what went before a seeded reset leaves no trace
    assert rollout(again, seed=3) == first
    assert rollout(make(env_id), seed=4) != first


@pytest.mark.parametrize("env_id", IDS)
def test_episodes_are_truncated_after_five_steps_unless_told_otherwise(env_id: str) -> None:
    for limit, options in ((5, {}), (1, {"max_episode_steps": 1})):
        env = make(env_id, **options)
        env.reset(seed=0)
        ends = [env.step(action)[2:4] for action in actions(env, limit)]
        assert ends == [(False, False)] * (limit - 1) + [(False, True)]


def test_the_observation_describes_the_task_s_teacher(counting_evaluator: CountingEvaluator) -> None:
    task = Task("digits", "cw-40", "RobustResNet-A1", 1e7)
    env = make(tasks=task, engine=counting_evaluator)
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert Task.from_dict(info["next_task"]) == task
    # 14, 14, 7 robust blocks of 80, 224, 192 planes (16 · 2^i times widths 5, 7, 3)
    assert observation["stages"].tolist() == [[80, 14, 0, 1], [224, 14, 1, 1], [192, 7, 1, 1]]
    assert observation["cost"].tolist() == [np.float32(cost(task.teacher).macs / 1e9)] * N_EVAL
    evaluation = counting_evaluator.engine.evaluate(counting_evaluator.calls[0])[0]
    assert observation["lips"].tolist() == np.asarray(evaluation.lips, np.float32).tolist()


def test_a_step_before_the_first_reset_is_refused() -> None:
    env = RCNASEnv(engine="analytic", store=None)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(env.action_space.sample())


def test_students_join_the_buffers_until_the_episode_ends() -> None:
    env = bare(make())
    env.reset(seed=0)
    assert isinstance(env.tasks, TaskBuffers)
    teachers = {task.teacher for task in env.tasks.base_tasks()}
    students: set[NetworkSpec] = set()
    descended = 0
    for action in actions(env, 30):
        parent = env.task
        students.add(NetworkSpec.from_dict(env.step(action)[-1]["student"]))
        descended += parent.teacher not in teachers
        assert parent.teacher in teachers | students
    assert {entry.network for entry in env.tasks.students["digits"]} == students
    assert descended > 10
    env.reset()
    assert env.tasks.students == {}
    assert env.task.teacher in teachers


def test_the_task_may_be_chosen_at_reset() -> None:
    task = Task("digits", "clean", "WRN-22-1", 12_345.0)
    env = make(attack_source="teacher")
    for _ in range(3):
        _, info = env.reset(options={"task": task})
        chosen = Task.from_dict(info["next_task"])
        assert (chosen.attack, chosen.budget, chosen.teacher) == ("clean", 12_345.0, task.teacher)
        assert chosen.attack_source == "teacher"  # the environment's argument overrides the task's


def test_annealing_runs_over_episodes_until_a_seeded_reset() -> None:
    env = make(annealing_steps=4, max_episode_steps=2)
    env.reset(seed=0)
    found = []
    for index, action in enumerate(actions(env, 6)):
        found.append(env.step(action)[-1]["reward_terms"]["annealing"])
        if index % 2:
            env.reset()
    assert found == [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    for options, expected in (({"seed": 0}, 1.0), ({"seed": 0, "options": {"steps_taken": 3}}, 0.25)):
        env.reset(**options)
        assert bare(env).annealing == expected
    env.reset(options={"steps_taken": 1})
    assert bare(env).annealing == 0.75


@pytest.mark.parametrize(
    "options", [{"penalty": "hard"}, {"penalty": "annealed", "annealing_steps": 0}, {"penalty": "annealed"}]
)
def test_a_student_is_evaluated_only_where_the_reward_depends_on_it(
    options: dict[str, Any], counting_evaluator: CountingEvaluator
) -> None:
    env = bare(make(engine=counting_evaluator, **options))
    env.reset(seed=0)
    teacher_calls = len(counting_evaluator.calls)
    task = env.task
    _, reward, _, _, info = env.step(keep_all(task))  # twice the budget at least
    asked = [job.network for call in counting_evaluator.calls[teacher_calls:] for job in call]
    if options == {"penalty": "annealed"}:
        assert asked == [task.teacher, env.task.teacher]
        assert (info["evaluated"], reward) == (True, 0.0)  # ε = 1 and C = 0
    else:
        assert asked == [env.task.teacher]
        assert (info["evaluated"], info["robust_accuracy"], info["adversarial_loss"]) == (False, None, None)
        assert (info["reward_terms"]["accuracy_ratio"], reward) == (None, -1.0)


def test_every_job_is_by_the_environment_s_recipe_and_seed(counting_evaluator: CountingEvaluator) -> None:
    env = bare(make(engine=counting_evaluator, training_seed=5))
    env.reset(seed=0)
    env.step(actions(env, 1)[0])
    jobs = [job for call in counting_evaluator.calls for job in call]
    assert [(job.recipe, job.seed, job.split) for job in jobs] == [(env.recipe, 5, "eval")] * 3
    assert env.recipe.to_dict() == Recipe(**RECIPE).to_dict()


INFO_TYPES: dict[str, Any] = {
    **dict.fromkeys(("task", "next_task", "student", "reward_terms"), dict),
    **dict.fromkeys(("params", "macs"), int),
    **dict.fromkeys(("robust_accuracy", "clean_accuracy", "adversarial_loss", "teacher_accuracy"), float),
    **dict.fromkeys(("teacher_diverged", "diverged", "evaluated"), bool),
    "effort": Effort,
}


def test_info_holds_what_is_documented() -> None:
    table = (RCNASEnv.__doc__ or "").split("## Info")[1].split("##")[0]
    documented = [key for row in re.findall(r"^ *\| ([a-z_, ]+) \|", table, re.M) for key in row.split(", ")]
    assert {*documented} - {"key"} == set(INFO_TYPES)
    env = make(penalty="hard")
    env.reset(seed=0)
    task = bare(env).task
    small = {"keep": np.full((3, 2), 0.3, np.float32), "switch": np.array([[1, 0]] * 3, np.int8)}
    for action, evaluated in ((small, True), (keep_all(bare(env).task), False)):
        _, reward, _, _, info = env.step(action)
        assert info["evaluated"] is evaluated
        measured = {"robust_accuracy", "clean_accuracy", "adversarial_loss"}
        for key, kind in INFO_TYPES.items():
            expected = type(None) if key in measured and not evaluated else kind
            assert type(info[key]) is expected, key
        assert set(info) == set(INFO_TYPES)
        for key in ("task", "next_task", "student", "reward_terms"):
            assert json.loads(json.dumps(info[key], allow_nan=False)) == info[key]
        student = NetworkSpec.from_dict(info["student"])
        assert Task.from_dict(info["task"]) == task
        task = bare(env).task
        assert Task.from_dict(info["next_task"]) == task
        assert (info["params"], info["macs"]) == (cost(student).params, cost(student).macs)
        assert (type(reward), reward) == (float, info["reward_terms"]["reward"])


def test_the_reward_is_equation_4_of_the_info() -> None:
    env = make(annealing_steps=3)
    env.reset(seed=1)
    for action in actions(env, 5):
        _, reward, _, _, info = env.step(action)
        task, student = Task.from_dict(info["task"]), NetworkSpec.from_dict(info["student"])
        accuracies = info["robust_accuracy"], info["teacher_accuracy"]
        epsilon = info["reward_terms"]["annealing"]
        terms = reward_terms(cost(student), cost(task.teacher), task.budget, *accuracies, epsilon)
        assert terms.reward == reward


def test_full_compression_emphasis_is_the_default() -> None:
    assert rollout(make(compression_emphasis=1.0), seed=2) == rollout(make(), seed=2)
    assert rollout(make(compression_emphasis=0.9), seed=2) != rollout(make(), seed=2)


def test_without_compression_emphasis_the_most_accurate_student_within_the_budget_wins() -> None:
    task = Task("digits", "cw-40", "WRN-16-1", 8e5)
    best, infos = {}, list[dict[str, Any]]()
    for emphasis in (1.0, 0.0):
        env = make(tasks=task, annealing_steps=0, max_episode_steps=60, compression_emphasis=emphasis)
        env.reset(seed=0)
        infos = [env.step(action)[-1] for action in actions(env, 60)]
        best[emphasis] = max(infos, key=lambda info: info["reward_terms"]["reward"])
    fitting = [info for info in infos if info["macs"] <= task.budget]
    assert 10 < len(fitting) < 60
    ratios = [info["robust_accuracy"] / info["teacher_accuracy"] for info in fitting]
    assert [info["reward_terms"]["reward"] for info in fitting] == ratios
    assert max(ratios) == best[0.0]["reward_terms"]["reward"]
    assert best[0.0]["robust_accuracy"] > best[1.0]["robust_accuracy"]
    assert best[0.0]["params"] > best[1.0]["params"]


def test_environments_in_lockstep_take_the_compression_emphasis_too() -> None:
    env = gym.make_vec("RCNAS-v0", 2, engine="analytic", store=None, recipe=RECIPE, compression_emphasis=0.25)
    env.reset(seed=0)
    env.action_space.seed(0)
    terms = env.step(env.action_space.sample())[-1]["reward_terms"]
    assert terms["accuracy_weight"].tolist() == (0.75 + 0.25 * terms["compression_weight"]).tolist()


def test_a_bad_action_changes_nothing() -> None:
    env, untouched = make(), make()
    for each in (env, untouched):
        each.reset(seed=0)
    good = actions(env, 1)[0]
    with pytest.raises(ValueError, match=r"action\['keep'\] must be numbers"):
        bare(env).step({**good, "keep": np.full((3, 2), np.nan)})
    (after, reward, *_), (expected, expected_reward, *_) = bare(env).step(good), bare(untouched).step(good)
    assert {part: value.tolist() for part, value in after.items()} == {k: v.tolist() for k, v in expected.items()}
    assert reward == expected_reward
    assert bare(env).steps_taken == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "digit"}, r"unknown preset 'digit'; known: .*digits.* Did you mean 'digits'\?"),
        ({"engine": "analytical"}, r"unknown engine 'analytical'; known: analytic, .*\. Did you mean 'analytic'"),
        ({"penalty": "soft"}, "penalty must be one of 'annealed', 'hard', got 'soft'"),
        ({"render_mode": "rgb"}, "render_mode must be one of 'rgb_array', 'human', 'ansi', got 'rgb'"),
        ({"recipe": {"epoch": 3}}, "recipe must have no other fields than method, epochs, .*: unknown 'epoch'"),
        ({"recipe": {"epochs": 0}}, "recipe.epochs must be an integer of at least 1, got 0"),
        ({"recipe": 3}, "recipe must be a Recipe or a mapping of its fields, got 3"),
        ({"recipe": {"n_eval": 1_557}}, "n_eval .*digits's 1557 training images.* from 10 to 1547, got 1557"),
        ({"recipe": {"n_eval": 9}}, "n_eval .* from 10 to 1547, got 9"),
        ({"attack_source": "both"}, "attack_source must be one of 'student', 'teacher', got 'both'"),
        (
            {"compression_emphasis": 1.5},
            "compression_emphasis must be a finite number, at least 0 and at most 1, got 1.5",
        ),
        ({"annealing_steps": -1}, "annealing_steps must be an integer of at least 0, got -1"),
        ({"training_seed": 0.5}, "training_seed must be an integer of at least 0, got 0.5"),
        ({"tasks": []}, "tasks must be one Task or more"),
        ({"tasks": "digits"}, "tasks must be a Task, a list of them, or a TaskSource, got 'digits'"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RCNASEnv(**{"engine": "analytic", "store": None, "recipe": RECIPE, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "digits"}, r"options\['task'\] must be a Task, got 'digits'"),
        ({"steps_taken": -1}, r"options\['steps_taken'\] must be an integer of at least 0, got -1"),
    ],
)
def test_bad_reset_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().reset(options=options)
