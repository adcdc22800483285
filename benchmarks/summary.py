"""How a benchmark shows what it found."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from experiments.run_record import commit, hardware, versions

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Figures = Mapping[str, Any]
"""What was found of one thing: numbers, words, or lists and mappings of these."""


def print_summary(
    summary: Mapping[str, Figures],
    as_json: bool,
    config: DataclassInstance | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print the figures of each thing measured: a line each, or JSON with commit, versions and hardware.

    Args:
        summary: name → figures.
        as_json: whether JSON is wanted.
        config: the benchmark's settings, for the JSON.
        notes: what a reader of the figures must know; a line each.
    """
    if as_json:
        evidence = {
            "command": " ".join(["python", "-m", *_module(), *sys.argv[1:]]),
            "config": None if config is None else asdict(config),
            "summary": summary,
            "notes": list(notes),
            "commit": commit(),
            "versions": versions(),
            "hardware": hardware(),
        }
        print(json.dumps(evidence, indent=1))
        return
    for name, figures in summary.items():
        print(f"{name}: " + ", ".join(f"{key} {_text(value)}" for key, value in figures.items()))
    for note in notes:
        print(note)


def _module() -> tuple[str, ...]:
    """The dotted name of the benchmark that runs, where it runs by itself."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return () if spec is None else (spec.name,)


def _text(value: Any) -> str:
    """A value for a line of text: numbers to three figures."""
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_text(entry)}" for key, entry in value.items()) + ")"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
