"""Final figures: networks trained from scratch by the final recipe, attacked on the test set, over seeds.

A `Final` says what is measured without saying which student that is, so that a plan can be made before any search.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from experiments.reproduction.contents import ColumnSpec, Entry
from experiments.reproduction.networks import fixed_network
from experiments.reproduction.scale import Scale
from experiments.reproduction.searches import Found, SearchKey
from rcnas_env.architecture import Network
from rcnas_env.attacks import attack_entry, run_attack
from rcnas_env.data import dataset_entry, load_splits
from rcnas_env.data.splitting import SPLIT_SEED, take_per_class
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.trained import resolve_device
from rcnas_env.networks import build
from rcnas_env.pruning import PruningRecipes, prune
from rcnas_env.seeding import derive_seed
from rcnas_env.training.fit import cpu_threads
from rcnas_env.whole_files import write_json

KEEP = 0.5
"""Share of the weights that HYDRA and HARP keep; the paper does not say which (docs/paper-notes.md)."""
SLOW_ATTACKS = ("autoattack", "boundary-substitute", "naa", "discovered-reduced", "a3", "hop-skip-jump")
"""Measured on `Scale.autoattack_images` images."""


@dataclass(frozen=True)
class Final:
    """One cell by one seed.

    entry: the row.
    place, group: of the paper.
    column: what is measured.
    seed: of the final training and the attack.
    attack_source: whose gradients the attack follows: the row's own network, or the group's teacher.
    """

    entry: Entry
    place: str
    group: str
    column: ColumnSpec
    seed: int
    attack_source: str = "student"

    @property
    def search(self) -> SearchKey | None:
        """The search that it waits for, by the first search seed; None where the network is fixed."""
        if self.entry.source != "search":
            return None
        return SearchKey(self.entry.variant, self.place, self.group, self.column.searched or self.column.attack)


@dataclass(frozen=True)
class Measured:
    """What came out: share of test images still correct, how many there were, and the size of the network."""

    accuracy: float
    images: int
    params: int
    macs: int


def network_of(scale: Scale, final: Final, found: Mapping[SearchKey, Found]) -> Network | None:
    """The network that a final trains; None where the group has no such rival."""
    key = final.search
    if key is not None:
        return found[key].student
    return fixed_network(scale, final.place, final.group, final.entry.network)


def final_job(scale: Scale, final: Final, found: Mapping[SearchKey, Found]) -> Job | None:
    """The job of a final that is not pruned; None where the group has no such rival."""
    network = network_of(scale, final, found)
    if network is None:
        return None
    column = final.column
    attack = scale.final_attack(column.attack)
    plain = scale.task(final.place, final.group, attack, column.epsilon_factor)
    task = replace(plain, attack_source=final.attack_source)
    method = "trades" if final.entry.source == "pruned" else final.entry.method
    recipe = scale.recipes(task.dataset)[1].but(method=method)
    if attack in SLOW_ATTACKS and scale.autoattack_images is not None:
        recipe = recipe.but(n_test=min(scale.autoattack_images, recipe.n_test or scale.autoattack_images))
    return Job(network, task, recipe, final.seed, split="test")


def pruned_name(final: Final) -> str:
    """Of the file that keeps a pruned teacher's figures: all columns of one training."""
    return f"{final.entry.method}_{final.place}_{final.group}_{final.seed}"


def prune_teacher(
    scale: Scale, folder: Path, final: Final, columns: tuple[ColumnSpec, ...], device: str = "auto"
) -> dict[str, Measured]:
    """Prune the final's teacher to a share `KEEP` of its weights, attack what remains; kept in the run folder.

    The epochs of the final recipe before the scores are learnt, as many for the scores, and as many after.

    Returns:
        Column key → figures; the sizes are of the weights that are not zero.
    """
    path, known = _pruned_path(folder, final), pruned_figures(scale, folder, final, columns)
    if all(column.key in known for column in columns):
        return known
    task = scale.task(final.place, final.group, "clean")
    recipe = scale.recipes(task.dataset)[1].but(method="trades")
    splits, target = load_splits(task.dataset, recipe.n_eval), resolve_device(device)
    training = splits.train
    if recipe.n_train is not None:
        training = training.subset(take_per_class(training.labels, recipe.n_train, SPLIT_SEED)[0])
    seed = derive_seed(final.seed, final.entry.method, final.group)
    model = build(task.teacher, torch.Generator().manual_seed(derive_seed(final.seed, "initial weights")))
    recipes = PruningRecipes(recipe, recipe, recipe.but(learning_rate=recipe.learning_rate / 10))
    with cpu_threads(recipe.threads):
        padding = dataset_entry(task.dataset).training_crop_padding
        report = prune(
            model, training, final.entry.method, KEEP, recipes, task.radius, seed, target, crop_padding=padding
        )
        for column in columns:
            cell = Final(final.entry, final.place, final.group, column, final.seed)
            job = final_job(scale, cell, {})
            assert job is not None  # every group has a teacher
            test = splits.test
            if job.recipe.n_test is not None:
                test = test.subset(take_per_class(test.labels, job.recipe.n_test, SPLIT_SEED)[0])
            attack = attack_entry(job.task.attack).make(job.task.radius, job.network.classes)
            images, labels = test.images(target), test.labels.to(target)
            result = run_attack(
                attack, model, images, labels, seed=derive_seed(seed, column.key), batch_size=recipe.attack_batch_size
            )
            accuracy = 0.0 if report.diverged else result.robust.float().mean().item()
            known[column.key] = Measured(accuracy, len(labels), report.nonzero_params, report.nonzero_macs)
    kept = {c.key: {**asdict(known[c.key]), "job": _identity(scale, final, c)} for c in columns}
    write_json(path, kept)
    return known


def pruned_figures(scale: Scale, folder: Path, final: Final, columns: Sequence[ColumnSpec]) -> dict[str, Measured]:
    """What the run folder has of a pruned teacher, by this scale's recipes and images: column key → figures."""
    path = _pruned_path(folder, final)
    if not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))
    known = {}
    for column in columns:
        figures = dict(kept.get(column.key, {}))
        if figures and figures.pop("job", None) == _identity(scale, final, column):
            known[column.key] = Measured(**figures)
    return known


def _identity(scale: Scale, final: Final, column: ColumnSpec) -> str:
    """Of all that decides a pruned teacher's figure but the pruning: the key of the teacher's own job."""
    job = final_job(scale, replace(final, column=column), {})
    assert job is not None  # every group has a teacher
    return job.key


def _pruned_path(folder: Path, final: Final) -> Path:
    return folder / "pruned" / f"{pruned_name(final)}.json"
