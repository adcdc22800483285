"""What a store's entries are as bytes: JSON that carries its own SHA-256, and files that appear whole or not at all.

    evaluation   {"record": the Evaluation, "sha256": …}
    training     {"key": …, "record": the report, "weights_sha256": …, "sha256": …}, and the weights as safetensors
    attacked set {"key": …, "record": where it is from, "images_sha256": …, "sha256": …}, and the images likewise

"sha256" is over the canonical JSON (keys sorted, no spaces) of all else in the object. Evaluations and trainings of
earlier versions are the bare record or report: they are read as they are, and called unchecked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, deserialize

from rcnas_env.evaluation.record import Evaluation
from rcnas_env.strict_json import parse_json
from rcnas_env.validation import require_boolean, require_number
from rcnas_env.whole_files import writing

Kind = Literal["evaluations", "trainings", "attacked-sets"]
"""What an entry is of, and the folder that it lies in."""

SUFFIXES: Mapping[Kind, tuple[str, ...]] = {
    "evaluations": (".json",),
    "trainings": (".safetensors", ".json"),
    "attacked-sets": (".safetensors", ".json"),
}
"""The files of an entry, in the order in which they are written; the last stands for the whole entry."""

TENSORS: Mapping[Kind, str] = {"trainings": "weights", "attacked-sets": "images"}
"""What the safetensors file of an entry holds."""


class DamagedEntryError(ValueError):
    """An entry's bytes are not what was written, or were never an entry; the message says in what."""


@dataclass(frozen=True)
class Entry:
    """What the files of an entry say.

    record: an Evaluation, a training's report, or what is known of an attacked set.
    tensors: a training's weights, or an attacked set's images, safetensors bytes; b"" for an evaluation.
    checked: whether it carried checksums, which fit.
    """

    record: Evaluation | dict[str, Any]
    tensors: bytes = b""
    checked: bool = True


def encode(kind: Kind, key: str, entry: Entry) -> list[bytes]:
    """The contents of the entry's files, in the order of `SUFFIXES`.

    Raises:
        ValueError: the record holds what JSON cannot, such as NaN.
    """
    if isinstance(entry.record, Evaluation):
        return [_sealed({"record": entry.record.to_dict()})]
    checksum = {f"{TENSORS[kind]}_sha256": hashlib.sha256(entry.tensors).hexdigest()}
    return [entry.tensors, _sealed({"key": key, "record": entry.record, **checksum})]


def decode(kind: Kind, key: str, contents: Sequence[bytes]) -> Entry:
    """The entry under `key`, from the contents of its files in the order of `SUFFIXES`.

    Raises:
        DamagedEntryError: a file is not whole or does not fit its checksum, the entry is another key's, or the record
            does not say what it must.
    """
    value = _object(contents[-1])
    checked = "record" in value
    if kind == "evaluations":
        record = _unsealed(value, {"record", "sha256"})["record"] if checked else value
        return Entry(_evaluation(key, record), checked=checked)
    tensors, report, name = contents[0], value, TENSORS[kind]
    if checked:
        report = _unsealed(value, {"key", "record", f"{name}_sha256", "sha256"})["record"]
        if value["key"] != key:
            raise DamagedEntryError(f"it is the entry of key {value['key']}")
        if hashlib.sha256(tensors).hexdigest() != value[f"{name}_sha256"]:
            raise DamagedEntryError(f"its {name} do not fit their checksum")
    if kind == "attacked-sets" and not checked:
        raise DamagedEntryError("it has no checksum, which all attacked sets have")
    _require_report(kind, report)
    _require_tensors(name, tensors)
    return Entry(report, tensors, checked)


def write_files(files: dict[Path, bytes]) -> None:
    """Write the files of one entry, in order; the last stands for the whole entry.

    Each is filled under another name beside its place and renamed. Where an entry of several files is written over, the
    last file goes first and comes last: a reader never takes the report of one writing for the weights of another.

    Raises:
        OSError: a file cannot be written. None of its temporary files is left.
    """
    with ExitStack() as pending:
        for path, content in reversed(files.items()):  # what is entered first is left, and so renamed, last
            pending.enter_context(writing(path)).write_bytes(content)
        if len(files) > 1:
            next(reversed(files)).unlink(missing_ok=True)


def _evaluation(key: str, record: dict[str, Any]) -> Evaluation:
    try:
        evaluation = Evaluation.from_dict(record)
    except (ValueError, TypeError) as error:
        raise DamagedEntryError(f"no evaluation: {str(error)[:200]}") from error
    if evaluation.key != key:
        raise DamagedEntryError(f"it is the evaluation of key {evaluation.key[:80]}")
    return evaluation


def _require_report(kind: Kind, report: dict[str, Any]) -> None:
    """Require what a measurement needs: `seconds`, and of a training's report `diverged`."""
    try:
        if kind == "trainings":
            require_boolean("diverged", report.get("diverged"))
        require_number("seconds", report.get("seconds"), minimum=0.0)
    except ValueError as error:
        raise DamagedEntryError(f"its record does not say what it must: {error}") from None


def _require_tensors(name: str, tensors: bytes) -> None:
    try:
        deserialize(tensors)
    except SafetensorError as error:
        raise DamagedEntryError(f"its {name} are no safetensors file: {error}") from error


def _digest(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sealed(value: Mapping[str, Any]) -> bytes:
    return json.dumps({**value, "sha256": _digest(value)}, allow_nan=False).encode()


def _object(content: bytes) -> dict[str, Any]:
    try:
        value = parse_json(content)
    except ValueError as error:
        raise DamagedEntryError(f"no JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise DamagedEntryError("no JSON object")
    return value


def _unsealed(value: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """`value` itself, whose fields must be `names`, and whose checksum must fit."""
    if set(value) != names or not isinstance(value["record"], dict):
        raise DamagedEntryError(f"it must have the fields {sorted(names)}, got {sorted(value)}"[:300])
    try:
        fits = _digest({name: entry for name, entry in value.items() if name != "sha256"}) == value["sha256"]
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        raise DamagedEntryError("it does not fit its checksum")
    return value
