"""Data sets × networks × training methods × attacks, really run: a small matrix that shows every part at work.

    python -m experiments.matrix

Trains every network by every method, on the digits and on a part of Fashion-MNIST where its files are, prunes one
of them by HYDRA and HARP, and attacks each. Writes table.md and record.json into the run folder. The networks are
small and trained for a few epochs: the figures compare parts of this project, not the methods in general.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from experiments.progress import progress_bar
from experiments.run_record import RunRecord
from experiments.stopping import stoppable
from rcnas_env.architecture import Network, NetworkSpec, StageSpec, named_network
from rcnas_env.attacks import attack_entry, run_attack
from rcnas_env.cell_architecture import CellNetworkSpec
from rcnas_env.cell_rivals import ROBNET_LARGE_V2
from rcnas_env.cost import cost
from rcnas_env.data import DataUnavailableError, dataset_entry, load_splits
from rcnas_env.data.splitting import SPLIT_SEED, take_per_class
from rcnas_env.evaluation.evaluator import make_engine
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.store import open_store
from rcnas_env.networks import build
from rcnas_env.pruning import METHODS as PRUNING_METHODS
from rcnas_env.pruning import PruningRecipes, prune
from rcnas_env.seeding import derive_seed
from rcnas_env.task import Task
from rcnas_env.training.fit import cpu_threads
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_choice, require_integer

PRUNED = "WRN-10-1"
KEEP = 0.5


@dataclass(frozen=True)
class Part:
    """A block of the matrix, of one data set: every network by every method under every attack."""

    name: str
    dataset: str
    networks: tuple[str, ...]
    methods: tuple[str, ...]
    attacks: tuple[str, ...]
    recipe: Recipe


PARTS = (
    Part(
        "digits",
        "digits",
        ("WRN-10-1", "robust"),
        ("trades", "sat", "mart", "clean"),
        (
            "clean", "fgsm", "pgd-20", "cw-40", "naa", "hop-skip-jump", "boundary-substitute", "auto-lite", "a3",
            "discovered-reduced", "autoattack",
        ),
        Recipe(epochs=4, batch_size=64, inner_steps=5, relative_step=0.5, n_eval=64),
    ),
    Part(
        "digits, networks of cells",
        "digits",
        ("RobNet-5@8", "AdvRush-1@4", "RACL-1@4"),
        ("trades", "mart"),
        ("clean", "fgsm", "pgd-20", "cw-40", "auto-lite", "a3"),
        Recipe(epochs=4, batch_size=64, inner_steps=3, relative_step=0.5, n_train=600, n_eval=64),
    ),
    Part(
        "fashion-mnist",
        "fashion-mnist",
        ("WRN-10-1",),
        ("trades", "sat", "mart", "clean"),
        ("clean", "fgsm", "pgd-20", "cw-40", "auto-lite", "a3"),
        Recipe(epochs=2, batch_size=64, inner_steps=5, relative_step=0.5, n_train=2_000, n_eval=64),
    ),
)  # fmt: skip
"""What is run; NAA's surrogate is the attacked network itself, for every attack here is white box or decision-based."""


@dataclass(frozen=True)
class Matrix:
    """Settings of the run.

    Raises:
        ValueError: a field is out of range.
    """

    datasets: tuple[str, ...] = ("digits", "fashion-mnist")
    """Of those in `PARTS`; one whose files are not there is left out, and named in the table."""
    networks: tuple[str, ...] = ()
    """Of those in `PARTS`; none for all."""
    epochs: int | None = None
    """In place of the recipes' own."""
    workers: int = 2
    """Processes that train and attack; 0 for this one alone."""
    seed: int = 0
    """Of all trainings and attacks."""
    store: str = "default"
    """Folder of the store."""
    out: Path = field(default_factory=lambda: Path("runs") / "matrix")
    """Folder that the table and the record go to."""

    def __post_init__(self) -> None:
        for dataset in self.datasets:
            require_choice("datasets", dataset, [part.dataset for part in PARTS])
        for name in self.networks:
            require_choice("networks", name, [name for part in PARTS for name in part.networks])
        if not self.datasets:
            raise ValueError("datasets must be at least one, got none")
        if self.epochs is not None:
            require_integer("epochs", self.epochs, 1)
        require_integer("workers", self.workers, 0)
        require_integer("seed", self.seed, 0)


def network(name: str, dataset: str) -> Network:
    """A network of the matrix for a data set: by its name, or "robust" (three robust stages), or "RobNet-5@8" (five
    of RobNet-large-v2's cells, of 8 channels).
    """
    data = dataset_entry(dataset)
    if name == "RobNet-5@8":
        return CellNetworkSpec(ROBNET_LARGE_V2, 5, 8, affine=False, input=data.input, classes=data.classes)
    if name != "robust":
        return named_network(name, data.input, data.classes)
    stages = tuple(StageSpec(1, planes, strided, True) for planes, strided in ((16, False), (16, True), (32, True)))
    return NetworkSpec(stages, input=data.input, classes=data.classes)


def jobs_of(part: Part, config: Matrix) -> dict[tuple[str, str, str], Job]:
    """The part's jobs by (network, method, attack)."""
    recipe = recipe_of(part, config)
    names = [name for name in part.networks if not config.networks or name in config.networks]
    return {
        (name, method, attack): Job(
            network(name, part.dataset), Task(part.dataset, attack, "WRN-10-1", 1e9), recipe.but(method=method),  # type: ignore[arg-type]
            config.seed,
        )
        for name in names
        for method in part.methods
        for attack in part.attacks
    }  # fmt: skip


def recipe_of(part: Part, config: Matrix) -> Recipe:
    """The part's recipe, by the epochs that are asked for."""
    return part.recipe if config.epochs is None else part.recipe.but(epochs=config.epochs)


def pruned_rows(part: Part, config: Matrix) -> list[dict[str, Any]]:
    """`PRUNED`, half of its weights kept by each pruning method, under each attack on the eval set."""
    data = load_splits(part.dataset, part.recipe.n_eval)
    training = data.train
    if part.recipe.n_train is not None:  # as the engine does
        training = training.subset(take_per_class(training.labels, part.recipe.n_train, SPLIT_SEED)[0])
    recipe = recipe_of(part, config)
    spec, entry = network(PRUNED, part.dataset), dataset_entry(part.dataset)
    rows = []
    for method in PRUNING_METHODS:
        model = build(spec, torch.Generator().manual_seed(derive_seed(config.seed, "initial weights")))
        recipes = PruningRecipes(recipe, recipe, recipe)
        report = prune(model, training, method, KEEP, recipes, entry.epsilon, derive_seed(config.seed, method))
        accuracies = {}
        for attack in part.attacks:
            made = attack_entry(attack).make(entry.epsilon, entry.classes)
            seed = derive_seed(config.seed, method, attack)
            images, labels = data.eval.images(), data.eval.labels
            found = run_attack(made, model, images, labels, seed=seed, batch_size=recipe.attack_batch_size)
            accuracies[attack] = found.robust.float().mean().item()
        rows.append(
            {
                "part": part.name, "network": PRUNED, "method": f"{method}, {KEEP:.0%} kept",
                "params": report.dense_params, "macs": report.dense_macs, "nonzero_params": report.nonzero_params,
                "nonzero_macs": report.nonzero_macs, "accuracies": accuracies, "diverged": report.diverged,
            }
        )  # fmt: skip
    return rows


def run(config: Matrix) -> list[dict[str, Any]]:
    """Run the matrix; returns its rows, and writes them."""
    record = RunRecord("matrix", config.out, asdict(config))
    rows: list[dict[str, Any]] = []
    missing = []
    evaluator = make_engine("trained", open_store(config.store), workers=config.workers)
    try:
        for part in (part for part in PARTS if part.dataset in config.datasets):
            try:
                load_splits(part.dataset, part.recipe.n_eval)
            except DataUnavailableError as error:
                print(f"matrix: {part.dataset} is left out: {error}", file=sys.stderr)
                missing.append(part.name)
                continue
            jobs = jobs_of(part, config)
            with progress_bar(part.name, len(jobs)) as bar:
                found = evaluator.evaluate(list(jobs.values()), lambda job, evaluation: bar.advance())
            by_row: dict[tuple[str, str], dict[str, Any]] = {}
            for (name, method, attack), job, evaluation in zip(jobs, jobs.values(), found, strict=True):
                size = cost(job.network)
                row = by_row.setdefault(
                    (name, method),
                    {"part": part.name, "network": name, "method": method, "params": size.params,
                     "macs": size.macs, "accuracies": {}, "diverged": evaluation.diverged},
                )  # fmt: skip
                row["accuracies"][attack] = evaluation.robust_accuracy
            rows += by_row.values()
            record.phase(part.name)
            if PRUNED in part.networks and (not config.networks or PRUNED in config.networks):
                rows += pruned_rows(part, config)
                record.phase(f"{part.name}, pruning")
    finally:
        evaluator.close()
    parts = [
        {**asdict(part), "recipe": recipe_of(part, config).to_dict()}
        for part in PARTS
        if part.dataset in config.datasets
    ]
    record.results = {"rows": rows, "left out": missing, "parts": parts}
    record.finish()
    blocks = [[row for row in rows if row["part"] == part.name] for part in PARTS]
    text = "\n\n".join(table(block) for block in blocks if block)
    if missing:
        text += f"\n\nLeft out, for their files are not here: {', '.join(missing)}."
    (config.out / "table.md").write_text(text + "\n", encoding="utf-8")
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of one part as a Markdown table: share of eval images still correct under each attack, in %."""
    attacks = list(rows[0]["accuracies"])
    lines = [
        f"| {rows[0]['part']}: network | method | parameters | MACs | {' | '.join(attacks)} |",
        f"|---|---|--:|--:|{'--:|' * len(attacks)}",
    ]
    for row in rows:
        macs = f"{row['macs'] / 1e6:.2f} M" + (f" ({row['nonzero_macs'] / 1e6:.2f})" if "nonzero_macs" in row else "")
        accuracies = " | ".join(f"{100 * row['accuracies'][attack]:.1f}" for attack in attacks)
        lines.append(f"| {row['network']} | {row['method']} | {row['params']:,} | {macs} | {accuracies} |")
    return "\n".join(lines)


def main() -> int:
    """Command line."""
    config = tyro.cli(Matrix, description=__doc__)
    return stoppable(lambda: _main(config), "matrix", "What was trained and attacked is in the store.")


def _main(config: Matrix) -> int:
    try:
        with cpu_threads(1):
            run(config)
    except (ValueError, OSError) as error:
        print(f"matrix: error: {error}", file=sys.stderr)
        return 2
    print((config.out / "table.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
