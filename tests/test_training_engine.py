"""What trains for a command: its options reach the engine; for real on Ray in the slow test."""

from __future__ import annotations

import functools
import multiprocessing
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tyro

from benchmarks.kill_commands import recording
from benchmarks.killed_run import become
from benchmarks.run_digest import differences
from experiments import arena_settings, compare_agents, quickstart, record_table, reproduce, search
from experiments.reproduction import running, searches
from experiments.search_settings import read_arguments
from experiments.training_engine import training_options
from rcnas_env.evaluation import work
from rcnas_env.evaluation.faults import FaultWarning
from tests import training_faults
from tests.test_search_command import TINY

ADDRESS, LIMIT = "head:6379", 3600.0


class Asked(Exception):
    """Raised in the engine's place, with what it was asked to be."""


def asked(monkeypatch: pytest.MonkeyPatch, module: Any, call: Callable[[], object]) -> dict[str, Any]:
    """The engine and the options that a call asks `module.make_engine` for."""

    def raises(engine: str, store: Any, **options: Any) -> None:
        raise Asked({"engine": engine, **options})

    monkeypatch.setattr(module, "make_engine", raises)
    with pytest.raises(Asked) as found:
        call()
    return dict(found.value.args[0])


CLUSTER = ["--ray-address", ADDRESS, "--time-limit", str(LIMIT), "--workers", "3"]
ON_RAY = {"engine": "ray", "workers": 3, "num_gpus": None, "address": ADDRESS, "time_limit": LIMIT}
SEARCH = ["--teacher", "WRN-10-1", "--dataset", "digits", "--attack", "pgd-2", "--budget", "40%"]


def test_search_quickstart_and_record_table_ask_for_the_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line = ["--engine", "ray", *CLUSTER]
    out = ["--out", str(tmp_path / "run")]
    config = read_arguments([*SEARCH, *line, *out], None)
    assert asked(monkeypatch, search, lambda: search.run(config, lambda text: None)) == ON_RAY
    config = tyro.cli(quickstart.Quickstart, args=[*line, *out])
    assert asked(monkeypatch, quickstart, lambda: quickstart.run(config)) == ON_RAY
    config = tyro.cli(record_table.TableRecording, args=line)
    found = asked(monkeypatch, record_table, lambda: record_table.record(config))
    assert found == {**ON_RAY, "num_gpus": 0}  # a table is of the CPU's results


def test_the_arena_and_the_reproduction_ask_for_the_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tyro.cli(compare_agents.CompareAgents, args=["--engine", "trained", *CLUSTER])
    for settings in (config, config.alone()):  # worker processes get the second
        assert asked(monkeypatch, arena_settings, settings.make_evaluator) == {**ON_RAY, "workers": settings.envs}
    config = tyro.cli(reproduce.Reproduce, args=["table1", *CLUSTER, "--out", str(tmp_path)])
    settings = config.settings()
    assert asked(monkeypatch, searches, settings.make_evaluator) == {**ON_RAY, "workers": 1}
    finals: Any = SimpleNamespace(finals=[])
    found = asked(monkeypatch, searches, lambda: running.run_finals(settings, finals, {}, config.workers))
    assert found == ON_RAY


def test_a_time_limit_alone_asks_for_processes_that_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = {"engine": "trained", "workers": 1, "device": "auto", "time_limit": LIMIT}
    options = ["--time-limit", str(LIMIT), "--workers", "0"]
    arena = tyro.cli(compare_agents.CompareAgents, args=["--engine", "trained", *options])
    assert asked(monkeypatch, arena_settings, arena.make_evaluator) == limited
    settings = tyro.cli(reproduce.Reproduce, args=["table1", *options]).settings()
    assert asked(monkeypatch, searches, settings.make_evaluator) == limited
    assert training_options("trained", 2, "auto", None, LIMIT) == {"workers": 2, "device": "auto", "time_limit": LIMIT}


def test_where_it_runs_does_not_decide_a_result() -> None:
    plain = read_arguments([*SEARCH, "--workers", "3"], None)
    cluster = read_arguments([*SEARCH, "--engine", "ray", *CLUSTER], None)
    assert plain != cluster and plain.deciding() == cluster.deciding() and plain.folder == cluster.folder
    arena = tyro.cli(compare_agents.CompareAgents, args=["--engine", "trained"])
    assert tyro.cli(compare_agents.CompareAgents, args=["--engine", "trained", *CLUSTER]).deciding() == arena.deciding()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("trained", 1, "cpu", ADDRESS), "ray_address must be given with the engine 'ray', got 'head:6379'"),
        (("ray", 1, "cuda:1", ADDRESS), "device must be 'auto' or 'cpu' with the engine 'ray'.* got 'cuda:1'"),
    ],
)
def test_options_that_contradict_each_other(options: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_options(*options)


def test_a_search_without_workers_refuses_a_time_limit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = [*SEARCH, "--workers", "0", "--time-limit", "9", "--out", str(tmp_path), "--agent", "random-search"]
    monkeypatch.setattr(sys, "argv", ["search", *line])
    assert search.main() == 2
    assert "search: error: time_limit" in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_that_stalls_does_not_stall_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its teacher takes an hour; the search goes on with it as diverged, and ends."""
    (tmp_path / "notes").mkdir()
    config = replace(TINY, workers=1, time_limit=5.0, out=tmp_path / "run", store=str(tmp_path / "store"))
    teacher = search.read_plan(config).task.teacher
    monkeypatch.setattr(work, "train", functools.partial(training_faults.stalls, tmp_path / "notes", teacher))
    with pytest.warns(FaultWarning, match="took longer than the time limit of 5 s"):
        search.run(config, lambda text: None)


@pytest.mark.slow
def test_a_recording_on_ray_is_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a cluster in the command's process: trainings and evaluations equal to the bit."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, options in {"here": ("--workers", "0"), "ray": ("--engine", "ray", "--workers", "2")}.items():
        command = recording(2, *options)
        arguments = (command.experiment, command.arguments(tmp_path / name))
        run = multiprocessing.get_context("spawn").Process(target=become, args=arguments)
        run.start()
        run.join(120)
        assert run.exitcode == 0
    assert differences(tmp_path / "here" / "store", tmp_path / "ray" / "store") == []
    assert list((tmp_path / "ray" / "store" / "trainings").rglob("*.safetensors"))
