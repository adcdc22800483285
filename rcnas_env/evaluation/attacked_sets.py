"""Image sets attacked through a teacher (Algorithm 2): the same for all of its students, so attacked once.

A process keeps the last few in memory; the store keeps all of them, for other processes and later runs.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from rcnas_env.evaluation.folder_store import FolderStore
from rcnas_env.evaluation.job import Job

KEPT = 4
"""Sets in memory, the last ones asked for: of 256 images of 3×32×32 some 3 MB each, of test sets a hundred times."""

_sets: OrderedDict[str, Tensor] = OrderedDict()


def attacked_set_key(source: Job, weights: bytes) -> str:
    """Identity of a set, 64 hexadecimal digits: the teacher's own job (`Job.source_job`), and its weights."""
    return hashlib.sha256(f"attacked set {source.key} {hashlib.sha256(weights).hexdigest()}".encode()).hexdigest()


def attacked_once(
    source: Job,
    weights: bytes,
    device: str,
    attack: Callable[[], Tensor],
    origin: dict[str, Any],
    store_folder: str | None = None,
) -> Tensor:
    """What `attack` returns for `source`, or returned in this process or in one that shares the store; on `device`.

    Two processes that want a set at the same time both attack it: a claim would have one of them wait as long.

    Args:
        source: the teacher's own job.
        weights: of the teacher, safetensors bytes.
        device: where the set is wanted.
        attack: the attacked images (N, channels, height, width), float32.
        origin: where a set is from that is attacked now, JSON values.
        store_folder: of a `FolderStore`; None, or one that is not on this machine, for this process's memory alone.
    """
    key = attacked_set_key(source, weights)
    if key not in _sets:
        store = None if store_folder is None else _store(store_folder)
        kept = None if store is None else store.load_attacked_set(key)
        if kept is None:
            start = time.perf_counter()
            images = attack().cpu().contiguous()
            if store is not None:
                record = {**origin, "images": len(images), "seconds": time.perf_counter() - start}
                store.save_attacked_set(key, record, save_safetensors({"images": images}))
        else:
            images = load_safetensors(kept)["images"]
        _sets[key] = images
        while len(_sets) > KEPT:
            _sets.popitem(last=False)
    _sets.move_to_end(key)
    return _sets[key].to(device, copy=True)


@functools.lru_cache(maxsize=4)
def _store(folder: str) -> FolderStore | None:
    """One store a folder, which warns once of what it cannot write; None on a cluster's node without such a folder."""
    return FolderStore(folder) if Path(folder).is_dir() else None
