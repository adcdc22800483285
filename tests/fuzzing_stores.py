"""The surfaces of a store and a table: entries, claims, progress of attacks, arrays with their cards."""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from rcnas_env.attacks.progress import AttackProgress, AttackState
from rcnas_env.evaluation.attacked_sets import AttackedSet
from rcnas_env.evaluation.claims import Claims, this_process
from rcnas_env.evaluation.folder_store import FolderStore
from rcnas_env.registry import UnknownNameError
from rcnas_env.tabular.table import TABLES, TableError, _read_table
from tests.fuzzing_strategies import damaged, documents_as_bytes, files, hostile_files, mutated, put
from tests.fuzzing_surfaces import EVALUATION, NETWORKS, Surface


def _sealed(value: Any) -> bytes:
    """A record with a checksum that fits; bare where JSON does not hold it."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(value).encode()
    sealed = json.dumps({"record": value}, sort_keys=True, separators=(",", ":"))
    return f'{{"record":{text},"sha256":"{hashlib.sha256(sealed.encode()).hexdigest()}"}}'.encode()


def _stored_evaluation(value: Any, folder: Path) -> None:
    put(folder / "evaluations" / EVALUATION.key[:2] / f"{EVALUATION.key}.json", value)
    store = FolderStore(folder)
    store.load_evaluation(EVALUATION.key)
    store.save_evaluation(EVALUATION)  # computed anew
    found = store.load_evaluation(EVALUATION.key)
    assert found is not None and found.to_dict() == EVALUATION.to_dict()


WEIGHTS = save_safetensors({"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(1)})
REPORT = {"losses": [1.0, None], "seconds": 1.5, "diverged": False, "network": NETWORKS[0], "provenance": {"a": "b"}}
KEY = "ab" * 32


@st.composite
def _trainings(draw: st.DrawFn) -> tuple[Any, Any]:
    """(weights, report) to be put in the place of a whole entry's; None leaves a file as it is."""
    if draw(st.booleans()):
        return draw(files(damaged(WEIGHTS))), draw(st.none() | st.just(json.dumps(REPORT).encode()))
    return None, draw(files(documents_as_bytes([REPORT])))


def _stored_training(value: Any, folder: Path) -> None:
    weights, report = value
    store = FolderStore(folder)
    store.save_training(KEY, REPORT, WEIGHTS)
    for path, content in zip(store.paths("trainings", KEY), (weights, report), strict=True):
        if content is not None:
            put(path, content)
    store.load_training(KEY)
    store.save_training(KEY, REPORT, WEIGHTS)
    assert store.load_training(KEY) == (REPORT, WEIGHTS)


SET = AttackedSet.of(torch.zeros(2, 1, 2, 2), 1.5, {"device": "cpu"})


@st.composite
def _attacked_sets(draw: st.DrawFn) -> tuple[Any, Any]:
    """(images, record) to be put in the place of a whole entry's; None leaves a file as it is."""
    if draw(st.booleans()):
        return draw(files(damaged(SET.images))), None
    return None, draw(files(documents_as_bytes([SET.record])))


def _stored_set(value: Any, folder: Path) -> None:
    store = FolderStore(folder)
    store.save_attacked_set(KEY, SET)
    for path, content in zip(store.paths("attacked-sets", KEY), value, strict=True):
        if content is not None:
            put(path, content)
    found = store.load_attacked_set(KEY)
    assert found is None or found == SET
    store.save_attacked_set(KEY, SET)
    assert store.load_attacked_set(KEY) == SET


def _claim(value: Any, folder: Path) -> None:
    put(folder / f"{KEY}.json", value)
    with suppress(OSError):  # documented: no claim can be written
        Claims(folder).take(KEY)


def _progress(value: Any, folder: Path) -> None:
    put(folder / "ab.npz", value)
    state = AttackState(torch.zeros(2, 1, 2, 2), torch.ones(2, dtype=torch.bool), torch.arange(2))
    AttackProgress(folder).file("ab").restore(state, torch.Generator())
    assert state.survivors.dtype == torch.int64 and ((state.survivors >= 0) & (state.survivors < 2)).all()
    assert state.standing.dtype == torch.bool and isinstance(state.component + state.batch, int)


def _progress_file(header: Any, arrays: dict[str, Any]) -> bytes:
    content = io.BytesIO()
    np.savez(content, header=np.array(json.dumps(header)), **arrays)
    return content.getvalue()


PROGRESS = {
    "adversarial": np.zeros((2, 1, 2, 2), np.float32),
    "standing": np.ones(2, bool),
    "survivors": np.arange(2),
    "generator": torch.Generator().get_state().numpy(),
}
ODD_ARRAYS = (
    np.array(5),
    np.zeros((2, 1, 2, 2), np.int8),
    np.array(["x", "y"]),
    np.array([7, -9]),
    np.zeros(0),
    np.ones(2),
)


@st.composite
def _progress_files(draw: st.DrawFn) -> bytes:
    header = draw(mutated([{"digest": "ab", "component": 1, "batch": 0, "broken": {"a": 1}}]))
    odd = draw(st.dictionaries(st.sampled_from((*PROGRESS, "note.x")), st.sampled_from(ODD_ARRAYS), max_size=2))
    return draw(damaged(_progress_file(header, PROGRESS | odd)))


@st.composite
def _tables(draw: st.DrawFn) -> tuple[Any, Any]:
    """(arrays, card) of a table, with a checksum that fits more often than not."""
    card = json.loads((TABLES / "digits.json").read_text(encoding="utf-8"))
    content = (TABLES / "digits.npz").read_bytes()
    arrays: Any = draw(
        st.one_of(st.just(content), damaged(content), st.sampled_from(hostile_files()), _odd_tables(content))
    )
    if draw(st.booleans()):
        changed = draw(mutated([card]))
        if isinstance(changed, dict) and draw(st.integers(0, 3)):
            changed["sha256"] = hashlib.sha256(arrays).hexdigest()
        return arrays, json.dumps(changed).encode()
    card["sha256"] = hashlib.sha256(arrays).hexdigest()
    return arrays, draw(files(st.just(json.dumps(card).encode()).flatmap(damaged)))


@st.composite
def _odd_tables(draw: st.DrawFn, content: bytes) -> bytes:
    """A table with one array of another kind, shape or content."""
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = draw(st.sampled_from(sorted(arrays)))
    array = arrays[name]
    odd: tuple[Any, ...] = (
        array[:0],
        array[:1],
        array.astype(str),
        array.astype(complex),
        array.astype(bool),
        array * 0,
        -array - 1,
    )
    odd += (array.astype(float) * np.nan, np.array(5), array[..., None], array.astype(float) * 1e30, array.view("V1"))
    arrays[name] = draw(st.sampled_from(odd))
    changed = io.BytesIO()
    np.savez(changed, **arrays)
    return changed.getvalue()


def _table(value: Any, folder: Path) -> None:
    arrays, card = value
    put(folder / "table.npz", arrays)
    put(folder / "table.json", card)
    table = _read_table.__wrapped__("table", folder / "table.npz", folder / "table.json", ())
    rows = np.arange(3)
    table.accuracies(rows, 0)
    table.accuracies_of_all(1)
    table.lips_of(0, 0), table.loss(0, 0), table.seconds_of(0, 0), table.lips(rows, np.zeros(3, np.int64))


STORES = (
    Surface(
        "store: evaluation",
        files(documents_as_bytes([EVALUATION.to_dict()]) | mutated([EVALUATION.to_dict()]).map(_sealed)),
        _stored_evaluation,
        (),
    ),
    Surface("store: training", _trainings(), _stored_training, ()),
    Surface("store: attacked set", _attacked_sets(), _stored_set, ()),
    Surface("store: claim", files(documents_as_bytes([this_process()])), _claim, ()),
    Surface("attack progress", files(_progress_files()), _progress, ()),
    Surface("table", _tables(), _table, (TableError, UnknownNameError)),
)
"""The surfaces of stores and tables. A store refuses nothing: it sets aside what is damaged, and computes anew."""
