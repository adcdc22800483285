"""Kill the long commands by SIGKILL at random instants, give them again, and compare what comes out, to the bit.

    python -m benchmarks.kills --kills 20 --seed 0 --json

Each command runs once without a kill. Then, in turn, one is killed at an instant drawn from the whole of that time
(its main process alone, or with all its worker processes), given again until its end, and the digests of the two run
folders are compared: policy, optimizer, agent's memory, logs, results, tables and figures (benchmarks/run_digest.py).
The commands are in benchmarks/kill_commands.py. Exit code 1 where a digest differs. Needs /proc.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.kill_commands import COMMANDS
from benchmarks.killed_run import Command, kill_after, run_to_end, start_server
from benchmarks.run_digest import differences, digest
from benchmarks.summary import print_summary
from rcnas_env.validation import require_choice, require_integer


@dataclass(frozen=True)
class Kills:
    """Settings of the campaign.

    Raises:
        ValueError: a field is out of range.
    """

    kills: int = 20
    """Kills that hit a running command."""
    commands: tuple[str, ...] = tuple(COMMANDS)
    """Of benchmarks/kill_commands.py; they take turns."""
    seed: int = 0
    """Of the instants, and of whether the main process is killed alone."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""

    def __post_init__(self) -> None:
        require_integer("kills", self.kills, 1)
        for name in self.commands or ("",):
            require_choice("commands", name, tuple(COMMANDS))


@dataclass(frozen=True)
class Outcome:
    """What became of one killed run.

    command: its name.
    share: when it was killed, in shares of the time that the run without a kill took.
    to_all: whether its worker processes were killed with it.
    digest: of the run folder in the end.
    differing: files that differ from those of the run without a kill.
    """

    command: str
    share: float
    to_all: bool
    digest: str
    differing: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """A run that nothing killed: its folder, and the wall time that it took."""

    folder: Path
    seconds: float


def reference(command: Command, folder: Path) -> Reference:
    """Run the command without a kill."""
    start = time.monotonic()
    run_to_end(command, folder)
    return Reference(folder, time.monotonic() - start)


def kill_and_resume(name: str, command: Command, whole: Reference, folder: Path, rng: np.random.Generator) -> Outcome:
    """Kill the command once at a random instant, give it again, compare; `folder` must not exist.

    An instant at which the run had ended already is drawn again, from half the time.
    """
    most, to_all = 1.0, bool(rng.integers(2))
    while not kill_after(command, folder, (share := float(rng.uniform(0, most))) * whole.seconds, to_all):
        most /= 2
        shutil.rmtree(folder)
    run_to_end(command, folder)
    return Outcome(name, share, to_all, digest(folder), tuple(differences(folder, whole.folder)))


def campaign(config: Kills, root: Path) -> Iterator[Outcome]:
    """The outcomes of so many kills, each as it is there; all is written below `root`."""
    start_server()
    rng, wholes = np.random.default_rng(config.seed), dict[str, Reference]()
    for number, name in zip(range(config.kills), itertools.cycle(config.commands), strict=False):
        if name not in wholes:
            wholes[name] = reference(COMMANDS[name], root / f"whole-{len(wholes)}")
        folder = root / f"killed-{number}"
        outcome = kill_and_resume(name, COMMANDS[name], wholes[name], folder, rng)
        if not outcome.differing:
            shutil.rmtree(folder)
        yield outcome


def summary(outcomes: list[Outcome]) -> dict[str, dict[str, Any]]:
    """What happened to each command."""
    kills, equal = Counter(each.command for each in outcomes), Counter[str]()
    equal.update(each.command for each in outcomes if not each.differing)
    found: dict[str, dict[str, Any]] = {
        name: {
            "kills": kills[name],
            "equal": equal[name],
            "digests": sorted({each.digest for each in outcomes if each.command == name}),
            "killed_at_share": [round(each.share, 3) for each in outcomes if each.command == name],
            "with_workers": [each.to_all for each in outcomes if each.command == name],
            "differing": sorted({path for each in outcomes if each.command == name for path in each.differing}),
        }
        for name in kills
    }
    return {"all": {"kills": len(outcomes), "equal": sum(equal.values())}, **found}


def main() -> int:
    """Command line."""
    config = tyro.cli(Kills, description=__doc__)
    outcomes = []
    with tempfile.TemporaryDirectory() as root:
        for outcome in campaign(config, Path(root)):
            outcomes.append(outcome)
            verdict = f"differs in {', '.join(outcome.differing)}" if outcome.differing else "equal"
            print(f"{len(outcomes)}: {outcome.command}, killed at {outcome.share:.0%}: {verdict}", file=sys.stderr)
    print_summary(summary(outcomes), config.json, config)
    return int(any(outcome.differing for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
