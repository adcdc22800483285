"""What a run folder holds, as one SHA-256 a file: two runs that came to the same result have the same.

Left out is what no two runs have in common: times, where and by whom it was run, and whether an evaluation was computed
or looked up. A file that one run has and the other has not is a difference like any other.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rcnas_env.whole_files import TEMPORARY_PREFIX

VARIES = frozenset(
    {
        "seconds", "training_seconds", "attack_seconds", "seconds_mean",  # times
        "started", "command", "config", "commit", "hardware", "resumed",  # where and how it was run
        "from_store",  # computed or looked up
        "sha256", "weights_sha256",  # of contents that hold times; the weights themselves are files of their own
    }
)  # fmt: skip
"""Names of JSON fields and of a table's arrays that are left out, wherever they are."""

LOGS = frozenset({"runs.jsonl"})
"""Files of lines whose order is that in which worker processes came to an end."""


def digest_files(folder: Path) -> dict[str, str]:
    """Path within the folder → SHA-256 of what must be equal, in hexadecimal.

    Temporary files that writers killed by SIGKILL may leave in a store (docs/store.md) are no part of it.

    Raises:
        ValueError: a file that should be JSON is none.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(_content(path)).hexdigest()
        for path in files
        if not path.name.startswith(TEMPORARY_PREFIX)
    }


def digest(folder: Path) -> str:
    """One SHA-256 of all of `digest_files`."""
    return hashlib.sha256(json.dumps(digest_files(folder)).encode()).hexdigest()


def differences(ours: Path, theirs: Path) -> list[str]:
    """Paths of the files in which two folders differ, those that one of them lacks included."""
    left, right = digest_files(ours), digest_files(theirs)
    return sorted(name for name in {*left, *right} if left.get(name) != right.get(name))


def _content(path: Path) -> bytes:
    if path.name in LOGS:
        return b"".join(sorted(path.read_bytes().splitlines(keepends=True)))
    return _READERS.get(path.suffix, Path.read_bytes)(path)


def _json(path: Path) -> bytes:
    return json.dumps(_common(json.loads(path.read_text(encoding="utf-8"))), sort_keys=True).encode()


def _common(value: Any) -> Any:
    """JSON values without the fields that vary."""
    if isinstance(value, dict):
        return {name: _common(entry) for name, entry in value.items() if name not in VARIES}
    return [_common(entry) for entry in value] if isinstance(value, list) else value


def _arrays(path: Path) -> bytes:
    """Names, types, shapes and values of an npz file's arrays."""
    found = io.BytesIO()
    with np.load(path, allow_pickle=False) as arrays:
        for name in sorted(arrays.files):
            if name not in VARIES:
                found.write(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode() + arrays[name].tobytes())
    return found.getvalue()


_READERS: dict[str, Callable[[Path], bytes]] = {".json": _json, ".npz": _arrays}
