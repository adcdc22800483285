"""Environment variables that a library is told by, and that are taken back afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def lent_variables(wanted: Mapping[str, str]) -> Iterator[None]:
    """Inside, the variables are set; one that the user has set stays as it is. Afterwards all are as before."""
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
