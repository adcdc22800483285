"""Hypothesis strategies of hostile input: valid documents and files with something wrong, and plain garbage.

Documents are mutated where a reader looks: a field is replaced, dropped, renamed, added, or swapped with another one.
Texts and files are mutated as bytes, and replaced by what must never be loaded: pickles, archives that lie.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

MARKER = Path(tempfile.gettempdir()) / f"rcnas-fuzzing-payload-{os.getpid()}"
"""The folder that the payload makes when it is executed."""

ODD_JSON: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3, 16, 1_000, 10**12, -(10**12), 2**63, 2**64, 10**400, 0.5, 1.0, -0.0,
    1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", " ", "\0", "\ud800", "1", "nan", "a" * 5_000, "WRN-10-1", "digits",
    "imagefolder:", "imagefolder:~no-such-user/x", "imagefolder:x@9" + "9" * 30, "pgd-999999999999", "WRN-9999-9999",
    "AdvRush-9999@9999", "../../etc/passwd", [], {}, [[]], [None], {"": None}, [10**12] * 3, [3, 32, 32],
)  # fmt: skip
"""Values that JSON, or what Python's parser takes for it, can hold."""

ODD_PYTHON: tuple[Any, ...] = (
    b"bytes", (1, 2, 3), {1}, 1j, np.float64("nan"), np.float32(0.5), np.int64(3), np.bool_(True), np.array([1.0, 2.0]),
    np.array("x"), np.zeros((3, 2)), Fraction(1, 3), 10**4_000, object(), int, range(3), {1: 2}, {(): ()},
)  # fmt: skip
"""Values that only a caller in Python can pass."""


class _Payload:
    """Makes the folder MARKER when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(MARKER),)


def payload_pickle() -> bytes:
    """A pickle that makes the folder MARKER when it is loaded."""
    return pickle.dumps(_Payload())


def payload_npz(*names: str) -> bytes:
    """An npz archive whose arrays `names` hold pickled objects that make the folder MARKER when they are loaded."""
    file = io.BytesIO()
    arrays: dict[str, Any] = {name: np.array([_Payload()], dtype=object) for name in names}
    np.savez(file, **arrays)
    return file.getvalue()


def lying_npz(name: str, shape: tuple[int, ...] = (10**12,)) -> bytes:
    """An npz archive with an array of a few bytes whose header promises `shape`."""
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f8", "fortran_order": False, "shape": shape})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", array.getvalue() + bytes(64))
    return file.getvalue()


def lying_safetensors(size: int) -> bytes:
    """A safetensors file whose first eight bytes promise a header of `size` bytes."""
    return struct.pack("<Q", size) + b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' + bytes(4)


def hostile_files() -> tuple[bytes, ...]:
    """Whole files that are something else than what is looked for, or lie about their size."""
    huge = b'{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    return (
        b"", b"\0" * 100, b"\xff\xfe{}", b"null", b"[]", b"{}", b'"text"', b"NaN", b"1e999", b"9" * 5_000,
        b"[" * 100_000,
        b"[" * 300 + b"]" * 300, b'{"a":' * 900 + b"1" + b"}" * 900, b"\x80", b"\xef\xbb\xbf{}", payload_pickle(),
        payload_npz("params", "header"), lying_npz("params"), lying_npz("adversarial"), lying_safetensors(2**63),
        lying_safetensors(100), struct.pack("<Q", len(huge)) + huge, b"PK\x03\x04", b"PK\x05\x06" + bytes(18),
        b"\x93NUMPY\x01\x00", b"\x1f\x8b\x08\x00" + bytes(20), zlib.compress(bytes(100_000)), b"\x89PNG\r\n\x1a\n",
    )  # fmt: skip


def odd_values(python: bool = False) -> st.SearchStrategy[Any]:
    """Single wrong values; with `python`, those too that no JSON file holds."""
    odd = ODD_JSON + (ODD_PYTHON if python else ())
    chosen = st.sampled_from(odd).map(copy.deepcopy)  # an input may be changed further
    return st.one_of(chosen, chosen, st.integers(), st.floats(), st.text(max_size=8))


def garbage(python: bool = False) -> st.SearchStrategy[Any]:
    """Small nested values of any kind."""
    return st.recursive(
        odd_values(python),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all containers' entries in `value`, at most 8 of a long list."""
    if isinstance(value, dict):
        entries: list[Any] = list(value)
    else:
        entries = list(range(min(len(value), 8))) if isinstance(value, list) else []
    found = [(*path, entry) for entry in entries]
    return found + [deeper for entry in entries for deeper in _places(value[entry], (*path, entry))]


@st.composite
def mutated(draw: st.DrawFn, documents: Sequence[Any], python: bool = False) -> Any:
    """One of `documents` with none to three of its entries changed; now and then garbage."""
    value = copy.deepcopy(draw(st.sampled_from(documents)))
    if draw(st.integers(0, 15)) == 15:
        return draw(garbage(python))
    for _ in range(draw(st.integers(0, 3))):
        places = _places(value)
        if not places:
            break
        *path, last = draw(st.sampled_from(places))
        parent = value
        for entry in path:
            parent = parent[entry]
        _change(draw, value, parent, last, python)
    return value


def _change(draw: st.DrawFn, value: Any, parent: Any, last: Any, python: bool) -> None:
    """Change the entry `last` of `parent`, which is inside `value`."""
    how = draw(
        st.sampled_from(("replace", "replace", "replace", "garbage", "drop", "rename", "wrap", "repeat", "swap"))
    )
    if how == "replace":
        parent[last] = draw(odd_values(python))
    elif how == "garbage":
        parent[last] = draw(garbage(python))
    elif how == "drop":
        del parent[last]
    elif how == "rename" and isinstance(parent, dict):
        parent[draw(st.text(max_size=5))] = parent.pop(last)
    elif how == "wrap":
        for _ in range(draw(st.sampled_from((1, 1, 80)))):
            parent[last] = [parent[last]]
    elif how == "repeat" and isinstance(parent, list):
        parent.extend(parent * draw(st.integers(1, 3)))
    elif how == "swap":
        other = value
        for entry in draw(st.sampled_from(_places(value))):
            other = other[entry]
        parent[last] = copy.deepcopy(other)


def documents_as_bytes(documents: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """Mutated documents as JSON files: whole, damaged as bytes, with a key twice, or not JSON at all."""
    texts = mutated(documents).map(lambda value: json.dumps(value).encode())
    twice = texts.map(lambda text: text[:1] + text[1:-1] + b"," + text[1:-1] + text[-1:])
    return st.one_of(texts, texts, twice, texts.flatmap(damaged), st.sampled_from(hostile_files()))


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with bytes flipped, cut off, left out or added; or another file in its place."""
    how = draw(st.sampled_from(("none", "flip", "flip", "cut", "leave out", "add", "other")))
    at = draw(st.integers(0, max(0, len(content) - 1)))
    if how == "flip" and content:
        changed = bytearray(content)
        changed[at] ^= draw(st.integers(1, 255))
        return bytes(changed)
    if how == "cut":
        return content[:at]
    if how == "leave out":
        return content[:at] + content[at + draw(st.integers(1, 64)) :]
    if how == "add":
        return content[:at] + draw(st.binary(max_size=16)) + content[at:]
    return draw(st.sampled_from(hostile_files())) if how == "other" else content


def one_damaged(contents: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the files `contents`, damaged."""
    return st.sampled_from(contents).flatmap(damaged)


@st.composite
def odd_weights(draw: st.DrawFn, weights: bytes, metadata: dict[str, str] | None = None) -> bytes:
    """Weights with one tensor of another type, shape, name or content."""
    tensors = load_safetensors(weights)
    name = draw(st.sampled_from(sorted(tensors)))
    tensor = tensors.pop(name)
    part = tensor.reshape(-1, *tensor.shape[1:])[:1]  # of a scalar too
    odd = (tensor.to(torch.int64), tensor.double(), tensor * float("nan"), part, tensor[None], tensor.bool())
    tensors[draw(st.sampled_from((name, name, name, "", "optimizer/0/step", "optimizer/x/y", "encoder/x")))] = draw(
        st.sampled_from(odd)
    ).contiguous()
    foreign = (metadata or {}) | {"__class__": "os.system"}
    return save_safetensors(tensors, metadata=draw(st.sampled_from((metadata, foreign))))


ODD_FILES = ("directory", "nothing", "dangling link", "link to itself", "link to a folder")


def put(path: Path, content: bytes | str) -> None:
    """Write `content`, or put one of ODD_FILES in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() or path.is_symlink():
        path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "directory":
        path.mkdir()
    elif content != "nothing":
        path.symlink_to({"link to itself": path, "link to a folder": path.parent}.get(content, path.parent / "gone"))


def files(whole: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes | str]:
    """`whole`, and now and then what is no file."""
    return st.one_of(whole, whole, whole, whole, st.sampled_from(ODD_FILES))
