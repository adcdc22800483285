"""A Ray cluster of several real nodes on one machine: one is lost in mid-training, one has a GPU on paper."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
import uuid
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rcnas_env.evaluation import work
from rcnas_env.evaluation.ray_engine import RayEvaluator
from rcnas_env.evaluation.ray_workers import RayWorkers
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import FolderStore, MemoryStore
from rcnas_env.evaluation.trained import TrainedEvaluator
from tests import tiny, training_faults

STUDENT, TEACHER = tiny.job(), tiny.job(tiny.TEACHER)


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation, without its wall times."""
    found = evaluation.to_dict()
    return {name: value for name, value in found.items() if not name.endswith("_seconds")}


def new_cluster() -> Any:
    """A cluster of a head that computes nothing, in a process that no other cluster knows."""
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=uuid.uuid4().hex, RAY_USAGE_STATS_ENABLED="0")
    from ray.cluster_utils import Cluster

    return Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})


def lose_a_node(notes: Path, store: Path, answer: Any) -> None:
    """In a process of its own: evaluate on two nodes, one after the other, as the first is lost."""
    cluster = new_cluster()
    import ray

    doomed = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, logging_level="WARNING")
    work.train = functools.partial(training_faults.first_never_ends, notes, STUDENT.network)
    engine = RayEvaluator(FolderStore(store), workers=1, address=cluster.address)
    with warnings.catch_warnings(record=True) as warned, ThreadPoolExecutor(1) as aside:
        warnings.simplefilter("always")
        evaluating = aside.submit(engine.evaluate, [STUDENT, TEACHER])
        while not list(notes.iterdir()):
            time.sleep(0.05)
        cluster.add_node(num_cpus=1)  # Ray adds nodes from the main thread alone
        cluster.remove_node(doomed, allow_graceful=False)
        found = evaluating.result()
    answer.put(([figures(each) for each in found], [str(each.message) for each in warned]))
    engine.close()
    ray.shutdown()
    cluster.shutdown()


def share_a_gpu(notes: Path, answer: Any) -> None:
    """In a process of its own: give six calls of a quarter of a GPU each to a node that says it has one."""
    cluster = new_cluster()
    import ray

    cluster.add_node(num_cpus=6, num_gpus=1)  # what Ray counts with; no call here computes on it
    workers = RayWorkers(None, 0.25, cluster.address, ())
    workers.connect()
    calls = [workers.submit(training_faults.meets_others, notes, number, 4) for number in range(6)]
    answer.put((workers.room, workers.device, [call.result() for call in calls]))
    workers.close()
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_four_calls_of_a_quarter_share_a_gpu_and_a_fifth_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    sharing = context.Process(target=share_a_gpu, args=(tmp_path, answer), daemon=True)
    sharing.start()
    assert answer.get(timeout=200) == (4, "cuda", ["0"] * 6)  # all of them on the one GPU
    sharing.join(60)
    assert sharing.exitcode == 0
    spans = [tuple(map(float, path.read_text().split())) for path in tmp_path.glob("span-*")]
    together = [sum(begin <= moment < end for begin, end in spans) for moment, _ in spans]
    assert len(spans) == 6 and max(together) == 4


@pytest.mark.slow
def test_a_node_that_is_lost_in_mid_training_costs_time_alone(tmp_path: Path) -> None:
    notes, context = tmp_path / "notes", multiprocessing.get_context("spawn")
    notes.mkdir()
    answer = context.Queue()
    losing = context.Process(target=lose_a_node, args=(notes, tmp_path / "store", answer), daemon=True)
    losing.start()
    found, warned = answer.get(timeout=120)
    losing.join(60)
    assert losing.exitcode == 0
    assert len(list(notes.iterdir())) == 1  # the training did begin on the node that was lost
    assert [each for each in warned if "is done again: its worker process ended, 1 of 3 times" in each]
    expected = TrainedEvaluator(MemoryStore(), device="cpu").evaluate([STUDENT, TEACHER])
    assert found == [figures(each) for each in expected]
    store = FolderStore(tmp_path / "store")
    assert list((store.folder / "claims").iterdir()) == []
    assert store.load_training(STUDENT.training_key) is not None
