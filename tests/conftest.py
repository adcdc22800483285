"""What all tests share: a store and a plotting backend of their own, one thread, an engine that counts its calls."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from rcnas_env.evaluation.evaluator import Evaluator, OnDone
    from rcnas_env.evaluation.job import Job
    from rcnas_env.evaluation.record import Evaluation

for name in [name for name in os.environ if name.startswith("WANDB_")]:
    del os.environ[name]  # before settings that read it are made, at import: no test sends anything of its own accord


@pytest.fixture(scope="session", autouse=True)
def own_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the user's store, opens a window, or takes a second core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RCNAS_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setenv("MPLBACKEND", "Agg")
        yield
    torch.set_num_threads(threads)


class CountingEvaluator:
    """An engine of real results that keeps what it was asked: the jobs of each call, and whether it was closed."""

    def __init__(self, engine: Evaluator) -> None:
        self.engine = engine
        self.calls: list[list[Job]] = []
        self.closed = False

    def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
        """The engine's own evaluations."""
        self.calls.append(list(jobs))
        return self.engine.evaluate(jobs, on_done)

    def close(self) -> None:
        """Take note."""
        self.closed = True
        self.engine.close()


@pytest.fixture
def counting_evaluator() -> CountingEvaluator:
    """The analytic engine, counted."""
    from rcnas_env.evaluation.analytic import AnalyticEvaluator

    return CountingEvaluator(AnalyticEvaluator())
