"""The surfaces of what runs leave behind: delivered students, agents' files, tables, run folders."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from agents.flat_vector_env import FlatVectorEnv
from agents.registry import make_agent
from agents.sb3 import SB3Agent
from agents.sb3_weights import restore_model
from experiments.reporting.page import page
from experiments.reporting.run_folder import read_run
from experiments.result_table import ResultTable
from rcnas_env import load_student
from rcnas_env.delivery import DeliveryError, Measurement, Preprocessing, StudentCard, write_student
from rcnas_env.random_streams import lent_random_streams
from tests import landscape, tiny
from tests.fuzzing_strategies import damaged, documents_as_bytes, files, mutated, odd_weights, put
from tests.fuzzing_surfaces import Surface
from tests.report_samples import quickstart, sample_searches, sample_table

# -- students ----------------------------------------------------------------------------------------------


@functools.cache
def student_files() -> tuple[dict[str, Any], bytes]:
    """Card and weights of a small delivered student."""
    measured = (Measurement("fgsm", 0.1, "student", "test", 40, 0.5),)
    card = StudentCard(tiny.STUDENT, "digits", Preprocessing((1, 8, 8), 16), measured, {"seed": 0}, {}, {"python": "3"})
    with tempfile.TemporaryDirectory() as folder:
        made = write_student(tiny.built(), card, Path(folder) / "student", tiny.images(2))
        return json.loads((made / "student.json").read_bytes()), (made / "model.safetensors").read_bytes()


@st.composite
def _students(draw: st.DrawFn) -> tuple[Any, Any]:
    """(card, weights), of which one has something wrong; wrong weights have a checksum that fits."""
    card, weights = student_files()
    if draw(st.booleans()):
        return draw(files(documents_as_bytes([card]))), weights
    changed = draw(st.one_of(damaged(weights), odd_weights(weights)))
    fitting = card | {"files": {"model.safetensors": hashlib.sha256(changed).hexdigest()}}
    return json.dumps(fitting).encode(), changed


def _student(value: Any, folder: Path) -> None:
    card, weights = value
    put(folder / "student.json", card)
    put(folder / "model.safetensors", weights)
    logits = load_student(folder)(tiny.images(2))
    assert logits.shape == (2, 10)


# -- agents ------------------------------------------------------------------------------------------------

SEARCHERS = ("random-search", "evolution", "local-search", "tpe")


@functools.cache
def agent_files() -> dict[str, dict[str, Any]]:
    """What each searcher is saved as after a few students."""
    found = {}
    for name in SEARCHERS:
        agent: Any = make_agent(name, landscape.task(), 1)
        agent.search(landscape.environments(1), 3)
        with tempfile.TemporaryDirectory() as folder:
            agent.save(Path(folder) / "agent.json")
            found[name] = json.loads((Path(folder) / "agent.json").read_bytes())
    return found


@st.composite
def _agents(draw: st.DrawFn) -> tuple[str, bytes]:
    """A searcher's name and a file; not what cannot be opened, which is the system's own OSError."""
    name = draw(st.sampled_from(SEARCHERS))
    return name, draw(documents_as_bytes([agent_files()[name]]))


def _agent(value: Any, folder: Path) -> None:
    name, content = value
    put(folder / "agent.json", content)
    known: Any = type(make_agent(name, landscape.task(), 1))
    loaded = known.load(folder / "agent.json")
    loaded.save(folder / "again.json")


@functools.cache
def learner_file() -> tuple[dict[str, Any], bytes, Any]:
    """Settings and weights of a learner of stable-baselines3 with an encoder, and a model that takes them."""
    agent = SB3Agent("a2c", 1, landscape.encoder(), {"policy_kwargs": {"net_arch": [4]}, "rollout": 2})
    agent.search(landscape.environments(2), 4)
    with tempfile.TemporaryDirectory() as folder:
        agent.save(Path(folder) / "agent")
        with safe_open(Path(folder) / "agent", framework="pt") as file:
            settings = json.loads(file.metadata()["agent"])
        content = (Path(folder) / "agent").read_bytes()
    envs = FlatVectorEnv(landscape.environments(2), agent._encode, agent._size, 1)
    with lent_random_streams(1, "cpu"):  # hypothesis has its own use for the process's
        return settings, content, agent._model(envs, 2)


@st.composite
def _learners(draw: st.DrawFn) -> bytes:
    settings, content, _ = learner_file()
    if draw(st.booleans()):
        changed = draw(mutated([settings]))
        return save_safetensors(load_safetensors(content), {"agent": json.dumps(changed)})
    if draw(st.booleans()):
        return draw(damaged(content))
    return draw(odd_weights(content, {"agent": json.dumps(settings)}))


def _learner(value: Any, folder: Path) -> None:
    put(folder / "agent", value)
    loaded = SB3Agent.load(folder / "agent")
    if loaded.algorithm == "a2c":
        restore_model(learner_file()[2], loaded.tensors)


# -- runs --------------------------------------------------------------------------------------------------


@functools.cache
def run_files() -> dict[str, Any]:
    """The JSON files of a run folder that a report reads."""
    record = quickstart()
    record["results"]["trials"] = {name: tried[:2] for name, tried in record["results"]["trials"].items()}
    searches = [entry | {"trials": entry["trials"][:2]} for entry in sample_searches()[:2]]
    return {"record.json": record, "searches.json": searches, "tables/table1.json": sample_table().to_dict()}


@st.composite
def _runs(draw: st.DrawFn) -> dict[str, bytes]:
    """The files, of which one has something wrong, with or without searches beside the record."""
    found = {name: json.dumps(value).encode() for name, value in run_files().items()}
    name = draw(st.sampled_from(sorted(found)))
    found[name] = draw(documents_as_bytes([run_files()[name]]))
    if name != "searches.json" and draw(st.booleans()):
        del found["searches.json"]
    found["notes.md"] = draw(damaged(b"# Notes\n\n| a | b |\n|--|--|\n| *c* | <b>d</b> |\n"))
    return found


def _run(value: Any, folder: Path) -> None:
    for name, content in value.items():
        put(folder / "run" / name, content)
    page((read_run(folder / "run"),), "runs")


def _table(value: Any, folder: Path) -> None:
    ResultTable.from_dict(value).markdown()


RUNS = (
    Surface("delivered student", _students(), _student, (DeliveryError,)),
    Surface("searcher file", _agents(), _agent),
    Surface("learner file", _learners(), _learner),
    Surface("result table", mutated([sample_table().to_dict()]), _table),
    Surface("report of a run", _runs(), _run),
)
"""The surfaces of what runs leave behind."""
