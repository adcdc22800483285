"""The store: every evaluation and every trained network, under its job's key. Nothing is computed twice.

A folder that any number of processes and runs share:

    evaluations/ab/abcdef….json      one Evaluation
    under-way/….npz                  how far a long attack has come
    trainings/ab/abcdef….json        one training's report
    trainings/ab/abcdef….safetensors its weights

Writers fill a temporary file beside the target and rename it, so that a reader sees all of an entry or none.
Of two writers of the same key the later wins; both wrote the same result.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, deserialize

from rcnas_env.evaluation.record import Evaluation

STORE_VARIABLE = "RCNAS_STORE"
"""Environment variable that names the default store's folder."""

KEPT_IN_MEMORY = 1_000
"""Evaluations that a folder store keeps besides (about 10 kB each), so as not to read them again."""


class Store(Protocol):
    """Where evaluations and trained networks are kept."""

    def load_evaluation(self, key: str) -> Evaluation | None:
        """The evaluation under `key`, with `from_store` set; None if there is none."""

    def save_evaluation(self, evaluation: Evaluation) -> None:
        """Keep `evaluation` under its key."""

    def load_training(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """(report, weights as safetensors bytes) of a training; None if there is none."""

    def save_training(self, key: str, report: dict[str, Any], weights: bytes) -> None:
        """Keep a training's report and its weights, safetensors bytes."""


class MemoryStore:
    """A store that lives as long as its process."""

    def __init__(self) -> None:
        self._evaluations: dict[str, Evaluation] = {}
        self._trainings: dict[str, tuple[dict[str, Any], bytes]] = {}

    def load_evaluation(self, key: str) -> Evaluation | None:
        """See `Store`."""
        found = self._evaluations.get(key)
        return None if found is None else _copy(found, from_store=True)

    def save_evaluation(self, evaluation: Evaluation) -> None:
        """See `Store`."""
        self._evaluations[evaluation.key] = _copy(evaluation, from_store=False)

    def load_training(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """See `Store`."""
        return copy.deepcopy(self._trainings.get(key))

    def save_training(self, key: str, report: dict[str, Any], weights: bytes) -> None:
        """See `Store`."""
        self._trainings[key] = (copy.deepcopy(report), weights)


class FolderStore:
    """A store in a folder; made on first use."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._read: OrderedDict[str, tuple[tuple[int, int], Evaluation]] = OrderedDict()

    @property
    def progress_folder(self) -> str:
        """Where attacks keep how far they have come; each removes its file when it is done."""
        return str(self.folder / "under-way")

    def load_evaluation(self, key: str) -> Evaluation | None:
        """See `Store`. An entry that cannot be read counts as absent, and is computed again.

        What was read last is kept, and not read again as long as the file stays as it was.
        """
        path = self._path("evaluations", key, ".json")
        try:
            status = path.stat()
        except OSError:
            return None
        version = (status.st_mtime_ns, status.st_size)
        known = self._read.pop(key, None)
        if known is None or known[0] != version:
            value = self._read_json(path)
            if value is None:
                return None
            try:
                found = Evaluation.from_dict(value)
            except ValueError:
                return None
            if found.key != key:
                return None
            known = (version, found)
        self._read[key] = known  # as the last used
        if len(self._read) > KEPT_IN_MEMORY:
            self._read.popitem(last=False)
        return _copy(known[1], from_store=True)

    def save_evaluation(self, evaluation: Evaluation) -> None:
        """See `Store`."""
        text = json.dumps(evaluation.to_dict(), allow_nan=False)
        self._write(self._path("evaluations", evaluation.key, ".json"), text.encode())

    def load_training(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """See `Store`. A report without weights, weights without a report, or half of either count as absent."""
        report = self._read_json(self._path("trainings", key, ".json"))
        try:
            weights = self._path("trainings", key, ".safetensors").read_bytes()
        except OSError:
            return None
        return (report, weights) if report is not None and _usable(report, weights) else None

    def save_training(self, key: str, report: dict[str, Any], weights: bytes) -> None:
        """See `Store`. The report is written last: it stands for a whole entry."""
        self._write(self._path("trainings", key, ".safetensors"), weights)
        self._write(self._path("trainings", key, ".json"), json.dumps(report, allow_nan=False).encode())

    def _path(self, kind: str, key: str, suffix: str) -> Path:
        return self.folder / kind / key[:2] / f"{key}{suffix}"

    @staticmethod
    def _read_json(path: Path) -> dict[str, Any] | None:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep a shared store from its other users
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _copy(evaluation: Evaluation, from_store: bool) -> Evaluation:
    """A copy that shares nothing that can be changed."""
    return replace(evaluation, provenance=copy.deepcopy(evaluation.provenance), from_store=from_store)


def _usable(report: dict[str, Any], weights: bytes) -> bool:
    """Whether a report says what a measurement needs, and its weights are whole."""
    seconds = report.get("seconds")
    if not isinstance(report.get("diverged"), bool) or not isinstance(seconds, int | float):
        return False
    try:
        deserialize(weights)
    except SafetensorError:
        return False
    return True


def default_store_folder() -> Path:
    """The folder that runs and processes of one user share: $RCNAS_STORE, else `rcnas` in the user's cache."""
    named = os.environ.get(STORE_VARIABLE)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "rcnas" / "store"


def open_store(store: str | os.PathLike[str] | Store | None) -> Store:
    """A store from what users give: "default", a folder, a store, or None for one in memory only."""
    if store is None:
        return MemoryStore()
    if isinstance(store, str) and store == "default":
        return FolderStore(default_store_folder())
    if isinstance(store, str | os.PathLike):
        return FolderStore(store)
    if not callable(getattr(store, "load_evaluation", None)):
        raise ValueError(f'store must be "default", a folder, a Store or None, got {store!r}')
    return store
