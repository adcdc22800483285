"""What the environment costs where nothing is trained: steps answered from the store, and importing the package."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import rcnas_env
from rcnas_env.evaluation.analytic import AnalyticEvaluator
from rcnas_env.evaluation.evaluator import OnDone
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import FolderStore, MemoryStore, Store
from rcnas_env.task import Task

KNOWN_ACTIONS = 50
"""Actions whose students are in the store; the steps go round them."""

IMPORT = (
    "import json, sys, time; start = time.perf_counter(); import rcnas_env; "
    "print(json.dumps([time.perf_counter() - start, 'torch' in sys.modules]))"
)


class _Recorder:
    """The analytic engine, which keeps every record in a store under its job's key."""

    def __init__(self, store: Store) -> None:
        self._engine, self._store = AnalyticEvaluator(), store

    def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
        """See `Evaluator`."""
        evaluations = self._engine.evaluate(jobs, on_done)
        for evaluation in evaluations:
            self._store.save_evaluation(evaluation)
        return evaluations

    def close(self) -> None:
        """Nothing to let go of."""


def steps_per_second(task: Task, store: Store, seconds: float) -> float:
    """Environment steps a second, resets between episodes included, of which no evaluation is computed.

    The records are the analytic engine's, put into `store` under the keys that the trained engine looks for: what
    is timed is the looking up.

    Args:
        task: every step's.
        store: an empty one.
        seconds: how long to step.

    Raises:
        RuntimeError: a step was not answered from the store.
    """
    recording = gym.make("RCNAS-v0", tasks=task, engine=_Recorder(store))
    _run(recording, KNOWN_ACTIONS, 0.0)
    env = gym.make("RCNAS-v0", tasks=task, engine="trained", engine_options={"device": "cpu"}, store=store)
    _run(env, KNOWN_ACTIONS, 0.0)
    start = time.perf_counter()
    done, looked_up = _run(env, KNOWN_ACTIONS, seconds)
    elapsed = time.perf_counter() - start
    env.close()
    if looked_up < done:
        raise RuntimeError(f"all {done} steps must be answered from the store, got {looked_up} that were")
    return done / elapsed


def _run(env: gym.Env[Any, Any], steps: int, seconds: float) -> tuple[int, int]:
    """Step for `seconds`, at least `steps` times: (steps, those answered from the store)."""
    rng = np.random.default_rng(0)
    actions = [
        {"keep": rng.random((3, 2), dtype=np.float32), "switch": rng.integers(0, 2, (3, 2), dtype=np.int8)}
        for _ in range(KNOWN_ACTIONS)
    ]
    start, done, looked_up = time.perf_counter(), 0, 0
    while done < steps or time.perf_counter() - start < seconds:
        if done % rcnas_env.META_EPISODE_STEPS == 0:
            env.reset(seed=0)
        info = env.step(actions[done % KNOWN_ACTIONS])[4]
        done, looked_up = done + 1, looked_up + info["effort"].from_store
    return done, looked_up


def stored_steps(task: Task, seconds: float) -> dict[str, float]:
    """Steps a second from a store in memory and from one in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            "memory_steps_per_second": steps_per_second(task, MemoryStore(), seconds),
            "folder_steps_per_second": steps_per_second(task, FolderStore(Path(folder)), seconds),
        }


def import_time(repeats: int) -> dict[str, Any]:
    """Seconds that `import rcnas_env` takes in a fresh interpreter, and whether any of them imported torch."""
    found = []
    for _ in range(repeats):
        run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
        found.append(json.loads(run.stdout))
    seconds = [entry[0] for entry in found]
    return {
        "import_seconds": statistics.median(seconds),
        "import_seconds_least": min(seconds),
        "import_seconds_most": max(seconds),
        "imports_torch": any(entry[1] for entry in found),
    }
