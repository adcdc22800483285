"""The simulated scheduler against closed forms and the real one, and the command's figures."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import scaling
from experiments.scaling_simulation import Cluster, Student, Training, simulate
from rcnas_env.cost import cost
from rcnas_env.evaluation.scheduling import Schedule
from rcnas_env.evaluation.store import MemoryStore
from tests import tiny

EQUAL = [Student(macs=1, training=3.0, attack=1.0)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("pace", ["lockstep", "own"])
def test_equal_students_take_what_the_arithmetic_says(pace: str) -> None:
    for episodes, workers, seconds in ((4, 1, 16), (4, 4, 4), (4, 8, 4), (8, 4, 8)):
        shape = Training(episodes, steps=5, iterations=3, pace=pace)  # type: ignore[arg-type]
        found = simulate(Cluster(workers), shape, EQUAL, rng())
        assert found.seconds == pytest.approx(15 * seconds) and found.work == pytest.approx(15 * episodes * 4)
        assert found.efficiency == pytest.approx(min(1.0, episodes / workers))


def test_a_task_is_longer_by_its_overhead_and_the_driver_gives_out_one_after_the_other() -> None:
    alone = simulate(Cluster(1, task_seconds=0.5, driver_seconds=0.25), Training(1, steps=1), EQUAL, rng())
    assert alone.seconds == pytest.approx(4 + 2 * 0.75) and alone.work == pytest.approx(4)
    many = simulate(Cluster(100, driver_seconds=1.0), Training(100, steps=1), EQUAL, rng())
    assert many.seconds >= 200  # of two hundred tasks


def test_lifting_a_barrier_never_costs_and_more_episodes_fill_the_workers() -> None:
    students = [Student(n, float(n), 0.1 * n) for n in range(1, 40)]

    def efficiency(episodes: int, pace: str = "lockstep", share: float = 1.0) -> float:
        shape = Training(episodes, iterations=4, pace=pace, update_share=share)  # type: ignore[arg-type]
        return float(np.mean([simulate(Cluster(8), shape, students, rng(seed)).efficiency for seed in range(5)]))

    by_episodes = [efficiency(episodes) for episodes in (2, 8, 32, 64)]
    assert all(first < second for first, second in itertools.pairwise(by_episodes))
    assert by_episodes[0] <= 2 / 8 and by_episodes[-1] < 1
    assert efficiency(8) < efficiency(8, "own") < efficiency(8, "own", 0.5) <= 1


def test_work_is_given_out_as_the_real_schedule_does() -> None:
    """One worker, one step of several episodes: the order of both is attacks first, and the largest network first."""
    jobs = [tiny.job(tiny.network(planes)) for planes in (8, 24, 16, 32)]
    schedule, order = Schedule({job.key: job for job in jobs}, MemoryStore()), list[tuple[str, int]]()
    while (given := schedule.next()) is not None:
        kind, job = given
        order.append((kind, cost(job.network).macs))
        if kind == "train":
            schedule.finish_training(job, ({}, b""))
    sizes = sorted((cost(job.network).macs for job in jobs), reverse=True)
    assert order == [(kind, size) for size in sizes for kind in ("train", "measure")]
    # with two workers: 5, 4, 3 and 1 seconds of training, the largest first, attacks of no time
    students = iter([Student(1, 1.0, 0.0), Student(5, 5.0, 0.0), Student(3, 3.0, 0.0), Student(4, 4.0, 0.0)])
    from experiments.scaling_simulation import _Run

    drawn = [*students]
    queue = iter([*drawn, *drawn])
    assert _Run(Cluster(2), Training(4, steps=1), lambda: next(queue)).run().seconds == 7.0  # 5 + 1 beside 4 + 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Cluster(0), "workers must be an integer of at least 1, got 0"),
        (lambda: Training(0), "episodes must be an integer of at least 1, got 0"),
        (lambda: Training(4, update_share=0.0), "update_share must be"),
        (lambda: Training(4, update_share=0.5), "update_share must be 1 where episodes keep step, got 0.5"),
        (lambda: simulate(Cluster(1), Training(1), [], rng()), "students must not be empty"),
    ],
)
def test_what_makes_no_sense_is_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=message):
        build()


def test_the_command_writes_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--workers", "1", "4", "--ratios", "1", "8", "--episodes", "4", "--seeds", "2", "--pool", "20"]
    out, figure = tmp_path / "scaling.json", tmp_path / "scaling.png"
    monkeypatch.setattr(sys, "argv", ["scaling", *arguments, "--out", str(out), "--figure", str(figure)])
    scaling.main()
    record = json.loads(out.read_text())
    assert record["command"] == f"python -m experiments.scaling {' '.join(sys.argv[1:])}"
    found = record["summary"]
    assert [row["episodes"] for row in found["by ratio"]] == [1, 4, 8, 32]
    assert all(0 < row["low"] <= row["efficiency"] <= row["high"] for row in found["by ratio"])
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_documented_setting_uses_its_workers() -> None:
    evidence = json.loads((scaling.EVIDENCE / "scaling.json").read_text())
    (row,) = (each for each in evidence["summary"]["by ratio"] if (each["workers"], each["episodes"]) == (64, 512))
    assert row["low"] >= 0.85


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--workers", "0"], "workers must be an integer of at least 1"),
        (["--seeds", "0"], "seeds must be an integer of at least 1"),
        (["--task-ms", "-1"], "task_ms must be"),
        (["--cost-model", "nowhere.json"], "nowhere.json"),
    ],
)
def test_a_wrong_setting_ends_with_a_message(
    arguments: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling", *arguments])
    try:
        code: object = scaling.main()
    except SystemExit as stopped:  # the command line's own way out
        code = stopped.code
    assert code == 2 and named in capsys.readouterr().err
