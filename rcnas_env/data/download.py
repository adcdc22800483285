"""Downloads published files, checked and whole or not at all. Only `python -m rcnas_env.data` calls this."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path

from rcnas_env.data.dataset import dataset_entry
from rcnas_env.data.storage import DataCorruptError, PublishedFile, data_folder, file_md5

TIMEOUT = 60.0
"""Seconds without a byte after which a download is given up."""

_CHUNK = 1 << 20


def download_dataset(name: str, folder: Path | None = None, report: Callable[[str], None] = print) -> Path:
    """Download what is missing of data set `name`.

    Args:
        name: of a registered data set.
        folder: where to; None for `data_folder()`.
        report: is told what happens, a line at a time.

    Returns:
        The folder.

    Raises:
        UnknownNameError: no such data set.
        ValueError: it has nothing to download.
        DataCorruptError: what came has another checksum; it is deleted.
        OSError: the server cannot be reached (URLError), or the folder cannot be written to.
    """
    files = dataset_entry(name).files
    if not files:
        raise ValueError(f"dataset {name!r} must be one that is published as files; there is nothing to download")
    folder = data_folder() if folder is None else folder
    for file in files:
        path = folder / file.path
        if path.is_file() and file_md5(path) == file.md5:
            report(f"{path}: there already")
        else:
            report(f"{path}: from {file.url}")
            download_file(file, path)
    return folder


def download_file(file: PublishedFile, path: Path) -> None:
    """Download `file` to `path`, by way of a temporary file beside it: `path` is never half a file.

    Raises:
        DataCorruptError: what came has another checksum; `path` is left as it was.
        OSError: see `download_dataset`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        digest = hashlib.md5(usedforsecurity=False)
        request = urllib.request.Request(file.url, headers={"User-Agent": "rcnas"})
        with partial.open("wb") as target, urllib.request.urlopen(request, timeout=TIMEOUT) as source:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != file.md5:
            raise DataCorruptError(
                f"{file.url} must have md5 {file.md5}, what came has {digest.hexdigest()}: broken off, or another file"
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
