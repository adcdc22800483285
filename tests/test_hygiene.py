"""Long runs: memory that stays flat, and nothing that is left after close()."""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing.resource_tracker
import os
import socket
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from benchmarks.hygiene import held, live_step, slope, tabular_step, vector_step
from rcnas_env.evaluation.ray_engine import RayEvaluator
from rcnas_env.evaluation.store import FolderStore, MemoryStore
from rcnas_env.tabular.env import default_tasks
from rcnas_env.tabular.table import load_table
from tests import tiny
from tests.process_tree import descendants

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to see what is held")

ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "analytic": ("analytic", {}),
    "tabular, a table": ("tabular", {"table": "digits"}),
    "trained, in this process": ("trained", {"device": "cpu"}),
    "trained, two workers": ("trained", {"device": "cpu", "workers": 2}),
}


@pytest.mark.parametrize(
    "engine", [pytest.param(name, marks=[pytest.mark.slow] if "trained" in name else []) for name in ENGINES]
)  # tests/test_worker_processes.py watches workers end too
def test_nothing_is_held_after_close(engine: str, tmp_path: Path) -> None:
    name, options = ENGINES[engine]
    multiprocessing.resource_tracker.ensure_running()  # one for the whole of a process, and so no engine's
    own: dict[str, Any] = {"tasks": tiny.task(), "recipe": tiny.RECIPE}
    if "table" in options:
        table = load_table(options["table"])
        own = {"tasks": default_tasks(table), "recipe": table.recipe}

    def episode(store: Path) -> int:
        """What it held when it was busiest: worker processes."""
        envs = gym.make_vec(
            "RCNAS-v0", num_envs=2, engine=name, engine_options=options, store=FolderStore(store), **own
        )
        envs.action_space.seed(0)
        envs.reset(seed=0)
        envs.step(envs.action_space.sample())
        busy = held().processes
        envs.close()
        return busy

    episode(tmp_path / "first")  # what a process opens once: data, libraries
    before = held()
    busy = episode(tmp_path / "second")
    assert busy - before.processes == options.get("workers", 0)
    assert held() == before


def clusters_of_its_own(folder: str, answer: Any) -> None:
    """In a process that no other cluster knows: start two clusters one after the other, and say what each leaves."""
    os.environ.update(TMPDIR=folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=uuid.uuid4().hex)
    os.environ.pop("RAY_ADDRESS", None)
    tempfile.tempdir = None  # read anew
    found = []
    for seed in (1, 2):
        engine = RayEvaluator(MemoryStore(), workers=2)
        engine.evaluate([tiny.job(seed=seed)])
        busy = len(descendants(os.getpid())), bool(list(Path(folder).glob("rcnas-*/session_*")))
        engine.close()
        names = sorted(path.name for path in Path(folder).iterdir() if not path.name.startswith("torchinductor"))
        left = sorted(descendants(os.getpid())), names  # torch's own folder aside, empty and one a user
        found.append((busy, left, held().descriptors, connected()))
    answer.put(found)


def connected() -> list[str]:
    """The sockets of this process that somebody is at the other end of."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed by now, no socket, or nobody is there
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(descriptor))) as copy:
                    found.append(str(copy.getpeername()))
    return found


@pytest.mark.slow
def test_ray_leaves_no_process_no_folder_and_no_connection_after_close() -> None:
    """The descriptors that stay are Ray's: of each cluster a socket or two that its library no longer uses."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="h-") as folder:  # a short path: Ray's sockets are below it
        answer = context.Queue()
        run = context.Process(target=clusters_of_its_own, args=(folder, answer))
        run.start()
        first, second = answer.get(timeout=120)
        run.join(60)
        assert run.exitcode == 0
    for (processes, has_folder), left, _, connections in (first, second):
        assert processes >= 4 and has_folder  # the control store, the raylet, two workers, …
        assert left == ([], []) and connections == []
    assert second[2] - first[2] <= 2, (first, second)


@pytest.mark.parametrize("step", [tabular_step, lambda: vector_step(4)], ids=["one environment", "four"])
def test_memory_is_flat_over_two_thousand_tabular_steps(step: Callable[[], Callable[[], object]]) -> None:
    found = slope(step(), 2_000, samples=5)
    assert found["end_mib"] - found["start_mib"] < 16, found  # of hundreds; a leak of 10 KiB a step would be 20


@pytest.mark.slow
def test_memory_is_flat_over_a_hundred_live_steps(tmp_path: Path) -> None:
    found = slope(live_step(tmp_path), 100)
    assert found["end_mib"] - found["start_mib"] < 64, found  # one student's weights and gradients are some MiB


def test_a_leak_is_seen() -> None:
    kept: list[mmap.mmap] = []

    def leak() -> None:
        kept.append(mmap.mmap(-1, 2**20))  # not from the heap: what other tests have freed there would be used again
        kept[-1].write(b"x" * 2**20)

    found = slope(leak, 50, samples=5)
    assert found["mib_per_1000_steps"] == pytest.approx(1_000, rel=0.2)
    assert found["interval_95"][0] > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_memory_is_given_back(tmp_path: Path) -> None:
    def episode() -> None:
        env = gym.make(
            "RCNAS-v0", tasks=tiny.task(), recipe=tiny.RECIPE, engine_options={"device": "cuda"}, store=tmp_path
        )
        env.reset(seed=0)
        env.step(env.action_space.sample())
        env.close()

    episode()
    held()  # collects garbage
    before = torch.cuda.memory_allocated()
    episode()
    held()
    assert torch.cuda.memory_allocated() <= before
