"""The environment on real trainings, tiny ones: the same to the bit anywhere, resumed from a store, never stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rcnas_env  # noqa: F401  (registers the ids)
from rcnas_env.architecture import NetworkSpec
from rcnas_env.data import load_splits
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import FolderStore
from rcnas_env.evaluation.work import attack_images, load_network
from rcnas_env.task import Task
from tests.tiny import RECIPE, task

ROOT = Path(__file__).resolve().parent.parent
ACTIONS = [
    {"keep": np.full((3, 2), 0.5, np.float32), "switch": np.array([[0, 0], [1, 0], [1, 0]], np.int8)},
    {"keep": np.full((3, 2), 0.5, np.float32), "switch": np.array([[1, 0], [1, 0], [0, 0]], np.int8)},
]
UNSTABLE = {"learning_rate": 1e30, "gradient_clip": 1e30}


def run(store: Path | str, actions: list[dict[str, Any]] = ACTIONS, **options: Any) -> dict[str, Any]:
    """One episode on one task, as JSON values; floats go through JSON to the bit."""
    options = {"tasks": [task("pgd-2")], "recipe": RECIPE, **options}
    env = gym.make("RCNAS-v0", engine="trained", engine_options={"device": "cpu"}, store=store, **options)
    observations, infos = [env.reset(seed=0)[0]], []
    for action in actions:
        observation, _, _, _, info = env.step(action)
        observations.append(observation)
        infos.append(info)
    env.close()
    return {
        "observations": [{part: value.tolist() for part, value in each.items()} for each in observations],
        "rewards": [info["reward_terms"]["reward"] for info in infos],
        "from_store": [info.pop("effort").from_store for info in infos],
        "infos": infos,
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def first(store: Path) -> dict[str, Any]:
    return run(store)


def test_a_real_step_trains_attacks_and_scores(first: dict[str, Any]) -> None:
    assert first["from_store"] == [False, False]
    students = [NetworkSpec.from_dict(info["student"]) for info in first["infos"]]
    assert students[0] != students[1]
    for info, reward in zip(first["infos"], first["rewards"], strict=True):
        assert not info["diverged"]
        assert 0 <= info["robust_accuracy"] <= info["clean_accuracy"] <= 1
        assert 0 < info["adversarial_loss"] < 10
        assert reward == pytest.approx(
            info["reward_terms"]["compression_weight"] * info["robust_accuracy"] / info["teacher_accuracy"]
        )
    lips = np.array(first["observations"][0]["lips"])
    assert lips.shape == (RECIPE.n_eval,)
    assert (lips > 0).all()
    assert len(set(lips)) == RECIPE.n_eval


def test_another_process_with_a_fresh_store_finds_the_same_to_the_bit(first: dict[str, Any], tmp_path: Path) -> None:
    code = "import json, sys; from tests.test_env_trained import run; print(json.dumps(run(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "fresh")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(first))


def test_a_second_run_on_the_same_store_looks_everything_up(first: dict[str, Any], store: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    second = run(store)
    assert second.pop("from_store") == [True, True]
    assert second == {key: value for key, value in first.items() if key != "from_store"}
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == files


def test_the_training_seed_matters(first: dict[str, Any]) -> None:
    other = run(None, actions=[], training_seed=1)  # type: ignore[arg-type]
    assert other["observations"][0]["lips"] != first["observations"][0]["lips"]
    assert other["observations"][0]["stages"] == first["observations"][0]["stages"]


def test_an_attack_through_the_teacher_is_measured_on_its_images(first: dict[str, Any], store: Path) -> None:
    found = run(store, attack_source="teacher")
    # both attack the teacher through itself; only the students' evaluations differ
    assert found["observations"] == first["observations"]
    images, kept = load_splits("digits", RECIPE.n_eval).eval, FolderStore(store)
    for info in found["infos"]:
        assert info["task"]["attack_source"] == "teacher"
        job = Job(NetworkSpec.from_dict(info["student"]), Task.from_dict(info["task"]), RECIPE)
        student, teacher = kept.load_training(job.training_key), kept.load_training(job.teacher_job.training_key)
        assert student is not None
        assert teacher is not None
        attacked = attack_images(job.teacher_job, teacher[1]).adversarial
        assert not torch.equal(attacked, images.images())
        model = load_network(job, student[1])
        with torch.no_grad():
            right = [model(each).argmax(1) == images.labels for each in (images.images(), attacked)]
        assert info["robust_accuracy"] == pytest.approx((right[0] & right[1]).float().mean().item())
    white_box = [info["adversarial_loss"] for info in first["infos"]]
    assert [info["adversarial_loss"] for info in found["infos"]] != white_box


@pytest.mark.parametrize("batch_size", [128, 2_000])  # of 2,000: one step, whose loss is the untrained network's
def test_a_training_that_diverges_counts_as_no_accuracy_and_the_run_goes_on(batch_size: int, tmp_path: Path) -> None:
    options = {"recipe": RECIPE.but(batch_size=batch_size, **UNSTABLE), "annealing_steps": 2}
    within = run(tmp_path, **options)
    over = run(tmp_path, tasks=task("pgd-2", budget=1.0), **options)
    for found, rewards in ((within, [0.0, 0.0]), (over, [0.0, -0.5])):  # ε − 1 over budget, ε = 1 and 0.5
        assert found["rewards"] == rewards
        for info in found["infos"]:
            assert (info["diverged"], info["teacher_diverged"], info["evaluated"]) == (True, True, True)
            assert (info["robust_accuracy"], info["clean_accuracy"], info["teacher_accuracy"]) == (0.0, 0.0, 0.0)
            assert info["adversarial_loss"] == float("inf")
        for observation in found["observations"]:
            assert observation["lips"] == [0.0] * RECIPE.n_eval
    assert over["from_store"] == [True, True]
