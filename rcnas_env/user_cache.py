"""Folders that all runs of one user share."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(variable: str, name: str) -> Path:
    """What the environment's `variable` names, else `rcnas/NAME` in the user's cache: $XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get(variable)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "rcnas" / name
