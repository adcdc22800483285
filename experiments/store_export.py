"""Copies of a store's entries in a folder or archive, with a manifest that says what each file must be."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

from rcnas_env.whole_files import writing

MANIFEST = "manifest.json"
"""{"files": {path inside the export: {"bytes": size, "sha256": of the file}}}."""


def export_entries(root: Path, files: Sequence[Path], target: Path) -> None:
    """Copy `files`, all below `root`, and their manifest to `target`: a .tar.gz archive, or else a folder.

    An archive appears whole or not at all; of a folder, the manifest is written last.

    Raises:
        ValueError: `target` is there already, or there are no files.
        OSError: a file cannot be read or written.
    """
    if not files:
        raise ValueError("export must find at least one whole entry, got none; see --kind and --keys")
    if target.exists() or target.is_symlink():
        raise ValueError(f"target must not be there yet, got {os.fspath(target)!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.name.endswith((".tar.gz", ".tgz")):
        _archive(root, files, target)
        return
    described = {}
    for path in files:
        content, name = path.read_bytes(), path.relative_to(root).as_posix()
        described[name] = _described(content)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    (target / MANIFEST).write_bytes(_manifest(described))


def _archive(root: Path, files: Sequence[Path], target: Path) -> None:
    with (
        writing(target) as temporary,
        temporary.open("wb") as file,
        tarfile.open("", "w:gz", fileobj=file) as archive,  # no name: gzip would keep the temporary one
    ):
        described = {}
        for path in files:
            content, name = path.read_bytes(), path.relative_to(root).as_posix()
            described[name] = _described(content)
            _add(archive, name, content)
        _add(archive, MANIFEST, _manifest(described))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no owner and no time: they say nothing of an entry
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def _described(content: bytes) -> dict[str, int | str]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _manifest(described: dict[str, dict[str, int | str]]) -> bytes:
    return (json.dumps({"files": described}, indent=2, sort_keys=True) + "\n").encode()
