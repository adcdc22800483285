"""The trained engine on a Ray cluster: real worker processes, some of which are killed, and what they leave behind."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rcnas_env.evaluation import work
from rcnas_env.evaluation.evaluator import make_engine
from rcnas_env.evaluation.faults import FaultWarning
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.ray_engine import RayEvaluator
from rcnas_env.evaluation.ray_workers import OWN_CLUSTER
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import FolderStore, MemoryStore
from rcnas_env.evaluation.trained import TrainedEvaluator
from tests import tiny, training_faults
from tests.process_tree import descendants, ends

ROOT = Path(__file__).resolve().parent.parent
STUDENT, TEACHER, TRANSFER = tiny.job(), tiny.job(tiny.TEACHER), tiny.job(attack_source="teacher")
JOBS = [STUDENT, TEACHER, tiny.job(attack="pgd-2"), TRANSFER, STUDENT]
on_linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see other processes")


def timeless(evaluation: Evaluation) -> Evaluation:
    """What must be equal to the bit: all but the wall times and where it came from."""
    return dataclasses.replace(evaluation, training_seconds=0.0, attack_seconds=0.0, from_store=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayEvaluator]:
    """The engine that started this process's cluster, which the others join; with a token that is no user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex)
        patch.delenv("RAY_ADDRESS", raising=False)
        engine = make_engine("ray", tiny.CountingStore(), workers=2)
        assert isinstance(engine, RayEvaluator)
        engine.evaluate([STUDENT, TEACHER])
        yield engine
        engine.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where workers leave files."""
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


# --- the same results ---------------------------------------------------------------------------------------------


def test_results_are_those_of_the_trained_engine_and_nothing_is_trained_twice(cluster: RayEvaluator) -> None:
    expected = TrainedEvaluator(MemoryStore(), device="cpu").evaluate(JOBS)
    announced: list[Job] = []
    found = cluster.evaluate(JOBS, lambda job, evaluation: announced.append(job))
    assert list(map(timeless, found)) == list(map(timeless, expected))
    assert sorted(job.key for job in announced) == sorted({job.key for job in JOBS})
    store = cluster.store
    assert isinstance(store, tiny.CountingStore)
    assert sorted(store.trained) == sorted({STUDENT.training_key, TEACHER.training_key})
    assert sorted(store.evaluated) == sorted({job.key for job in JOBS})
    assert all(evaluation.from_store for evaluation in cluster.evaluate(JOBS))
    assert (cluster.device, cluster.workers) == ("cpu", 2)


def test_at_most_so_many_tasks_are_given_out(
    cluster: RayEvaluator, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "train", functools.partial(training_faults.notes_its_time, folder))
    jobs = [tiny.job(seed=seed) for seed in (1, 2, 3)]
    RayEvaluator(MemoryStore(), workers=1).evaluate(jobs)  # on a cluster with room for two
    spans = sorted(tuple(map(float, path.read_text().split())) for path in folder.iterdir())
    assert len(spans) == 3
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


# --- faults -------------------------------------------------------------------------------------------------------


def test_a_worker_killed_in_mid_training_costs_time_alone(
    cluster: RayEvaluator, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = TrainedEvaluator(MemoryStore(), device="cpu").evaluate([STUDENT, TEACHER])
    dies = functools.partial(training_faults.dies_once_in_mid_training, folder, STUDENT.network)
    monkeypatch.setattr(work, "train", dies)
    store = FolderStore(tmp_path / "store")
    with pytest.warns(FaultWarning, match="is done again: its worker process ended, 1 of 3 times") as warned:
        found = RayEvaluator(store, workers=2).evaluate([STUDENT, TEACHER])
    assert len(warned) == len(list(folder.iterdir())) == 1
    assert list(map(timeless, found)) == list(map(timeless, expected))
    assert list((store.folder / "claims").iterdir()) == []
    assert store.load_training(STUDENT.training_key) is not None


@pytest.mark.slow
def test_a_job_that_always_kills_its_worker_is_flagged(
    cluster: RayEvaluator, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = functools.partial(training_faults.always_dies, folder, TEACHER.network)
    monkeypatch.setattr(work, "train", dies)
    store = MemoryStore()
    engine = RayEvaluator(store, workers=2, retries=1)
    with pytest.warns(FaultWarning) as warned:
        found = engine.evaluate([TEACHER, TRANSFER, STUDENT])
    assert [str(each.message).partition(": ")[2] for each in warned] == [
        "its worker process ended, 1 of 2 times",
        "its worker process ended, 2 of 2 times",
    ]
    assert [each.diverged for each in found] == [True, True, False]
    assert "worker process ended" in found[0].provenance["failed"]
    assert store.load_evaluation(TEACHER.key) is None
    assert engine.evaluate([TRANSFER])[0].diverged and len(list(folder.iterdir())) == 2  # by this engine no more


@on_linux
def test_a_task_that_stalls_is_stopped_and_its_process_ended(
    cluster: RayEvaluator, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "train", functools.partial(training_faults.stalls, folder, STUDENT.network))
    with pytest.warns(FaultWarning, match="counts as diverged: took longer than the time limit of 0.5 s") as warned:
        (found,) = RayEvaluator(MemoryStore(), workers=1, time_limit=0.5).evaluate([STUDENT])
    assert found.diverged and len(warned) == 1
    (process,) = (int(path.name) for path in folder.iterdir())
    assert ends(process)


@pytest.mark.slow
@on_linux
def test_an_interruption_cancels_what_runs_and_lets_go_of_claims(
    cluster: RayEvaluator, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "train", functools.partial(training_faults.stalls, folder, TEACHER.network))
    store = FolderStore(tmp_path / "store")

    def interrupt(job: Job, evaluation: Evaluation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RayEvaluator(store, workers=2).evaluate([TEACHER, STUDENT], interrupt)
    assert store.load_evaluation(STUDENT.key) is not None
    assert list((store.folder / "claims").iterdir()) == []
    for path in folder.iterdir():  # none where the teacher's task was still in the queue
        assert ends(int(path.name))


def test_an_error_of_a_worker_is_raised_here(cluster: RayEvaluator) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        RayEvaluator(MemoryStore(), workers=1, modules=["no_such_module"]).evaluate([STUDENT])


# --- clusters -----------------------------------------------------------------------------------------------------

SERVERS = {"gcs_server", "raylet"}
OWN = """
import os, sys, time
from rcnas_env.evaluation.ray_engine import RayEvaluator
from rcnas_env.evaluation.store import MemoryStore
assert "ray" not in sys.modules
engine = RayEvaluator(MemoryStore(), workers=1)
worker = engine._ray.submit(os.getpid).result()
assert not {"RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_worker_niceness"} & set(os.environ)
print(worker, sys.modules["ray"].get_runtime_context().gcs_address, flush=True)
time.sleep(60)
"""


JOIN = "import sys, ray; ray.init(address=sys.argv[1])"


@pytest.mark.slow
@on_linux
def test_an_own_cluster_listens_here_alone_keeps_authentication_and_ends_with_its_process(tmp_path: Path) -> None:
    surroundings = {
        **{name: value for name, value in os.environ.items() if name not in (*OWN_CLUSTER, "RAY_ADDRESS")},
        **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex, "PYTHONPATH": str(ROOT)},
    }
    command = [sys.executable, "-c", OWN]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=surroundings) as run:
        try:
            assert run.stdout is not None
            worker, address = run.stdout.readline().split()
            assert address.startswith("127.0.0.1:")
            processes = descendants(run.pid)
            assert int(worker) in processes and len(processes) >= 4  # the control store, the raylet, …
            assert listening({run.pid, *processes}) == {"127.0.0.1"}
            servers = [each for each in processes if Path(f"/proc/{each}/exe").resolve().name in SERVERS]
            assert len(servers) == len(SERVERS)
            for each in servers:  # not so the Python ones, whose titles Ray writes over their environment
                assert b"RAY_AUTH_MODE=token" in Path(f"/proc/{each}/environ").read_bytes().split(b"\0")
            assert "InvalidAuthToken" in refusal(
                address, {**surroundings, "RAY_AUTH_TOKEN": uuid.uuid4().hex}, tmp_path
            )
        finally:
            run.send_signal(signal.SIGKILL)
            run.wait()
        assert all(ends(process) for process in processes)


def refusal(address: str, surroundings: dict[str, str], folder: Path) -> str:
    """What Ray says first of authentication to a process that asks, again and again, to join; "" if it is let in."""
    # Ray takes 127.0.0.1 for the machine's address to the outside, where the cluster does not listen, unless told so
    command, told = [sys.executable, "-c", JOIN, address], {**surroundings, **OWN_CLUSTER}
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, env=told) as stranger:
        assert stranger.stderr is not None
        said = next((line for line in stranger.stderr if "AuthToken" in line), "")
        stranger.kill()
    return said


def listening(processes: set[int]) -> set[str]:
    """The IPv4 addresses at which any of the processes accepts TCP connections; "::" for all of IPv6."""
    sockets = set()
    for process in processes:
        for path in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(os.readlink(path))
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:  # 0A: listening
                address = bytes.fromhex(fields[1].partition(":")[0])
                mapped = len(address) == 4 or address[:12] == bytes(8) + b"\0\0\xff\xff"[::-1]
                found.add(".".join(map(str, address[-4:][::-1])) if mapped else "::")
    return found


# --- before any work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be an integer of at least 1, got 0"),
        ({"num_gpus": 1.5}, "num_gpus must be .* got 1.5"),
        ({"address": "ray://somewhere:10001"}, 'address must be "HOST:PORT" or "auto", .* got .ray://somewhere:10001.'),
        ({"modules": "mine"}, "modules must be a sequence of module names, got 'mine'"),
        ({"retries": -1}, "retries must be an integer of at least 0, got -1"),
        ({"time_limit": 0}, "time_limit must be .* got 0"),
        ({"worker": 1}, "engine_options of 'ray' must be among workers, num_gpus, address, .* got 'worker'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_engine("ray", MemoryStore(), **options)


def test_gpus_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcnas_env.evaluation.ray_engine.has_gpu", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ValueError, match=r"num_gpus must be 0 or None where there is no GPU, got 0.25"):
        make_engine("ray", MemoryStore(), num_gpus=0.25)


def test_without_ray_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs Ray.*pip install '\.\[distributed\]'"):
        make_engine("ray", MemoryStore())
