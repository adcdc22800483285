"""A registry of named parts whose errors help: unknown names list the known ones and the nearest match."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from rcnas_env.validation import shown

T = TypeVar("T")


class UnknownNameError(ValueError):
    """A name that no registry entry has; the message lists the known names and the nearest match."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown `name` of a `kind` ("dataset", "attack", …) among `known` names."""
    names = sorted(known)
    by_folded = {entry.lower(): entry for entry in names}
    close = difflib.get_close_matches(name.lower() if isinstance(name, str) else "", by_folded, n=1, cutoff=0.5)
    hint = f" Did you mean {by_folded[close[0]]!r}?" if close else ""
    return UnknownNameError(f"unknown {kind} {shown(name)}; known: {', '.join(names) or 'none'}.{hint}")


class Registry(Generic[T]):
    """Maps names to parts of one `kind`.

    >>> animals = Registry("animal")
    >>> animals.register("cat", "meow")
    >>> animals["cat"]
    'meow'
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str, entry: T) -> None:
        """Add `entry` under `name`.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            UnknownNameError: there is none.
        """
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise unknown_name(self.kind, name, self._entries) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries
