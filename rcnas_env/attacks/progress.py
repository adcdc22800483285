"""Attacks that go on where they were stopped: what has been reached, kept in one file an attack.

>>> progress = AttackProgress("progress")

and then `run_attack(..., progress=progress)`, the same call again after an interruption.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcnas_env.strict_json import parse_json
from rcnas_env.validation import require_integer, require_number
from rcnas_env.whole_files import writing

_NOTE = "note."
"""What the names of a component's own tensors begin with in the file."""


class ProgressWarning(UserWarning):
    """An attack cannot keep how far it has come; it goes on, and would start over after an interruption."""


@dataclass
class AttackState:
    """How far an attack of N images has come; changed in place as it goes on.

    adversarial: float32 (N, channels, height, width), the images as perturbed so far.
    standing: bool (N,), not broken so far.
    survivors: int64 (M,), indices of the images that the present component attacks: those that stood at its start.
    component: index of the present component.
    batch: how many of its batches are done.
    broken: component → how many images it broke; finished components only.
    notes: what the present component keeps of its present batch, see `Notes`.
    """

    adversarial: Tensor
    standing: Tensor
    survivors: Tensor
    component: int = 0
    batch: int = 0
    broken: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Tensor] = field(default_factory=dict)

    def finish_batch(self) -> None:
        """Move on to the component's next batch."""
        self.batch += 1
        self.notes = {}

    def finish_component(self, survivors: Tensor) -> None:
        """Move on to the next component, for the images at the indices `survivors`, int64 (M,)."""
        self.component += 1
        self.batch = 0
        self.survivors = survivors


@dataclass(frozen=True)
class Notes:
    """What a component that runs for long keeps inside a batch, so that it need not start the batch anew.

    found: the tensors that it kept before the interruption; none at a start.
    keep: takes the tensors to be found; the generator's state is kept with them.
    """

    found: Mapping[str, Tensor] = field(default_factory=dict)
    keep: Callable[[Mapping[str, Tensor]], None] = lambda tensors: None


@dataclass(frozen=True)
class AttackProgress:
    """A folder in which `run_attack` keeps how far it has come, one file for each attack under way.

    A file belongs to one attack of one model on one set of images: any other attack passes it by, and several may
    share the folder one after another or at once. A file that is damaged, or whose model no longer gives the same
    logits to the bit, counts as absent. It is removed when its attack is done.
    Where a file cannot be written (a full disk, a folder that is read-only) the attack goes on without, with one
    `ProgressWarning`; what was written before stays.

    folder: made when needed.
    every_seconds: the least time between two writes of a file, of some N images' size each; 0 writes every time.

    Raises:
        ValueError: every_seconds is negative or not finite, or there is a file in the folder's place.
    """

    folder: str | os.PathLike[str]
    every_seconds: float = 30.0

    def __post_init__(self) -> None:
        require_number("every_seconds", self.every_seconds, minimum=0.0)
        try:
            file = Path(self.folder).exists() and not Path(self.folder).is_dir()
        except OSError:  # a folder above may not be searched: writing warns
            file = False
        if file:
            raise ValueError(f"folder must be a folder or not there yet, got the file {os.fspath(self.folder)!r}")

    def file(self, digest: str) -> ProgressFile:
        """The file of the attack whose arguments have this `digest` (hexadecimal)."""
        return ProgressFile(Path(self.folder) / f"{digest}.npz", digest, self.every_seconds)


class ProgressFile:
    """One attack's file: an npz archive of arrays, never of pickled objects, whose parts carry check sums."""

    def __init__(self, path: Path, digest: str, every_seconds: float) -> None:
        self.path = path
        self.digest = digest
        self._every_seconds = every_seconds
        self._written = time.monotonic()
        self._given_up = False

    def restore(self, state: AttackState, generator: torch.Generator) -> None:
        """Bring both to where the file says that the attack was; leave them as they are if it does not say."""
        try:
            if not self.path.exists():
                return
            # Opened here: numpy leaves a damaged file that it opened itself to the garbage collector.
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                if archive.zip.testzip() is not None:  # a part read short, by a damaged shape, is not checked else
                    return
                arrays = {name: torch.from_numpy(archive[name]) for name in archive.files if name != "header"}
                header = parse_json(str(archive["header"]))
            self._require_match(header, arrays, state)
            generator.set_state(arrays.pop("generator"))  # last: it is refused, or done, as a whole
        except Exception:  # numpy, zipfile and zlib raise a dozen types, untold ones among them, for damaged files
            return
        # Into the tensor that is there: its memory format decides which convolutions run.
        state.adversarial.copy_(arrays.pop("adversarial"))
        state.standing = arrays.pop("standing").to(state.standing.device)
        state.survivors = arrays.pop("survivors").to(state.survivors.device)
        state.component, state.batch, state.broken = header["component"], header["batch"], header["broken"]
        state.notes = {name.removeprefix(_NOTE): value for name, value in arrays.items()}

    def save(self, state: AttackState, generator: torch.Generator) -> None:
        """Write both, unless the last write (or the attack's start) was less than `every_seconds` ago.

        Warns:
            ProgressWarning: the file cannot be written. The one before is whole still, and none is written any more.
        """
        if self._given_up or time.monotonic() - self._written < self._every_seconds:
            return
        tensors = {
            "adversarial": state.adversarial,
            "standing": state.standing,
            "survivors": state.survivors,
            "generator": generator.get_state(),
            **{_NOTE + name: value for name, value in state.notes.items()},
        }
        header = {
            "digest": self.digest,
            "component": state.component,
            "batch": state.batch,
            "broken": state.broken,
        }
        arrays: dict[str, Any] = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        try:
            self._write({"header": np.array(json.dumps(header)), **arrays})
        except OSError as error:
            self._give_up(error)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Delete the file, if there is one.

        Warns:
            ProgressWarning: it cannot be deleted.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Say once that the folder does not take what it should."""
        if not self._given_up:
            self._given_up = True
            text = f"attack progress in {self.path.parent} cannot be kept or removed (errno {error.errno}: "
            text += f"{error.strerror}); the attack goes on without"
            warnings.warn(text, ProgressWarning, stacklevel=3)

    def _require_match(self, header: Any, arrays: Mapping[str, Tensor], state: AttackState) -> None:
        adversarial, standing, survivors = (arrays[name] for name in ("adversarial", "standing", "survivors"))
        fits = (
            header["digest"] == self.digest
            and (adversarial.shape, adversarial.dtype) == (state.adversarial.shape, torch.float32)
            and (standing.shape, standing.dtype) == (state.standing.shape, torch.bool)
            and (survivors.ndim, survivors.dtype) == (1, torch.int64)
            and bool(((survivors >= 0) & (survivors < len(standing))).all())
        )
        if not fits:
            raise ValueError(f"{self.path.name} is of another attack")
        for name, value in {"component": header["component"], "batch": header["batch"], **header["broken"]}.items():
            require_integer(name, value, 0)

    def _write(self, arrays: Mapping[str, Any]) -> None:
        with writing(self.path) as temporary, temporary.open("wb") as file:  # by its name, numpy would append .npz
            np.savez(file, **arrays)
