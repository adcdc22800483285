"""Look after a store of evaluations, trainings and attacked sets: list it, check it, thin it out, copy out of it.

Examples:
    python -m experiments.store ls
    python -m experiments.store verify --repair
    python -m experiments.store prune --set-aside --under-way --yes
    python -m experiments.store export results.tar.gz --kind evaluations

docs/store.md describes the format and what it guarantees.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from experiments.store_export import export_entries
from experiments.store_pruning import deletable
from rcnas_env.evaluation.entries import DamagedEntryError, Kind
from rcnas_env.evaluation.record import Evaluation
from rcnas_env.evaluation.store import FolderStore, default_store_folder

State = Literal["whole", "unchecked", "half", "damaged"]
"""Of an entry: fits its checksum; has none, but can be read; lacks its report or weights; none of these."""


@dataclass(frozen=True)
class Ls:
    """Count entries and their sizes, by what they say of themselves."""

    store: str = "default"
    """Folder of the store; "default" for $RCNAS_STORE, else the user's cache."""


@dataclass(frozen=True)
class Verify:
    """Check every entry against its checksum; exit code 1 if any is damaged. Changes nothing unless asked to."""

    store: str = "default"
    """Folder of the store; "default" for $RCNAS_STORE, else the user's cache."""
    repair: bool = False
    """Move damaged entries to set-aside/, so that they are computed again."""
    add: bool = False
    """Give unchecked entries, written before there were checksums, the checksum of what they now are."""


@dataclass(frozen=True)
class Prune:
    """Delete what is named; only say what would go unless --yes is given."""

    store: str = "default"
    """Folder of the store; "default" for $RCNAS_STORE, else the user's cache."""
    set_aside: bool = False
    """Entries that were found damaged."""
    under_way: bool = False
    """What killed processes left: progress of attacks, claims, files half written."""
    weights: bool = False
    """Weights of trainings. Stored evaluations stay; a new attack on such a network trains it again."""
    attacked_sets: bool = False
    """Images attacked through a teacher. Stored evaluations stay; a new student of that teacher has them made again."""
    days: float = 7.0
    """Only files that were written more than so many days ago, by this machine's clock."""
    yes: bool = False
    """Delete; without it nothing is."""


@dataclass(frozen=True)
class Export:
    """Copy whole entries, with a manifest of checksums, to a folder or archive that is itself a store."""

    target: tyro.conf.Positional[Path]
    """A .tar.gz file or a folder, not there yet."""
    store: str = "default"
    """Folder of the store; "default" for $RCNAS_STORE, else the user's cache."""
    kind: Literal["all", "evaluations", "trainings", "attacked-sets"] = "all"
    """Which entries."""
    keys: tuple[str, ...] = ()
    """Only entries whose key begins with one of these; all if none is given."""


def entry_state(store: FolderStore, kind: Kind, key: str) -> tuple[State, str, Evaluation | dict[str, Any] | None]:
    """(state of an entry, what is wrong with it, its evaluation or report where it can be read)."""
    try:
        entry = store.read(kind, key)
    except DamagedEntryError as error:
        return "damaged", str(error), None
    if entry is None:
        there = all(path.exists() for path in store.paths(kind, key))
        return ("damaged", "it cannot be read", None) if there else ("half", "", None)
    return ("whole" if entry.checked else "unchecked"), "", entry.record


def list_store(store: FolderStore) -> int:
    """Print counts and sizes; return the exit code, 0."""
    for kind in get_args(Kind):
        keys = store.keys(kind)
        sizes = sum(_size(path) for key in keys for path in store.paths(kind, key))
        print(f"{kind}: {len(keys):,} entries, {in_bytes(sizes)}")
        states = (entry_state(store, kind, key) for key in keys)
        groups = Counter(_group(state, record) for state, _, record in states)
        for group, count in sorted(groups.items()):
            print(f"  {count:>7,}  {group}")
    for name in ("under-way", "claims", "set-aside"):
        files = [path for path in (store.folder / name).glob("*") if path.is_file()]
        print(f"{name}: {len(files):,} files, {in_bytes(sum(map(_size, files)))}")
    return 0


def verify_store(store: FolderStore, repair: bool, add: bool) -> int:
    """Print each damaged entry and the sums; return the exit code, 1 if any is damaged."""
    damaged = 0
    for kind in get_args(Kind):
        states: Counter[str] = Counter()
        for key in store.keys(kind):
            state, reason, _ = entry_state(store, kind, key)
            if add and state == "unchecked" and store.seal(kind, key):
                state = "whole"
            states[state] += 1
            if state == "damaged":
                print(f"damaged: {kind}/{key}: {reason}")
                for path in store.set_aside(kind, key) if repair else ():
                    print(f"  moved to {path.relative_to(store.folder)}")
        print(f"{kind}: " + ", ".join(f"{states[name]:,} {name}" for name in get_args(State)))
        damaged += states["damaged"]
    return 1 if damaged else 0


def prune_store(store: FolderStore, config: Prune) -> int:
    """Delete, or say what would be deleted; return the exit code, 0.

    Raises:
        ValueError: nothing is named, or `days` is out of range.
    """
    files = deletable(store, config.set_aside, config.under_way, config.weights, config.attacked_sets, config.days)
    for path in files:
        print(path.relative_to(store.folder))
    total = in_bytes(sum(map(_size, files)))
    if config.yes:
        for path in files:
            path.unlink(missing_ok=True)
    print(f"{len(files):,} files, {total}: " + ("deleted" if config.yes else "nothing is deleted without --yes"))
    return 0


def export_store(store: FolderStore, config: Export) -> int:
    """Copy whole entries out; name what is left out; return the exit code, 1 if a damaged entry is.

    Raises:
        ValueError: the target exists, or no entry was chosen.
    """
    chosen, code = list[Path](), 0
    for kind in get_args(Kind):
        for key in store.keys(kind) if config.kind in ("all", kind) else ():
            if config.keys and not key.startswith(config.keys):
                continue
            state, reason, _ = entry_state(store, kind, key)
            if state in ("whole", "unchecked"):
                chosen += store.paths(kind, key)
                continue
            print(f"left out: {kind}/{key}: {state}" + (f": {reason}" if reason else ""))
            code = 1 if state == "damaged" else code
    export_entries(store.folder, chosen, config.target)
    print(f"{len(chosen):,} files in {config.target}")
    return code


def in_bytes(count: int) -> str:
    """`count` bytes in a unit of thousands: 1234567 → "1.2 MB"."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone meanwhile, or the missing half of an entry
        return 0


def _group(state: State, record: Evaluation | dict[str, Any] | None) -> str:
    """What `ls` counts an entry under. Keys are digests: data set and attack cannot be read back from them."""
    if record is None:
        return state
    # the record of an attacked set is what it is from
    provenance = record.get("provenance", record) if isinstance(record, dict) else record.provenance
    known = provenance if isinstance(provenance, dict) else {}
    parts = [str(known[name]) for name in ("engine", "device") if name in known]
    if isinstance(record, Evaluation):
        parts.append(f"{record.images} images")
        diverged = record.diverged
    else:
        network, diverged = record.get("network"), record.get("diverged", False)
        if isinstance(network, dict) and isinstance(network.get("input"), list):
            parts.append(f"{'x'.join(map(str, network['input']))}, {network.get('classes', '?')} classes")
        if "images" in record:
            parts.append(f"{record['images']} images")
    parts += ["diverged"] * diverged + [state] * (state != "whole")
    return ", ".join(parts) or "of unknown origin"


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line `args` (the process's own if None); return its exit code, 2 after bad input."""
    config = tyro.cli(
        Annotated[Ls | Verify | Prune | Export, tyro.conf.arg(name="")],
        prog="python -m experiments.store",
        description=__doc__,
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        folder = default_store_folder() if config.store == "default" else Path(config.store)
        if not folder.is_dir():
            raise ValueError(f"--store must be the folder of a store, got {str(folder)!r}")
        store = FolderStore(folder)
        if isinstance(config, Ls):
            return list_store(store)
        if isinstance(config, Verify):
            return verify_store(store, config.repair, config.add)
        if isinstance(config, Prune):
            return prune_store(store, config)
        return export_store(store, config)
    except (ValueError, OSError) as error:
        print(f"store: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
