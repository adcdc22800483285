"""The store: evaluations, trained networks, images attacked through a teacher. Nothing is computed twice."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from rcnas_env.evaluation.attacked_sets import AttackedSet
from rcnas_env.evaluation.claims import Claim
from rcnas_env.evaluation.folder_store import FolderStore, StoreWarning
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.user_cache import cache_folder

__all__ = ["FolderStore", "MemoryStore", "Store", "StoreWarning", "default_store_folder", "open_store"]

STORE_VARIABLE = "RCNAS_STORE"
"""Environment variable that names the default store's folder."""

SETS_IN_MEMORY = 4
"""Attacked sets that a `MemoryStore` keeps: of 256 images of 3×32×32 3 MB each, of test sets a hundred times that."""


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

    def load_attacked_set(self, key: str) -> AttackedSet | None:
        """The images under `key` (`attacked_set_key`); None if there are none."""

    def save_attacked_set(self, key: str, attacked: AttackedSet) -> None:
        """Keep images that were attacked through a teacher."""

    def claim(self, key: str) -> Claim | None:
        """The right to train `key`, to be released when the training is saved; None while another holds it."""


class MemoryStore:
    """A store that lives as long as its process."""

    def __init__(self) -> None:
        self._evaluations: dict[str, Evaluation] = {}
        self._trainings: dict[str, tuple[dict[str, Any], bytes]] = {}
        self._attacked_sets: OrderedDict[str, AttackedSet] = OrderedDict()

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

    def load_attacked_set(self, key: str) -> AttackedSet | None:
        """See `Store`."""
        found = self._attacked_sets.get(key)
        if found is not None:
            self._attacked_sets.move_to_end(key)
        return copy.deepcopy(found)

    def save_attacked_set(self, key: str, attacked: AttackedSet) -> None:
        """See `Store`. Only the sets used last are kept."""
        self._attacked_sets[key] = copy.deepcopy(attacked)
        self._attacked_sets.move_to_end(key)
        if len(self._attacked_sets) > SETS_IN_MEMORY:
            self._attacked_sets.popitem(last=False)

    def claim(self, key: str) -> Claim:
        """See `Store`. Always granted: no other process sees what is in memory."""
        return Claim()


def _copy(evaluation: Evaluation, from_store: bool) -> Evaluation:
    """A copy that shares nothing that can be changed."""
    return replace(evaluation, provenance=copy.deepcopy(evaluation.provenance), from_store=from_store)


def default_store_folder() -> Path:
    """The folder that runs and processes of one user share: $RCNAS_STORE, else `rcnas/store` in the user's cache."""
    return cache_folder(STORE_VARIABLE, "store")


def open_store(store: str | os.PathLike[str] | Store | None) -> Store:
    """A store from what users give: "default", a folder, a store, or None for one in memory only."""
    if store is None:
        return MemoryStore()
    if isinstance(store, str) and store == "default":
        return FolderStore(default_store_folder())
    if isinstance(store, str | os.PathLike):
        return FolderStore(store)
    pairs = [(f"load_{kind}", f"save_{kind}") for kind in ("evaluation", "training", "attacked_set")]
    methods = [*(name for pair in pairs for name in pair), "claim"]
    if not all(callable(getattr(store, name, None)) for name in methods):
        raise ValueError(f'store must be "default", a folder, a Store or None, got {store!r}')
    return store
