"""Where the files of data sets lie on this machine, and whether they are whole. Nothing here uses the network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rcnas_env.user_cache import cache_folder

DATA_VARIABLE = "RCNAS_DATA"
_CHUNK = 1 << 20


class DataUnavailableError(FileNotFoundError):
    """A data set's files are not on this machine; the message says which to put where, and what downloads them."""


class DataCorruptError(ValueError):
    """A data set's file is truncated, altered or unreadable; the message names it. Nothing of it was used."""


@dataclass(frozen=True)
class PublishedFile:
    """A file as the authors of a data set publish it.

    path: where it belongs, relative to the data folder, with "/" between folders;
    url: where `python -m rcnas_env.data` downloads it from;
    md5: of the file, 32 hexadecimal digits.
    """

    path: str
    url: str
    md5: str


def data_folder() -> Path:
    """The folder that data sets are read from and downloaded to: $RCNAS_DATA, else `rcnas/data` in the user's cache."""
    return cache_folder(DATA_VARIABLE, "data")


def file_md5(path: Path) -> str:
    """The MD5 of the file at `path`, 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def require_intact(path: Path, md5: str) -> None:
    """Return if the file at `path` is the one that was published.

    Raises:
        DataCorruptError: it is missing, truncated or altered.
    """
    if not path.is_file():
        raise DataCorruptError(f"{path} must be a file with md5 {md5}, but is missing beside others of its data set")
    found = file_md5(path)
    if found != md5:
        raise DataCorruptError(
            f"{path} must have md5 {md5}, has {found}: it is truncated or altered; delete it and get it again"
        )


def data_unavailable(
    name: str, folder: Path, files: Sequence[PublishedFile], otherwise: str = ""
) -> DataUnavailableError:
    """The DataUnavailableError for data set `name`: `files` were looked for in `folder`.

    Args:
        name: as registered.
        folder: the data folder.
        files: what to put there.
        otherwise: another way to get them, a sentence.
    """
    wanted = "".join(f"\n  {folder / file.path} (md5 {file.md5}) from {file.url}" for file in files)
    other = f"\n{otherwise}" if otherwise else ""
    return DataUnavailableError(
        f"data set {name!r} is not on this machine. `python -m rcnas_env.data {name}` downloads it into {folder} "
        f"(${DATA_VARIABLE} names another folder); by hand, put there:{wanted}{other}"
    )
