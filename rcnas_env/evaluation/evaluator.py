"""The protocol that every engine follows, and the registry of engines."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import Store
from rcnas_env.registry import Registry

OnDone = Callable[[Job, Evaluation], None]
"""Called once for each distinct job as its evaluation arrives, in whatever order; for progress bars."""


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
    """An engine by its name ("trained", "ray", "analytic", "tabular"), or the given one as it is.

    Raises:
        UnknownNameError: no such engine; the message lists the known ones.
        ValueError: neither a name nor an Evaluator, or options that the engine does not take.
    """
    if not isinstance(engine, str):
        if not callable(getattr(engine, "evaluate", None)) or options:
            raise ValueError(f"engine must be a name, or an Evaluator without engine_options, got {engine!r}")
        return engine
    import rcnas_env.evaluation.analytic
    import rcnas_env.evaluation.ray_engine
    import rcnas_env.evaluation.tabular
    import rcnas_env.evaluation.trained  # noqa: F401  (each registers itself)

    factory = _ENGINES[engine]
    parameters = inspect.signature(factory).parameters
    taken = [name for name in parameters if name != "store"]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in options:
        if name not in taken and not takes_any:
            raise ValueError(f"engine_options of {engine!r} must be among {', '.join(taken) or 'none'}, got {name!r}")
    return factory(store, **options)


def known_engines() -> tuple[str, ...]:
    """The names of all engines registered so far."""
    return tuple(_ENGINES)
