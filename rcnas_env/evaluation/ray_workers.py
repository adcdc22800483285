"""Workers of a Ray cluster, for the same calls as `Workers`: what happens to one concerns no other."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from rcnas_env.environment_variables import lent_variables
from rcnas_env.evaluation.workers import ENDING_SECONDS, Workers

KEPT_SHIPPED = 8
"""Trainings that stay in the cluster's object store, the last used: a teacher that many attacks go through is one."""

OWN_CLUSTER = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing reaches for the network
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too: every port on the loopback interface, none outside
    "RAY_worker_niceness": "0",  # as the trained engine's own workers; Ray's 15 stands behind all else on the machine
}
"""Environment of a cluster that is started here, where the user has not set it; Ray reads it as it is imported."""

LONGEST_TEMPORARY = 40
"""Characters of the system's temporary folder from which on Ray's sockets below it may exceed a path's 104 (macOS)."""


class RayWorkers(Workers):
    """Calls as tasks of a Ray cluster, each in a process that has no other meanwhile.

    The cluster is joined, or started, by `connect`. Ray itself does not retry: a task whose worker or node is lost
    breaks its call as a dead process does, and `Faults` decides. Authentication is as Ray, the user and the cluster
    have it; nothing here switches it off.

    room: calls that the cluster has room for at once, once connected.
    device: where calls compute, "cuda" or "cpu", once connected.

    Args:
        workers: processes that a cluster started here is made for; None for as many as it has cores, or GPUs' shares.
        num_gpus: of one GPU, the share a call takes, in [0, 1]; None for a whole one where the cluster has any.
        address: of a cluster, "HOST:PORT" or "auto"; None to start one in this process.
        modules: imported by a worker before its first call.
    """

    def __init__(
        self, workers: int | None, num_gpus: float | None, address: str | None, modules: Sequence[str]
    ) -> None:
        super().__init__(1)  # whose own processes are never started
        self.room = workers or 1
        self.device = "cuda" if num_gpus else "cpu"
        self._workers_wanted, self._num_gpus, self._address, self._modules = workers, num_gpus, address, tuple(modules)
        self._tasks: WeakKeyDictionary[Future[Any], _Task] = WeakKeyDictionary()
        self._shipped: OrderedDict[str, Any] = OrderedDict()
        self._run: Any = None
        self._share = 0.0
        self._started = False
        self._folder: str | None = None

    def connect(self) -> None:
        """Join the cluster, or start it; nothing where that is done. A session of the process's own is joined.

        Raises:
            ModuleNotFoundError: Ray is not installed.
            ConnectionError: no cluster at the address.
            ValueError: the process is connected to a cluster at another address.
        """
        ray = import_ray(self._address is None)
        if self._run is not None and ray.is_initialized():
            return
        self._run, self._started = None, False  # a session that somebody else has ended holds nothing of ours
        self._shipped.clear()
        if not ray.is_initialized():
            try:
                self._open()
            except BaseException:
                self.close()
                raise
        elif self._address not in (None, "auto", ray.get_runtime_context().gcs_address):
            here = ray.get_runtime_context().gcs_address
            raise ValueError(f"address must be {here}, where this process is connected already, got {self._address!r}")
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self._share = self._num_gpus if self._num_gpus is not None else float(gpus > 0)
        self.device = "cuda" if self._share else "cpu"
        fits = gpus * int(1 / self._share + 1e-6) if self._share else int(resources.get("CPU", 1))
        self.room = self._workers_wanted or max(1, fits)
        several = any(node["Resources"].get("GPU", 0) > 1 for node in ray.nodes())
        # a process that has used one GPU cannot turn to another: each call then has a process of its own
        self._run = ray.remote(max_calls=1)(_run) if self._share and several else ray.remote(_run)

    def submit(self, function: Callable[..., Any], *arguments: Any, threads: int = 1) -> Future[Any]:
        """Run a call, on `threads` CPUs of a cluster that is not ours; ours runs whatever it is given."""
        self.connect()
        cpus = 0 if self._started and self._address is None else threads
        run = self._run.options(num_cpus=cpus, num_gpus=self._share, max_retries=0, num_returns="streaming")
        task = _Task(run.remote(self._modules, function, *arguments))
        call: Future[Any] = Future()
        self._tasks[call] = task
        task.follower = threading.Thread(target=task.follow, args=(call,), name="rcnas-ray-task", daemon=True)
        task.follower.start()
        return call

    def ship(self, key: str, value: object) -> Any:
        """Put what several calls take into the cluster's object store, once; each node fetches it once. A reference."""
        self.connect()
        reference = self._shipped.pop(key, None)
        self._shipped[key] = import_ray().put(value) if reference is None else reference
        if len(self._shipped) > KEPT_SHIPPED:
            self._shipped.popitem(last=False)
        return self._shipped[key]

    def seconds(self, call: Future[Any]) -> float:
        """How long a call has been running, by this process's monotonic clock; 0 while it waits for a worker."""
        started = self._tasks[call].started
        return 0.0 if started is None else time.monotonic() - started

    def fate(self, call: Future[Any]) -> tuple[bool, int | None]:
        """Of a call whose process or node was lost: whether it was taken up, and the exit code where Ray tells it."""
        task = self._tasks[call]
        return task.started is not None, task.exit_code

    def kill(self, call: Future[Any]) -> None:
        """Cancel a call: take it from the queue, or end its process at once; does nothing to a call that is done."""
        if not call.done() and import_ray().is_initialized():
            import_ray().cancel(self._tasks[call].stream, force=True)

    def kill_all(self) -> None:
        """Cancel all calls."""
        for call in list(self._tasks):
            self.kill(call)

    def close(self) -> None:
        """Cancel all calls, and leave the cluster; one that was started here ends, and so do all its processes."""
        if self._run is None and not self._started and self._folder is None:
            return
        ray = import_ray()
        followers = [task.follower for call, task in self._tasks.items() if not call.done()]
        self.kill_all()
        for follower in followers:
            if follower is not None:
                follower.join(ENDING_SECONDS)
        self._shipped.clear()
        self._run = None
        if self._started:
            ray.shutdown(wait_for_processes=True)
            self._started = False
        atexit.unregister(self.close)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _open(self) -> None:
        """Join the cluster at the address, or start one."""
        ray = import_ray()
        if self._address is not None:
            ray.init(address=self._address, logging_level=logging.WARNING)
        else:
            if len(tempfile.gettempdir()) < LONGEST_TEMPORARY:
                self._folder = tempfile.mkdtemp(prefix="rcnas-")
            self._started = True  # whatever of it starts, if it is broken off meanwhile, is ours to end
            with lent_variables(OWN_CLUSTER):
                ray.init(
                    address="local",
                    num_cpus=self._workers_wanted or _cores(),
                    include_dashboard=False,
                    logging_level=logging.WARNING,
                    _temp_dir=self._folder,
                )
        self._started = True
        atexit.register(self.close)


@dataclass(eq=False)
class _Task:
    """One call: a stream of two objects, a note that it was taken up and its result.

    started: this process's monotonic seconds at which the note came.
    exit_code: of its worker, −9 where Ray killed it for want of memory; None where Ray does not tell.
    """

    stream: Any
    started: float | None = None
    exit_code: int | None = None
    follower: threading.Thread | None = None

    def follow(self, call: Future[Any]) -> None:
        """Wait for both, and settle `call`; a lost worker or node breaks it as a dead process of a pool does."""
        ray = import_ray()
        lost = (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError)
        try:
            ray.get(next(self.stream))
            self.started = time.monotonic()
            call.set_result(ray.get(next(self.stream)))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if cause is not error:
                cause.__cause__ = error  # which shows the worker's traceback
            call.set_exception(cause)
        except (*lost, ray.exceptions.OutOfMemoryError, ray.exceptions.TaskCancelledError) as error:
            self.exit_code = -9 if isinstance(error, ray.exceptions.OutOfMemoryError) else None
            broken = BrokenProcessPool(str(error))
            broken.__cause__ = error
            call.set_exception(broken)
        except BaseException as error:
            call.set_exception(error)


def _run(modules: Sequence[str], function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """In a worker process: a note that the call is taken up, all imports done, and then its result."""
    for name in modules:
        importlib.import_module(name)
    yield None
    yield function(*arguments)


def import_ray(own: bool = False) -> Any:
    """The module `ray`, imported on first use.

    Args:
        own: a cluster is to be started here, which Ray must know when it is imported.

    Raises:
        ModuleNotFoundError: it is not installed; the message says how to.
    """
    try:
        with lent_variables(OWN_CLUSTER if own else {}):
            return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ModuleNotFoundError(
            "the engine 'ray' needs Ray, which is not installed here: pip install '.[distributed]'", name="ray"
        ) from None


def has_gpu() -> bool:
    """Whether this machine has a GPU that torch can use."""
    return torch.cuda.is_available()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
