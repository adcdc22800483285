"""The store in a folder that any number of processes, runs and machines share (docs/store.md).

    evaluations/ab/abcdef….json      one Evaluation
    trainings/ab/abcdef….json        one training's report
    trainings/ab/abcdef….safetensors its weights
    attacked-sets/ab/…               images attacked through a teacher, likewise
    claims/abcdef….json              who trains that just now
    under-way/….npz                  how far a long attack has come
    set-aside/                       entries that were found damaged

Of two writers of the same key the later wins; both wrote the same result.
"""

from __future__ import annotations

import copy
import os
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcnas_env.evaluation.attacked_sets import AttackedSet
from rcnas_env.evaluation.claims import Claim, Claims
from rcnas_env.evaluation.entries import SUFFIXES, DamagedEntryError, Entry, Kind, decode, encode, write_files
from rcnas_env.evaluation.record import Evaluation

KEPT_IN_MEMORY = 1_000
"""Evaluations that a folder store keeps besides (about 10 kB each), so as not to read them again."""


class StoreWarning(UserWarning):
    """A store found an entry damaged, or cannot be written; the run goes on."""


class FolderStore:
    """A store in a folder; made on first use.

    A file that is damaged is moved to `set-aside/`, with a `StoreWarning`, and its entry counts as absent. What cannot
    be written (a full disk, a folder that is read-only) is kept in memory, with one `StoreWarning` for each kind of
    failure, and tried again after the next entry that can.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._claims = Claims(self.folder / "claims")
        self._read: OrderedDict[str, tuple[tuple[int, int], Evaluation]] = OrderedDict()
        self._unwritten: dict[tuple[Kind, str], list[bytes]] = {}
        self._warned: set[Hashable] = set()

    @property
    def progress_folder(self) -> str | None:
        """Where attacks keep how far they have come; each removes its file when it is done.

        None as long as the store is known not to be writable.
        """
        return None if self._unwritten else str((self.folder / "under-way").absolute())  # on other nodes too

    def load_evaluation(self, key: str) -> Evaluation | None:
        """See `Store`. An entry that is damaged is set aside and counts as absent.

        What was read last is kept, and not read again as long as the file stays as it was.
        """
        version = _version(self.paths("evaluations", key)[0])
        known = self._read.pop(key, None)
        if known is not None and known[0] == version:
            found = known[1]
        else:
            entry = self._load("evaluations", key)
            if entry is None:
                return None
            assert isinstance(entry.record, Evaluation)
            found = entry.record
        if version is not None:  # not where it is in memory only
            self._read[key] = (version, found)  # as the last used
        if len(self._read) > KEPT_IN_MEMORY:
            self._read.popitem(last=False)
        return replace(found, provenance=copy.deepcopy(found.provenance), from_store=True)

    def save_evaluation(self, evaluation: Evaluation) -> None:
        """See `Store`."""
        self._read.pop(evaluation.key, None)
        self._save("evaluations", evaluation.key, Entry(evaluation))

    def load_training(self, key: str) -> tuple[dict[str, Any], bytes] | None:
        """See `Store`. A report without weights, or weights without a report, count as absent; damage is set aside."""
        entry = self._load("trainings", key)
        if entry is None:
            return None
        assert isinstance(entry.record, dict)
        return entry.record, entry.tensors

    def save_training(self, key: str, report: dict[str, Any], weights: bytes) -> None:
        """See `Store`. The report is written last: it stands for a whole entry."""
        self._save("trainings", key, Entry(report, weights))

    def load_attacked_set(self, key: str) -> AttackedSet | None:
        """See `Store`. Half a set counts as absent; damage is set aside."""
        entry = self._load("attacked-sets", key)
        if entry is None:
            return None
        assert isinstance(entry.record, dict)
        return AttackedSet(entry.record, entry.tensors)

    def save_attacked_set(self, key: str, attacked: AttackedSet) -> None:
        """See `Store`."""
        self._save("attacked-sets", key, Entry(attacked.record, attacked.images))

    def claim(self, key: str) -> Claim | None:
        """See `Store`. Where no claim can be written the work is done without one."""
        try:
            return self._claims.take(key)
        except OSError as error:
            self._warn_of(error)
            return Claim()

    def paths(self, kind: Kind, key: str) -> list[Path]:
        """Where the files of an entry lie or would lie, in the order of `SUFFIXES`."""
        return [self.folder / kind / key[:2] / f"{key}{suffix}" for suffix in SUFFIXES[kind]]

    def keys(self, kind: Kind) -> list[str]:
        """The keys under which there is a file, sorted; of a training that is half there too."""
        folder, suffixes = self.folder / kind, SUFFIXES[kind]
        return sorted({path.stem for path in folder.glob("*/[!.]*") if path.suffix in suffixes})

    def read(self, kind: Kind, key: str) -> Entry | None:
        """The entry under `key` as it is; None if there is none, or but half a training.

        Raises:
            DamagedEntryError: it is damaged. It is left where it is.
        """
        while (contents := self._contents(kind, key)) is not None:
            try:
                return decode(kind, key, contents)
            except DamagedEntryError:
                if self._contents(kind, key) == contents:  # else a writer came between the reading of two files
                    raise
        return None

    def seal(self, kind: Kind, key: str) -> bool:
        """Give an unchecked entry the checksum of what it now is; return whether it was one.

        Raises:
            DamagedEntryError: it is damaged.
            OSError: it cannot be written.
        """
        entry = self.read(kind, key)
        if entry is None or entry.checked:
            return False
        write_files({self.paths(kind, key)[-1]: encode(kind, key, entry)[-1]})
        return True

    def set_aside(self, kind: Kind, key: str) -> list[Path]:
        """Move the files of an entry to `set-aside/`, each under a name that is new there; return where they are.

        Raises:
            OSError: a file cannot be moved.
        """
        folder, mark, moved = self.folder / "set-aside", uuid.uuid4().hex[:8], list[Path]()
        folder.mkdir(parents=True, exist_ok=True)
        for path in reversed(self.paths(kind, key)):  # the report first: weights alone are no entry
            target = folder / f"{kind}-{path.name}.{mark}"
            with suppress(FileNotFoundError):  # another process was faster
                os.rename(path, target)
                moved.append(target)
        return moved

    def _load(self, kind: Kind, key: str) -> Entry | None:
        """The entry under `key`; one that is damaged is set aside and counts as absent."""
        try:
            return self.read(kind, key)
        except DamagedEntryError as error:
            self._report_damage(kind, key, error)
            return None

    def _contents(self, kind: Kind, key: str) -> list[bytes] | None:
        """The files of a whole entry; of one that could not be written, what they would be."""
        if (kind, key) in self._unwritten:
            return self._unwritten[kind, key]
        try:
            # the report first: a writer takes it away before it changes the weights
            return [path.read_bytes() for path in reversed(self.paths(kind, key))][::-1]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._warn_of(error)
            return None

    def _save(self, kind: Kind, key: str, entry: Entry) -> None:
        contents = encode(kind, key, entry)
        try:
            self._write(kind, key, contents)
        except OSError as error:
            self._unwritten[kind, key] = contents
            self._warn_of(error)
            return
        self._unwritten.pop((kind, key), None)
        self._write_what_waits()

    def _write_what_waits(self) -> None:
        """Write what could not be written before, up to the first that still cannot be; that one is then the last."""
        for name, contents in list(self._unwritten.items()):
            del self._unwritten[name]
            try:
                self._write(*name, contents)
            except OSError:
                self._unwritten[name] = contents
                return

    def _write(self, kind: Kind, key: str, contents: list[bytes]) -> None:
        write_files(dict(zip(self.paths(kind, key), contents, strict=True)))

    def _report_damage(self, kind: Kind, key: str, error: DamagedEntryError) -> None:
        """Set an entry aside, and say so once for each key."""
        try:
            moved = self.set_aside(kind, key)
            fate = f"is set aside as {', '.join(path.name for path in moved)}"
        except OSError as reason:
            fate = f"cannot be set aside ({reason.strerror})"
        if (kind, key) not in self._warned:
            self._warned.add((kind, key))
            text = f"{kind}/{key} in the store {self.folder} is damaged ({error}); it {fate} and counts as absent"
            warnings.warn(text, StoreWarning, stacklevel=4)

    def _warn_of(self, error: OSError) -> None:
        """Say once for each kind of failure that the store does not take or give what it should."""
        if error.errno not in self._warned:
            self._warned.add(error.errno)
            text = f"the store {self.folder} cannot be used in full (errno {error.errno}: {error.strerror}); "
            text += "the run goes on, and keeps in memory what it cannot write"
            warnings.warn(text, StoreWarning, stacklevel=4)


def _version(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written anew; None if there is none to be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
