"""Files that are there whole or not at all: filled under another name beside their place, then renamed."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_PREFIX = ".writing-"
"""What the names of files begin with that are being written; one that is left is of a process that was killed."""


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """The path that the block is to write in place of `path`, whose folder is made where there is none.

    The file takes its place when the block ends; of a block that raises nothing is left, and `path` stays as it was.

    Raises:
        OSError: the folder cannot be made or the file not be written or renamed; it names `path`, which those of a
            full disk do not by themselves.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(TEMPORARY_PREFIX + uuid.uuid4().hex)
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):  # the first error says what is wrong
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename) in ("None", str(temporary)):
            error.filename = str(target)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as utf-8 to `path`; see `writing`."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as JSON on one line to `path`; see `writing`.

    Raises:
        ValueError: a number is not finite.
        TypeError: JSON has no such value.
    """
    write_text(path, json.dumps(value, allow_nan=False))
