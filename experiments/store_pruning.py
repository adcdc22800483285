"""Which files of a store may be deleted, and lose no evaluation."""

from __future__ import annotations

import time
from pathlib import Path
from typing import get_args

from rcnas_env.evaluation.entries import Kind
from rcnas_env.evaluation.store import FolderStore
from rcnas_env.validation import require_number
from rcnas_env.whole_files import TEMPORARY_PREFIX

SECONDS_PER_DAY = 86_400.0


def deletable(
    store: FolderStore, set_aside: bool, under_way: bool, weights: bool, attacked_sets: bool, days: float
) -> list[Path]:
    """The files of the kinds named that were last written more than `days` days ago, sorted.

    set_aside: entries that were found damaged.
    under_way: progress of attacks, claims, and temporary files.
    weights: weights of trainings; their reports stay.
    attacked_sets: images attacked through teachers.
    days: at least 0, by this machine's clock against the times of change of the files.

    Raises:
        ValueError: no kind is named, or `days` is out of range.
    """
    require_number("days", days, minimum=0.0)
    if not (set_aside or under_way or weights or attacked_sets):
        options = "--set-aside, --under-way, --weights or --attacked-sets"
        raise ValueError(f"prune must be told what to delete: {options}, got none of them")
    patterns: list[str] = []
    if set_aside:
        patterns.append("set-aside/*")
    if under_way:
        patterns += ["under-way/*", "claims/*", "claims/.broken-*"]
        patterns += [f"{folder}/*/{TEMPORARY_PREFIX}*" for folder in get_args(Kind)]
    if weights:
        patterns.append("trainings/*/[!.]*.safetensors")
    if attacked_sets:
        patterns.append("attacked-sets/*/[!.]*")
    found = {path for pattern in patterns for path in store.folder.glob(pattern)}
    limit = time.time() - days * SECONDS_PER_DAY
    return sorted(path for path in found if path.is_file() and path.stat().st_mtime <= limit)
