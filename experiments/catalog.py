"""Print everything that is registered, with its parameters, and what stands here for each system of the paper.

Examples:
    python -m experiments.catalog
    python -m experiments.catalog --json
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from agents.sb3_settings import LEARNERS
from rcnas_env.architecture import NetworkSpec, known_networks, named_network
from rcnas_env.attacks import attack_entry, known_attacks
from rcnas_env.cost import cost
from rcnas_env.data import cifar, dataset_entry, fashion_mnist, image_folder, known_datasets, tiny_imagenet
from rcnas_env.data.dataset import DatasetEntry
from rcnas_env.data.storage import data_folder
from rcnas_env.evaluation.analytic import AnalyticEvaluator
from rcnas_env.evaluation.evaluator import known_engines
from rcnas_env.evaluation.ray_engine import RayEvaluator
from rcnas_env.evaluation.tabular import tabular_engine
from rcnas_env.evaluation.trained import TrainedEvaluator
from rcnas_env.presets import known_presets, preset_entry
from rcnas_env.pruning import METHODS, PruningRecipes
from rcnas_env.pruning.pipeline import FLOOR, START
from rcnas_env.pruning.rates import GAMMA
from rcnas_env.reward import PENALTIES
from rcnas_env.task import ATTACK_SOURCES, N_STAGE
from rcnas_env.training.method import known_methods, method_entry
from rcnas_env.training.recipe import Recipe
from rcnas_env.wrappers.masked_state import PARTS

Row = dict[str, Any]
"""One line of a section: JSON values by column."""

AGENTS: Mapping[str, str] = {
    "RC-NAS": "agents.vpg.VPG",
    "RC-NAS+": "agents.vpg_plus.VPGPlus",
    "random search": "agents.random_search.RandomSearch",
    "local search": "agents.local_search.LocalSearch",
    "regularised evolution": "agents.evolution.RegularisedEvolution",
    "TPE": "agents.tpe.TPE",
    "Bayesian optimisation": "agents.bayesian.BayesianOptimisation",
    "RobustResNet rule": "agents.scaling_rule.ScalingRule",
} | {learner.class_name: "agents.sb3.SB3Agent" for learner in LEARNERS.values()}
"""The class of every agent (`agents.agent.Agent`), by what tables call it; unimported, as some need optional extras."""

INSTANCES: Mapping[str, tuple[str, ...]] = {
    "WRN-d-w": ("WRN-28-10", "WRN-34-12", "WRN-46-14", "WRN-70-16"),
    "AdvRush-N@C": ("AdvRush-7@96", "AdvRush-10@96", "AdvRush-16@100", "AdvRush-22@100"),
    "RACL-N@C": ("RACL-7@104", "RACL-10@104", "RACL-16@108", "RACL-22@110"),
}
"""The members of each family of networks that the paper names."""

_ENGINES: Mapping[str, Callable[..., Any]] = dict(
    trained=TrainedEvaluator, analytic=AnalyticEvaluator, tabular=tabular_engine, ray=RayEvaluator
)

_UNPACKED = {
    cifar.CIFAR10_FILES.archive.path: cifar.CIFAR10_FILES.folder,
    cifar.CIFAR100_FILES.archive.path: cifar.CIFAR100_FILES.folder,
    tiny_imagenet.ARCHIVE.path: tiny_imagenet.FOLDER,
} | {file.path: file.path.removesuffix(".gz") for file in fashion_mnist.FASHION_MNIST_FILES}
"""What serves just as well in place of a published file; both relative to the data folder."""


class PaperSystem(NamedTuple):
    """A system that the paper's section 4 or appendix F names.

    system: its name as the paper prints it.
    place: where, for instance "Table 3".
    section: of the catalog.
    here: names in that section that stand for it.
    remark: what differs.
    """

    system: str
    place: str
    section: str
    here: tuple[str, ...]
    remark: str = ""


_SYSTEMS = (
    PaperSystem("CIFAR-10", "§ 4", "data sets", ("cifar10",)),
    PaperSystem("CIFAR-100", "§ 4", "data sets", ("cifar100",)),
    PaperSystem("Tiny-ImageNet", "§ 4", "data sets", ("tiny-imagenet",), "test set: the labelled validation images"),
    PaperSystem("Clean", "Table 1", "attacks", ("clean",)),
    PaperSystem("FGSM", "§ 4, § 4.1", "attacks", ("fgsm",), "the paper reports no figures of it"),
    PaperSystem("PGD^20", "Table 1", "attacks", ("pgd-20",)),
    PaperSystem("PGD^20 (ε = 4/255 … 16/255)", "Table 2", "attacks", ("pgd-20",), "the radius is Task.epsilon"),
    PaperSystem("CW^40", "Table 1", "attacks", ("cw-40",), "L_inf, by its margin loss; § 4 describes the L2 attack"),
    PaperSystem("AutoAttack", "Table 1", "attacks", ("autoattack",), "`auto-lite` is a cheaper one for searches"),
    PaperSystem(
        "Boundary-attack [26]", "Table 3", "attacks", ("hop-skip-jump", "boundary-substitute"),
        "both stand in for it: the paper's attack has no public code",
    ),
    PaperSystem("Neuron-attack [38]", "Table 3", "attacks", ("naa",), "a transfer attack: no lower bound"),
    PaperSystem("A^3 [34]", "Table 3", "attacks", ("discovered-reduced",), "reduced: fewer attacks, losses and trials"),
    PaperSystem("A3 [19]", "Table 3", "attacks", ("a3",)),
    PaperSystem(
        "standard adversarial training (AT)", "§ 4", "training methods", ("trades",),
        "with TRADES' own inner maximisation; AutoAttack, which § 4 names beside it, only measures here",
    ),
    PaperSystem("TRADES", "Tables 6, 9", "training methods", ("trades",)),
    PaperSystem("MART", "Tables 6, 9", "training methods", ("mart",)),
    PaperSystem("SAT", "Tables 6, 9", "training methods", ("sat",)),
    PaperSystem("Hydra", "Tables 6, 9", "pruning methods", ("hydra",), "the paper does not say which share is kept"),
    PaperSystem("HARP", "Tables 6, 9", "pruning methods", ("harp",), "the paper does not say which share is kept"),
    PaperSystem("RC-NAS", "Table 1", "agents", ("RC-NAS",)),
    PaperSystem("R-NAS", "Tables 6, 9", "agents", ("RC-NAS",), "searches without having been meta-trained"),
    PaperSystem("architecture search rules [13]", "App. F.1", "agents", ("RobustResNet rule",)),
    PaperSystem("✗ LIPS", "Tables 7, 10", "environment options", ("MaskedState(hidden=lips)",)),
    PaperSystem("✗ Cost", "Tables 7, 10", "environment options", ("MaskedState(hidden=cost)",)),
    PaperSystem("✗ Annealing", "Tables 7, 10", "environment options", ("penalty=hard",)),
    PaperSystem("✓ Annealing", "Tables 7, 10", "environment options", ("penalty=annealed",)),
    PaperSystem(
        "attacks targeting on the trained teacher", "§ 4", "environment options", ("attack_source=teacher",),
        "the default is the white-box attack_source=student",
    ),
)  # fmt: skip

_TABLE_1 = {
    "WRN-28-10": (36.5, 5.20), "RobNet-large-v2": (33.3, 5.10), "AdvRush (7@96)": (32.6, 4.97),
    "RACL (7@104)": (32.5, 4.93), "RobustResNet-A1": (19.2, 5.11), "WRN-34-12": (66.5, 9.60),
    "WRN-34-R": (68.1, 19.1), "AdvRush (10@96)": (67.5, 18.33), "RACL (10@104)": (67.9, 18.75),
    "RobustResNet-A2": (39.0, 10.8), "WRN-46-14": (128, 18.6), "AdvRush (16@100)": (131, 23.39),
    "RACL (16@108)": (132, 24.12), "RobustResNet-A3": (75.9, 19.9), "WRN-70-16": (267, 38.8),
    "AdvRush (22@100)": (266, 41.75), "RACL (22@110)": (264, 40.96), "RobustResNet-A4": (147, 39.4),
}  # fmt: skip
"""(#P in M, #F in G) of every network that the paper prints."""

SIZE_TOLERANCE = 0.02
"""Relative difference up to which the paper's figures and ours count as the same: rounding, batch norms."""


def paper_systems() -> Iterator[PaperSystem]:
    """Every system of the paper's section 4 and appendix F. Networks' sizes are compared with Table 1."""
    yield from _SYSTEMS
    for printed, (params, gmacs) in _TABLE_1.items():
        name = printed.replace(" (", "-").rstrip(")")
        total = cost(named_network(name))
        ours = (total.params / 1e6, total.macs / 1e9)
        same = all(abs(a - b) <= SIZE_TOLERANCE * b for a, b in zip((params, gmacs), ours, strict=True))
        both = f"printed {params} M, {gmacs} G; the label gives {ours[0]:.2f} M, {ours[1]:.2f} G"
        yield PaperSystem(printed, "Table 1", "networks", (name,), "" if same else f"does not follow: {both}")


@dataclass(frozen=True)
class Catalog:
    """Print all data sets, attacks, networks, methods, presets, engines and agents, and the paper's systems."""

    json: bool = False
    """Print one JSON object, a list of rows a section, in place of the tables."""


def catalog() -> dict[str, list[Row]]:
    """Every section by its title; the rows of one have the same columns, "name" first (in "paper", "system").

    No image is loaded and no network built. Networks are costed at 3×32×32 and 10 classes.
    """
    return {
        "data sets": list(_datasets()),
        "attacks": list(_attacks()),
        "networks": [_network(name, group) for group in known_networks() for name in INSTANCES.get(group, (group,))],
        "training methods": list(_training_methods()),
        "pruning methods": list(_pruning_methods()),
        "presets": list(_presets()),
        "engines": [{"name": name, "options": _options(_ENGINES.get(name))} for name in sorted(known_engines())],
        "agents": [{"name": name, "class": agent} for name, agent in AGENTS.items()],
        "environment options": [
            *({"name": f"penalty={penalty}", "of": "RCNAS-v0"} for penalty in PENALTIES),
            *({"name": f"attack_source={source}", "of": "RCNAS-v0"} for source in ATTACK_SOURCES),
            *({"name": f"MaskedState(hidden={part})", "of": "rcnas_env.wrappers"} for part in PARTS),
        ],
        "paper": [{**system._asdict(), "here": list(system.here)} for system in paper_systems()],
    }


def files_present(entry: DatasetEntry) -> bool:
    """Whether a data set's files are where they are looked for, none of them read; true where it has none."""
    paths = [(file.path, _UNPACKED.get(file.path, file.path)) for file in entry.files]
    folders = [data_folder()]
    if entry.files == fashion_mnist.FASHION_MNIST_FILES:
        paths = [(Path(packed).name, Path(unpacked).name) for packed, unpacked in paths]
        folders = [data_folder() / fashion_mnist.FOLDER, fashion_mnist.DEBIAN_FOLDER]
    return any(all(any((folder / form).exists() for form in forms) for forms in paths) for folder in folders)


def _datasets() -> Iterator[Row]:
    for name in known_datasets():
        entry = dataset_entry(name)
        yield {
            "name": name,
            "input": list(entry.input),
            "classes": entry.classes,
            "epsilon": entry.epsilon,
            "training images": entry.training_images,
            "augmentation": entry.augmentation,
            "here": files_present(entry),
            "source": ", ".join(sorted({file.url.rpartition("/")[0] for file in entry.files})) or "no files needed",
        }
    yield {
        "name": f"{image_folder.FAMILY}:PATH@SIZE",
        "input": [3, "SIZE", "SIZE"],
        "classes": None,
        "epsilon": image_folder.EPSILON,
        "training images": None,
        "augmentation": "crop-flip",
        "here": None,
        "source": f"your images, SIZE from {image_folder.MIN_SIZE} to {image_folder.MAX_SIZE}",
    }


def _attacks() -> Iterator[Row]:
    for name in known_attacks():
        entry = attack_entry(name)
        components = entry.make(eps=8 / 255, classes=max(10, entry.minimum_classes)).components
        kinds = dict.fromkeys("black box" if component.black_box else "white box" for component in components)
        yield {
            "name": name,
            "family": _attack_family(name),
            "kind": " + ".join(kinds) or None,
            "components": [component.name for component in components],
            "classes from": entry.minimum_classes,
            "perturbs wrong": entry.perturb_wrong,
            "alarms": entry.alarms,
            "summary": entry.summary,
        }


def _attack_family(name: str) -> str | None:
    """The family that "pgd-20" is of is "pgd-K"; None for an attack by itself."""
    family, _, steps = name.rpartition("-")
    try:
        return f"{family}-K" if steps.isdigit() and attack_entry(f"{family}-1") else None
    except ValueError:
        return None


def _network(name: str, family: str) -> Row:
    row: Row = {"name": name, "family": family if family != name else None}
    try:
        network = named_network(name)
    except ValueError:  # a registered one that is made for other images only
        return row | {"made of": None, "can teach": None, "params": None, "macs": None}
    stages = len(network.stages) if isinstance(network, NetworkSpec) else 0
    made_of = f"{stages} stages" if isinstance(network, NetworkSpec) else f"{network.layers} cells"
    total = cost(network)
    return row | {"made of": made_of, "can teach": stages == N_STAGE, "params": total.params, "macs": total.macs}


def _training_methods() -> Iterator[Row]:
    for name in known_methods():
        method = method_entry(name)
        logits = {"clean": method.needs_clean_logits, "perturbed": method.needs_perturbed_logits}
        yield {
            "name": name,
            "inner target": method.inner_target,
            "start": method.start if method.inner_target else None,
            "logits": [which for which, needed in logits.items() if needed],
            "summary": method.summary,
        }


def _pruning_methods() -> Iterator[Row]:
    epochs = {phase.name: getattr(PruningRecipes(), phase.name).epochs for phase in fields(PruningRecipes)}
    parameters = {"harp": {"start": START, "floor": FLOOR, "gamma": GAMMA}}
    yield from ({"name": name, "parameters": parameters.get(name, {}), "epochs": epochs} for name in METHODS)


def _presets() -> Iterator[Row]:
    defaults = Recipe().to_dict()
    for name in known_presets():
        preset = preset_entry(name)
        buffers, recipe = preset.buffers(), preset.recipe.to_dict().items()
        teachers = {
            entry.network if isinstance(entry.network, str) else entry.network.to_json(): list(entry.budgets)
            for entry in buffers.teachers
        }
        yield {
            "name": name,
            "data sets": list(buffers.datasets),
            "attacks": list(buffers.attacks),
            "teachers and budgets (MACs)": teachers,
            "recipe, but for defaults": {field: value for field, value in recipe if value != defaults.get(field)},
        }


def _options(engine: Callable[..., Any] | None) -> dict[str, Any] | None:
    """The options of an engine with their defaults; None for one that is not the project's own."""
    if engine is None:
        return None
    parameters = inspect.signature(engine).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters if parameter.name != "store"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}


def _cell(value: Any) -> str:
    """A value as it stands in a table."""
    if value is None or value in ("", [], {}):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{int(value):,}" if value == int(value) else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items())
    return ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)


def print_tables(sections: Mapping[str, Sequence[Row]]) -> None:
    """Print the sections of `catalog` on stdout, a table each; 160 columns wide where that is no terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 160)
    for title, rows in sections.items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for column in rows[0] if rows else ():
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row.values()))  # Text: brackets are no markup
        console.print(table)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line `args` (the process's own if None); return its exit code."""
    config = tyro.cli(Catalog, prog="python -m experiments.catalog", args=args, config=(tyro.conf.FlagCreatePairsOff,))
    sections = catalog()
    if config.json:
        print(json.dumps(sections, indent=2, ensure_ascii=False))
    else:
        print_tables(sections)
    return 0


if __name__ == "__main__":
    sys.exit(main())
