"""Feed hostile input to everything that takes input from outside, and count what becomes of it.

    python -m benchmarks.fuzzing --inputs 10000 --seed 0 --json

The surfaces and their strategies are those of tests/test_fuzzing.py; that module's neighbour tests/fuzzing_surfaces.py
says what counts as accepted, refused and crashed. Exit code 1 if anything crashed.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import torch
import tyro

from benchmarks.summary import print_summary
from rcnas_env.evaluation.store import STORE_VARIABLE
from rcnas_env.validation import require_integer
from tests.fuzzing_commands import COMMANDS
from tests.fuzzing_files import FILES
from tests.fuzzing_runs import RUNS
from tests.fuzzing_stores import STORES
from tests.fuzzing_surfaces import VALUES, Surface, outcome

SURFACES = (*VALUES, *STORES, *FILES, *RUNS, *COMMANDS)
SHOWN_CRASHES = 5


@dataclass(frozen=True)
class Fuzzing:
    """Settings of the campaign.

    Raises:
        ValueError: a field is out of range.
    """

    inputs: int = 10_000
    """Inputs over all surfaces, as many for each; rounded up to a multiple of their number."""
    seed: int = 0
    """Of the inputs."""
    memory: int = 16
    """Address space that the process may take, in GiB: an input that would have more is a crash."""
    surfaces: tuple[str, ...] = ()
    """Only those whose names contain one of these; all if none is given."""
    json: bool = False
    """Print evidence as JSON in place of a line a surface."""

    def __post_init__(self) -> None:
        require_integer("inputs", self.inputs, 1)
        require_integer("seed", self.seed, 0)
        require_integer("memory", self.memory, 1)
        if not self.chosen():
            raise ValueError(f"surfaces must be parts of {', '.join(s.name for s in SURFACES)}, got {self.surfaces}")

    def chosen(self) -> list[Surface]:
        """The surfaces asked for."""
        return [each for each in SURFACES if not self.surfaces or any(part in each.name for part in self.surfaces)]


def attack(surface: Surface, inputs: int, seed: int) -> tuple[Counter[str], list[str]]:
    """(outcomes of that many inputs by their kind, how the first of them crashed)."""
    counts: Counter[str] = Counter()
    crashes: list[str] = []

    def feed(value: Any) -> None:
        """Give one input to the surface and count its outcome; hypothesis may call once more than asked."""
        if counts.total() == inputs:
            return
        with tempfile.TemporaryDirectory(prefix="rcnas-fuzzing-", ignore_cleanup_errors=True) as folder:
            kind, text = outcome(surface, value, Path(folder))
        counts[kind] += 1
        if kind == "crashed" and len(crashes) < SHOWN_CRASHES:
            crashes.append(f"{_shown(value)}\n{text}")

    while (missing := inputs - counts.total()) > 0:  # hypothesis ends early where it runs out of new inputs
        options = hypothesis.settings(
            max_examples=missing,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.seed(seed + counts.total())(options(hypothesis.given(surface.inputs)(feed)))()
    return counts, crashes


def campaign(config: Fuzzing) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """(outcomes by surface, with their sums under "all"; how the first inputs of each surface crashed)."""
    chosen = config.chosen()
    found: dict[str, dict[str, Any]] = {}
    crashes = []
    for surface in chosen:
        counts, how = attack(surface, -(-config.inputs // len(chosen)), config.seed)
        found[surface.name] = _row(counts)
        crashes += [f"{surface.name}: {each}" for each in how]
    sums = Counter[str]()
    for row in found.values():
        sums.update(row)
    found["all"] = {"surfaces": len(chosen), **sums}
    return found, crashes


def _shown(value: object) -> str:
    try:
        return ascii(value)[:1_000]
    except (ValueError, RecursionError):  # an integer of too many digits, or nested too deeply
        return "an input that cannot be printed"


def _row(counts: Counter[str]) -> dict[str, int]:
    return {"inputs": counts.total(), **{name: counts[name] for name in ("accepted", "refused", "crashed")}}


def main() -> int:
    """Command line; returns the exit code."""
    config = tyro.cli(Fuzzing, description=__doc__)
    torch.set_num_threads(1)
    limit = config.memory * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory(prefix="rcnas-fuzzing-") as folder:
        os.environ[STORE_VARIABLE] = folder  # the user's own store is out of reach
        found, crashes = campaign(config)
    found["all"]["peak_memory_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
    print_summary(found, config.json, config)
    for each in crashes:
        print(each, file=sys.stderr)
    return 1 if found["all"]["crashed"] else 0


if __name__ == "__main__":
    sys.exit(main())
