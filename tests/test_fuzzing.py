"""Hostile input at every way into the project: taken or refused clearly, never executed, never a crash.

The same strategies by the ten thousand: `python -m benchmarks.fuzzing` (docs/evidence/fuzzing.json).
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from agents.checkpoint import CheckpointError, load_checkpoint
from benchmarks.fuzzing import SURFACES, Fuzzing, campaign
from rcnas_env.architecture import NetworkSpec, named_network, network_from_dict
from rcnas_env.attacks.progress import AttackProgress, AttackState
from rcnas_env.cell_architecture import CellNetworkSpec
from rcnas_env.cost import cost
from rcnas_env.delivery import DeliveryError, load_student
from rcnas_env.evaluation.folder_store import FolderStore
from rcnas_env.strict_json import MOST_NESTED, parse_json
from rcnas_env.tabular.archive import MOST_BYTES, read_arrays
from rcnas_env.tabular.space import StudentSpace
from rcnas_env.tabular.table import TABLES
from rcnas_env.validation import require_integer, require_number
from tests import fuzzing_surfaces as made
from tests.fuzzing_files import RECORD, RUN, _checkpoint_files
from tests.fuzzing_runs import SEARCHERS, agent_files, learner_file, run_files, student_files
from tests.fuzzing_stores import PROGRESS, _progress_file, _sealed
from tests.fuzzing_strategies import MARKER, lying_npz, payload_npz, payload_pickle, put
from tests.fuzzing_surfaces import EVALUATION, Surface, outcome

FEW = 30
"""Inputs for each surface here; commands, which take longer, get a quarter."""


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_hostile_input_is_taken_or_refused(surface: Surface) -> None:
    @settings(
        max_examples=FEW // 4 if surface.name.startswith("python") else FEW,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(surface.inputs)
    def feed(value: Any) -> None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            kind, text = outcome(surface, value, Path(folder))
        assert kind != "crashed", text

    feed()


@pytest.mark.slow
def test_ten_thousand_inputs_crash_nothing() -> None:
    found, crashes = campaign(Fuzzing(inputs=10_000, seed=1))
    assert found["all"]["inputs"] >= 10_000
    assert crashes == []


# -- what the inputs are made from: were it refused, nothing behind the first check would be fed ------------


def _whole_inputs() -> dict[str, list[Any]]:
    """Surface → inputs with nothing wrong, those that its strategy damages."""
    settings, weights = _checkpoint_files()
    record, run = json.dumps(RECORD).encode(), json.dumps(RUN).encode()
    return {
        "network": made.NETWORKS,
        "task": made.TASKS,
        "task buffers": made.BUFFERS,
        "recipe": made.RECIPES,
        "job": made.JOBS,
        "evaluation": [EVALUATION.to_dict()],
        "action": [("tabular", made.ACTIONS[0]), ("analytic", made.ACTIONS[2]), ("vector", made.ACTIONS[1])],
        "reset": [("analytic", made.RESETS[0]), ("tabular", made.RESETS[1])],
        "gym.make": made.MAKES,
        "table": [tuple((TABLES / f"digits.{kind}").read_bytes() for kind in ("npz", "json"))],
        "network file": [json.dumps(network).encode() for network in made.NETWORKS],
        "agent checkpoint": [(json.dumps(settings).encode(), weights)],
        "arena record": [(record, record)],
        "arena run log": [(run, b'{"engine": "tabular"}')],
        "delivered student": [(json.dumps(student_files()[0]).encode(), student_files()[1])],
        "searcher file": [(name, json.dumps(agent_files()[name]).encode()) for name in SEARCHERS],
        "learner file": [learner_file()[1]],
        "result table": [run_files()["tables/table1.json"]],
        "report of a run": [{name: json.dumps(value).encode() for name, value in run_files().items()}],
    }


def test_what_the_inputs_are_made_from_is_taken(tmp_path: Path) -> None:
    surfaces = {surface.name: surface for surface in SURFACES}
    for name, values in _whole_inputs().items():
        for number, value in enumerate(values):
            folder = tmp_path / f"{name} {number}"
            folder.mkdir()
            assert outcome(surfaces[name], copy.deepcopy(value), folder) == ("accepted", ""), name


def test_what_stores_are_fed_gets_past_their_checksums(tmp_path: Path) -> None:
    put(tmp_path / "evaluations" / EVALUATION.key[:2] / f"{EVALUATION.key}.json", _sealed(EVALUATION.to_dict()))
    found = FolderStore(tmp_path).load_evaluation(EVALUATION.key)
    assert found is not None and found.to_dict() == EVALUATION.to_dict()
    put(tmp_path / "ab.npz", _progress_file({"digest": "ab", "component": 1, "batch": 0, "broken": {"a": 1}}, PROGRESS))
    state = AttackState(torch.ones(2, 1, 2, 2), torch.ones(2, dtype=torch.bool), torch.arange(2))
    AttackProgress(tmp_path).file("ab").restore(state, torch.Generator())
    assert state.component == 1 and not state.adversarial.any()


# -- the judge itself -----------------------------------------------------------------------------------


def _feed(action: Any) -> Surface:
    return Surface("for a test", None, action)  # type: ignore[arg-type]


def test_the_payload_works_and_is_noticed(tmp_path: Path) -> None:
    def unpickle(value: Any, folder: Path) -> None:
        pickle.loads(value)

    assert outcome(_feed(unpickle), payload_pickle(), tmp_path) == ("crashed", "the payload was executed")
    assert not MARKER.exists()


def test_the_payload_of_an_archive_works(tmp_path: Path) -> None:
    def load(value: Any, folder: Path) -> None:
        with np.load(io.BytesIO(value), allow_pickle=True) as archive:
            archive["params"]

    assert outcome(_feed(load), payload_npz("params"), tmp_path)[0] == "crashed"


@pytest.mark.parametrize(
    ("feed", "kind"),
    [
        (lambda value, folder: require_integer("n", value, 1), "refused"),
        (lambda value, folder: int("x"), "crashed"),  # a ValueError from the depths
        (lambda value, folder: [][0], "crashed"),
        (lambda value, folder: None, "accepted"),
    ],
)
def test_only_what_the_project_says_itself_is_a_refusal(feed: Any, kind: str, tmp_path: Path) -> None:
    assert outcome(_feed(feed), 0, tmp_path)[0] == kind


# -- sizes that must not be allocated -------------------------------------------------------------------


SIZES: dict[str, list[tuple[Any, ...]]] = {
    "WRN-10-1": [("stem", "channels"), ("stages", 0, "planes"), ("stages", 0, "depth"), ("classes",)],
    "AdvRush-1@4": [("channels",), ("layers",), ("classes",)],
}
"""Network → where its JSON form has sizes."""


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("huge", [10**12, 10**400, 10**5_000], ids=["1e12", "1e400", "1e5000"])
def test_a_network_of_a_trillion_channels_is_refused(name: str, huge: int) -> None:
    for *path, last in SIZES[name]:
        value: Any = named_network(name).to_dict()
        inner = value
        for entry in path:
            inner = inner[entry]
        assert inner[last] > 0
        inner[last] = huge
        with pytest.raises(ValueError, match=last):
            network_from_dict(value)


def test_both_kinds_of_network_are_fuzzed_with_sizes() -> None:
    assert [type(named_network(name)) for name in SIZES] == [NetworkSpec, CellNetworkSpec]
    assert {type(network_from_dict(network)) for network in made.NETWORKS} == {NetworkSpec, CellNetworkSpec}


@pytest.mark.parametrize("size", ["hidden", "state", "n_eval", "stages"])
def test_a_checkpoint_of_a_huge_encoder_is_refused_before_it_is_made(size: str, tmp_path: Path) -> None:
    described, weights = _checkpoint_files()
    encoder = described["agent"]["encoder"] | {size: 10**6}
    changed = described | {"agent": described["agent"] | {"encoder": encoder}}
    (tmp_path / "agent.json").write_text(json.dumps(changed), encoding="utf-8")
    (tmp_path / "weights.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="agent.encoder must have sizes"):
        load_checkpoint(tmp_path)


def test_a_student_of_more_weights_than_its_file_is_refused_before_it_is_built(tmp_path: Path) -> None:
    card, weights = student_files()
    network = _with_planes(16_384) | {"input": card["network"]["input"]}
    (tmp_path / "student.json").write_text(json.dumps(card | {"network": network} | cost_of(network)), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(DeliveryError, match="numbers, the network .* parameters"):
        load_student(tmp_path)


def cost_of(network: dict[str, Any]) -> dict[str, int]:
    found = cost(network_from_dict(network))
    return {"params": found.params, "macs": found.macs}


def test_a_table_of_a_huge_teacher_is_refused_before_it_is_enumerated() -> None:
    with pytest.raises(ValueError, match="students"):
        StudentSpace(network_from_dict(_with_planes(16_384)))  # type: ignore[arg-type]


def _with_planes(planes: int) -> dict[str, Any]:
    value = named_network("WRN-10-1").to_dict()
    value["stages"][0] |= {"planes": planes, "depth": 1_024}
    return value


# -- archives and JSON ----------------------------------------------------------------------------------


def test_an_archive_that_lies_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold"):
        read_arrays(lying_npz("params"))
    with pytest.raises(ValueError, match="objects"):
        read_arrays(payload_npz("params"))
    content = bytearray(lying_npz("params", (8,)))
    at = content.rindex(b"PK\x01\x02") + 24  # the uncompressed size in the central directory
    content[at : at + 4] = (MOST_BYTES + 1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="at most"):
        read_arrays(bytes(content))


def test_an_archive_gives_what_was_saved() -> None:
    saved = {"a": np.arange(6).reshape(2, 3), "b": np.asfortranarray(np.eye(3, 2)), "c": np.array(1.5)}
    content = io.BytesIO()
    np.savez_compressed(content, **saved)  # type: ignore[arg-type]
    found = read_arrays(content.getvalue())
    assert set(found) == set(saved)
    assert all(np.array_equal(found[name], saved[name]) for name in saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("NaN", "NaN is no number"),
        ("1e999", "beyond the range"),
        ("9" * 101, "at most 100 digits"),
        ('"\\ud800"', "half of a surrogate pair"),
        ("[" * (MOST_NESTED + 1) + "]" * (MOST_NESTED + 1), "nested more than"),
        (b"\xff", "utf-8"),
        ("{", "Expecting"),
    ],
)
def test_json_that_python_would_take(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json_within_the_bounds_is_read_as_python_reads_it() -> None:
    deep = "[" * MOST_NESTED + "]" * MOST_NESTED
    brackets = '["' + "[" * 1_000 + '\\"{"]'
    values = (deep, brackets, '{"a": [1, 2.5, -3e-2, null, true, "\\ud83d\\ude00"]}', "9" * 100)
    assert [parse_json(text) for text in values] == [json.loads(text) for text in values]


def test_a_number_beyond_a_float_is_no_number() -> None:
    with pytest.raises(ValueError, match="budget must be a finite number"):
        require_number("budget", 10**400)
