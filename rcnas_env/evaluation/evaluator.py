"""The protocol that every engine follows, and the registry of engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import Store
from rcnas_env.registry import Registry

OnDone = Callable[[Job, Evaluation], None]
"""Called once a job as its evaluation arrives, in whatever order; for progress bars."""


class Evaluator(Protocol):
    """An engine: turns jobs into evaluations."""

    def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
        """The jobs' evaluations, in the jobs' order. Equal jobs are evaluated once."""

    def close(self) -> None:
        """Let go of processes and memory; the engine is not used afterwards."""


EngineFactory = Callable[..., Evaluator]
_ENGINES: Registry[EngineFactory] = Registry("engine")


def register_engine(name: str, factory: EngineFactory) -> None:
    """Make an engine known: `factory(store: Store, **options)` returns an Evaluator.

    Raises:
        ValueError: the name is taken.
    """
    _ENGINES.register(name, factory)


def make_engine(engine: str | Evaluator, store: Store, **options: Any) -> Evaluator:
    """An engine by its name ("trained", "analytic", "tabular"), or the given one as it is.

    Raises:
        UnknownNameError: no such engine; the message lists the known ones.
    """
    if not isinstance(engine, str):
        return engine
    import rcnas_env.evaluation.analytic
    import rcnas_env.evaluation.tabular
    import rcnas_env.evaluation.trained  # noqa: F401  (each registers itself)

    return _ENGINES[engine](store, **options)


def known_engines() -> tuple[str, ...]:
    """The names of all engines registered so far."""
    return tuple(_ENGINES)
