"""The surfaces that are command lines, run in this process with a working directory of their own."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from experiments import catalog, compare_agents, describe, matrix, store
from rcnas_env.evaluation.folder_store import FolderStore
from tests.fuzzing_files import RECORD
from tests.fuzzing_strategies import ODD_JSON, hostile_files, put
from tests.fuzzing_surfaces import EVALUATION, NETWORKS, CommandRefusedError, Surface

ODD_WORDS = [value for value in ODD_JSON if isinstance(value, str)] + [
    "-1",
    "0",
    "1e999",
    "9" * 5_000,
    "--",
    "--x",
    "-h",
]
"""Arguments that no command expects; none begins with "/": commands write."""


def _words(*usual: str) -> st.SearchStrategy[list[str]]:
    """Command lines of the `usual` words and odd ones."""
    word = st.sampled_from(usual)
    return st.lists(st.one_of(word, word, word, st.sampled_from(ODD_WORDS)), max_size=8)


def _run(main: Callable[[], int], arguments: Sequence[str], folder: Path) -> None:
    """Run a command; its exit code and output must be those of a success or of a refusal."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    errors.reconfigure(errors="backslashreplace")  # as Python's own is
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        mock.patch.object(sys, "argv", ["command", *arguments]),
    ):
        try:
            code: Any = main()
        except SystemExit as ended:
            code = ended.code
    said = errors.buffer.getvalue() + output.buffer.getvalue()
    assert code in (0, 1, 2, None), f"exit code {code!r}"
    if code == 2:
        assert said, "refused without a word"
        raise CommandRefusedError(said.decode("utf-8", "replace")[:500])


def _describe(value: Any, folder: Path) -> None:
    put(folder / "spec.json", json.dumps(NETWORKS[0]).encode())
    put(folder / "bad.json", b'{"stages": 1}')
    put(folder / "\udcff.json", json.dumps(NETWORKS[0]).encode())
    _run(describe.main, value, folder)


def _store(value: Any, folder: Path) -> None:
    kept = FolderStore(folder / "store")
    kept.save_evaluation(EVALUATION)
    arguments, content, name = value
    put(folder / "store" / "evaluations" / name[:2] / f"{name}.json", content)
    _run(store.main, arguments, folder)


def _agree(value: Any, folder: Path) -> None:
    for name in ("a", "b"):
        put(folder / name / "record.json", json.dumps(RECORD).encode())
    put(folder / "bad" / "record.json", b'{"results": {"best": 1, "agents": [{"agent": []}], "bars": []}}')
    _run(compare_agents.main, ["--agree", *value], folder)


def _matrix(value: Any, folder: Path) -> None:
    with mock.patch.object(matrix, "_main", return_value=0):  # what is asked for is checked, and then not trained
        _run(matrix.main, value, folder)


STORE_WORDS = (
    "ls", "verify", "prune", "export", "--store", "store", "--repair", "--add", "--set-aside", "--under-way",
    "--weights", "--yes", "--days", "0", "nan", "target", "target.tar.gz", "--kind", "evaluations", "--keys",
)  # fmt: skip
COMMANDS = (
    Surface(
        "python -m experiments.describe",
        _words(
            "WRN-28-10",
            "WRN-10-1",
            "spec.json",
            "bad.json",
            "\udcff.json",
            "--json",
            "--input",
            "3x32x32",
            "--classes",
            "10",
        ),
        _describe,
        (CommandRefusedError,),
    ),
    Surface(
        "python -m experiments.store",
        st.tuples(
            st.tuples(st.sampled_from(STORE_WORDS[:4]), _words(*STORE_WORDS)).map(
                lambda w: [w[0], "--store", "store", *w[1]]
            ),
            st.sampled_from((*hostile_files(), "directory", "link to itself")),
            st.sampled_from((EVALUATION.key, "ab" * 32, "x", "\udcff", "..", "a" * 200)),
        ),
        _store,
        (CommandRefusedError,),
    ),
    Surface(
        "python -m experiments.catalog",
        st.lists(st.sampled_from([word for word in ODD_WORDS if word] + ["--json"]), min_size=2, max_size=4),
        lambda value, folder: _run(catalog.main, value, folder),
        (CommandRefusedError,),
    ),
    Surface(
        "python -m experiments.compare_agents --agree",
        _words("a", "b", "a", "b", "bad", "--seeds", "2", "--engine", "tabular", "--tasks", "--out", "--agents"),
        _agree,
        (CommandRefusedError,),
    ),
    Surface(
        "python -m experiments.matrix",
        _words(
            *("--epochs", "1", "--workers", "0", "--seed", "--out", "out", "--networks", "robust", "--store"),
            *("--datasets", "digits", "no-such-data"),
        ),
        _matrix,
        (CommandRefusedError,),
    ),
)
"""The command lines."""
