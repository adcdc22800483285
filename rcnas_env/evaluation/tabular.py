"""The engine that only looks recorded evaluations up: for RL research without training."""

from __future__ import annotations

from collections.abc import Sequence

from rcnas_env.evaluation.evaluator import Evaluator, OnDone, register_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import Store


class NotRecordedError(LookupError):
    """A job that the table holds no evaluation of."""


class TabularEvaluator:
    """Answers from a store of recorded evaluations, and never trains.

    Args:
        store: the records, such as the folder of an earlier run with the trained engine.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def evaluate(self, jobs: Sequence[Job], on_done: OnDone | None = None) -> list[Evaluation]:
        """The recorded evaluations of the jobs.

        Raises:
            NotRecordedError: one of them was never recorded.
        """
        keys = [job.key for job in jobs]
        found: dict[str, Evaluation] = {}
        for key, job in dict(zip(keys, jobs, strict=True)).items():
            evaluation = self.store.load_evaluation(key)
            if evaluation is None:
                raise NotRecordedError(
                    f"no recorded evaluation of {job.network.to_json()} under {job.task.attack} on "
                    f"{job.task.dataset} (key {key[:12]}…): the tabular engine only looks up; record it with "
                    "the trained engine first"
                )
            found[key] = evaluation
            if on_done:
                on_done(job, evaluation)
        return [found[key] for key in keys]

    def close(self) -> None:
        """Nothing to let go of."""


def tabular_engine(store: Store, table: str | None = None, noise: bool = True) -> Evaluator:
    """The engine "tabular": from a table by its name, or from the records in the store where none is named.

    Args:
        store: of recorded evaluations, such as the folder of an earlier run with the trained engine.
        table: name or path of a table; it answers for every student of its space, recorded or predicted.
        noise: of a table: whether an evaluation is that of one training, or the expectation over training seeds.
    """
    if table is None:
        return TabularEvaluator(store)
    from rcnas_env.tabular.evaluator import TableEvaluator

    return TableEvaluator(table, noise)


register_engine("tabular", tabular_engine)
