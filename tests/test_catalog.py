"""`experiments.catalog`: all that is registered is in it, and every system of the paper stands for something real."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import experiments.catalog
from agents.sb3 import SB3Agent
from agents.sb3_settings import LEARNERS
from experiments.catalog import AGENTS, catalog, files_present, main, paper_systems
from rcnas_env import architecture
from rcnas_env.architecture import NETWORK_NAMES, NetworkSpec, StageSpec, named_network
from rcnas_env.attacks import attack_entry, catalogue, known_attacks, register_attack
from rcnas_env.data import DatasetEntry, dataset, dataset_entry, fashion_mnist, known_datasets, register_dataset
from rcnas_env.evaluation.evaluator import known_engines
from rcnas_env.presets import known_presets
from rcnas_env.pruning import METHODS
from rcnas_env.reward import PENALTIES
from rcnas_env.task import ATTACK_SOURCES
from rcnas_env.training.method import known_methods, method_entry
from rcnas_env.wrappers.masked_state import PARTS

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = catalog()

# Every system that section 4 and appendix F name, as the paper prints it, and what must stand for it here.
PAPER = {
    "CIFAR-10": ["cifar10"],
    "CIFAR-100": ["cifar100"],
    "Tiny-ImageNet": ["tiny-imagenet"],
    "Clean": ["clean"],
    "FGSM": ["fgsm"],
    "PGD^20": ["pgd-20"],
    "PGD^20 (ε = 4/255 … 16/255)": ["pgd-20"],
    "CW^40": ["cw-40"],
    "AutoAttack": ["autoattack"],
    "Boundary-attack [26]": ["hop-skip-jump", "boundary-substitute"],
    "Neuron-attack [38]": ["naa"],
    "A^3 [34]": ["discovered-reduced"],
    "A3 [19]": ["a3"],
    "standard adversarial training (AT)": ["trades"],
    "TRADES": ["trades"],
    "MART": ["mart"],
    "SAT": ["sat"],
    "Hydra": ["hydra"],
    "HARP": ["harp"],
    "RC-NAS": ["RC-NAS"],
    "R-NAS": ["RC-NAS"],
    "architecture search rules [13]": ["RobustResNet rule"],
    "✗ LIPS": ["MaskedState(hidden=lips)"],
    "✗ Cost": ["MaskedState(hidden=cost)"],
    "✗ Annealing": ["penalty=hard"],
    "✓ Annealing": ["penalty=annealed"],
    "attacks targeting on the trained teacher": ["attack_source=teacher"],
    "WRN-28-10": ["WRN-28-10"],
    "WRN-34-12": ["WRN-34-12"],
    "WRN-46-14": ["WRN-46-14"],
    "WRN-70-16": ["WRN-70-16"],
    "RobNet-large-v2": ["RobNet-large-v2"],
    "AdvRush (7@96)": ["AdvRush-7@96"],
    "AdvRush (10@96)": ["AdvRush-10@96"],
    "AdvRush (16@100)": ["AdvRush-16@100"],
    "AdvRush (22@100)": ["AdvRush-22@100"],
    "RACL (7@104)": ["RACL-7@104"],
    "RACL (10@104)": ["RACL-10@104"],
    "RACL (16@108)": ["RACL-16@108"],
    "RACL (22@110)": ["RACL-22@110"],
    "WRN-34-R": ["WRN-34-R"],
    "RobustResNet-A1": ["RobustResNet-A1"],
    "RobustResNet-A2": ["RobustResNet-A2"],
    "RobustResNet-A3": ["RobustResNet-A3"],
    "RobustResNet-A4": ["RobustResNet-A4"],
}


def is_environment_option(name: str) -> bool:
    kind, value = name.removesuffix(")").split("=")
    return value in {"penalty": PENALTIES, "attack_source": ATTACK_SOURCES, "MaskedState(hidden": PARTS}[kind]


def agent_class(name: str) -> Any:
    module, _, attribute = AGENTS[name].rpartition(".")
    return getattr(importlib.import_module(module), attribute)


# How a name of each section is looked up, not by the catalog: each is false or raises for one that is not there.
LOOK_UPS: dict[str, Callable[[str], Any]] = {
    "data sets": dataset_entry,
    "attacks": attack_entry,
    "networks": named_network,
    "training methods": method_entry,
    "pruning methods": METHODS.__contains__,
    "agents": lambda name: agent_class(name).search,
    "environment options": is_environment_option,
}


def names(section: str) -> list[str]:
    return [row["name"] for row in SECTIONS[section]]


@pytest.fixture
def scratch_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    for registry in (dataset._DATASETS, catalogue._fixed, architecture._REGISTERED):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))  # type: ignore[attr-defined]
    monkeypatch.setattr(catalogue, "_known", list(catalogue._known))


@pytest.mark.parametrize(
    ("section", "registered"),
    [
        ("data sets", (*known_datasets(), "imagefolder:PATH@SIZE")),
        ("attacks", known_attacks()),
        ("training methods", known_methods()),
        ("pruning methods", METHODS),
        ("presets", known_presets()),
        ("engines", tuple(sorted(known_engines()))),  # whose order is that of imports
    ],
)
def test_everything_registered_is_there(section: str, registered: tuple[str, ...]) -> None:
    assert names(section) == [*registered]


def test_every_family_of_networks_is_there_with_members_that_exist() -> None:
    rows = SECTIONS["networks"]
    assert list(dict.fromkeys(row["family"] or row["name"] for row in rows)) == [*NETWORK_NAMES]
    by_name = {row["name"]: (row["params"], row["macs"], row["can teach"]) for row in rows}
    # Verified figures: see tests/test_cost.py and tests/test_cell_cost.py.
    assert by_name["WRN-28-10"] == (36_479_194, 5_243_328_768, True)
    assert by_name["RobustResNet-A4"] == (147_262_458, 39_272_890_880, True)
    assert by_name["RACL-7@104"] == (32_509_682, 4_910_813_440, False)


def test_every_agent_is_there() -> None:
    classes = {
        node.name: (node, path.stem)
        for path in (ROOT / "agents").glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }

    def searches(name: str) -> bool:
        node = classes[name][0]
        bases = [ast.unparse(base) for base in node.bases if ast.unparse(base) in classes]
        return "def search(" in ast.unparse(node) or any(map(searches, bases))

    def can_be_made(name: str) -> bool:
        text = ast.unparse(classes[name][0])
        return "@abstractmethod" not in text and "(Protocol)" not in text

    found = {f"agents.{classes[name][1]}.{name}" for name in classes if searches(name) and can_be_made(name)}
    assert {*AGENTS.values()} == found


def test_agents_are_called_what_they_call_themselves() -> None:
    assert names("agents") == [*AGENTS] and len(AGENTS) == 8 + len(LEARNERS)
    for name in [*AGENTS][:8]:
        agent = agent_class(name)
        assert name == getattr(agent, "name", None) or name == inspect.signature(agent).parameters["name"].default
    assert SB3Agent("ppo").name == "PPO" and AGENTS["PPO"] == "agents.sb3.SB3Agent"


def test_a_new_part_appears_unloaded(scratch_registries: None) -> None:
    def never() -> Any:
        raise AssertionError("the catalog must not load images")

    register_dataset(DatasetEntry("mine", (1, 6, 6), classes=3, epsilon=0.3, training_images=70, load=never))
    register_attack("still", lambda eps, classes: lambda model, images, labels, generator: images, minimum_classes=50)
    architecture.register_network("small", lambda i, c: NetworkSpec((StageSpec(1, 8),), input=i, classes=c))
    architecture.register_network("grey", lambda i, c: NetworkSpec((StageSpec(1, 8),), input=(1, 8, 8), classes=c))
    sections = catalog()
    (row,) = (row for row in sections["data sets"] if row["name"] == "mine")
    assert (row["input"], row["classes"], row["epsilon"], row["training images"]) == ([1, 6, 6], 3, 0.3, 70)
    assert sections["attacks"][-1] == {
        "name": "still", "family": None, "kind": "white box", "components": ["still"], "classes from": 50,
        "perturbs wrong": True, "alarms": False, "summary": "",
    }  # fmt: skip
    small, grey = sections["networks"][-2:]
    assert (small["name"], small["made of"], small["can teach"]) == ("small", "1 stages", False)
    assert (grey["name"], grey["params"], grey["macs"]) == ("grey", None, None)


def test_attacks_say_what_they_are() -> None:
    kinds = {row["name"]: (row["kind"], row["family"], row["classes from"]) for row in SECTIONS["attacks"]}
    assert kinds["clean"] == (None, None, 2)
    assert kinds["pgd-20"] == ("white box", "pgd-K", 2)
    assert kinds["autoattack"] == ("white box + black box", None, 4)
    assert kinds["hop-skip-jump"] == ("black box", None, 2)


def test_methods_and_engines_list_their_parameters() -> None:
    rows = {row["name"]: row for section in ("training methods", "engines") for row in SECTIONS[section]}
    assert rows["sat"]["inner target"] == "label" and rows["sat"]["logits"] == ["perturbed"]
    assert rows["clean"]["inner target"] is rows["clean"]["start"] is None
    assert rows["trained"]["options"] == {"workers": 0, "device": "auto", "retries": 2, "time_limit": None}
    assert None not in [row["options"] for row in SECTIONS["engines"]]
    hydra, harp = SECTIONS["pruning methods"]
    assert hydra["epochs"] == {"pretrain": 100, "prune": 20, "finetune": 100}
    assert harp["parameters"] == {"start": 0.1, "floor": 0.1, "gamma": 0.01}


def test_every_system_of_the_paper_is_there() -> None:
    assert {row["system"]: row["here"] for row in SECTIONS["paper"]} == PAPER
    assert len(SECTIONS["paper"]) == len(PAPER)


@pytest.mark.parametrize("system", [*paper_systems()], ids=lambda system: system.system)
def test_what_stands_for_a_system_is_really_registered(system: experiments.catalog.PaperSystem) -> None:
    assert system.here
    for name in system.here:
        assert LOOK_UPS[system.section](name)
        assert name in names(system.section)


def test_what_falls_short_of_the_paper_says_so() -> None:
    remarks = {row["system"]: row["remark"] for row in SECTIONS["paper"]}
    assert "reduced" in remarks["A^3 [34]"]
    assert "no public code" in remarks["Boundary-attack [26]"]
    assert "no lower bound" in remarks["Neuron-attack [38]"]
    mislabelled = {name for name, remark in remarks.items() if "does not follow" in remark}
    assert mislabelled == {name for name in PAPER if "@" in name} - {"AdvRush (7@96)", "RACL (7@104)"}
    assert remarks["AdvRush (10@96)"].endswith("printed 67.5 M, 18.33 G; the label gives 45.73 M, 6.90 G")


def test_files_are_found_where_loading_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCNAS_DATA", str(tmp_path))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")

    def here() -> set[str]:
        return {name for name in known_datasets() if files_present(dataset_entry(name))}

    assert here() == {"digits"}
    (tmp_path / "cifar-10-python.tar.gz").touch()
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "tiny-imagenet-200").mkdir()
    assert here() == {"digits", "cifar10", "cifar100", "tiny-imagenet"}
    raw, debian = tmp_path / "FashionMNIST" / "raw", tmp_path / "debian"
    for folder, suffix in ((raw, ""), (debian, ".gz")):
        folder.mkdir(parents=True)
        for name in fashion_mnist.CONTENT_SHA256:
            assert not {"fashion-mnist", "fashion-mnist-14"} & here()  # a folder with some of the files is none
            (folder / f"{name}{suffix}").touch()
        assert {"fashion-mnist", "fashion-mnist-14"} < here()
        (folder / f"{name}{suffix}").unlink()


def test_sections_are_tables_of_json_values() -> None:
    assert json.loads(json.dumps(SECTIONS, allow_nan=False)) == SECTIONS
    for title, rows in SECTIONS.items():
        assert len({tuple(row) for row in rows}) == 1, title
        assert next(iter(rows[0])) == ("system" if title == "paper" else "name")
        assert title == "paper" or len(set(names(title))) == len(rows)


def test_the_tables_show_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    for rows in SECTIONS.values():
        for row in rows:
            assert next(iter(row.values())) in printed
    assert "36,479,194" in printed and "0.03137" in printed


def test_the_command_prints_the_catalog_as_json() -> None:
    command = [sys.executable, "-m", "experiments.catalog", "--json"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == SECTIONS
