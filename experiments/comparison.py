"""Final figures: networks trained to the end by one recipe, attacked on the test set, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from rcnas_env.architecture import Network, NetworkSpec
from rcnas_env.evaluation.evaluator import Evaluator, OnDone
from rcnas_env.evaluation.job import Job
from rcnas_env.rendering import stage_label
from rcnas_env.task import Task
from rcnas_env.training.recipe import Recipe

TEST_ATTACKS = ("clean", "pgd-20", "cw-40", "autoattack")
SHORT_COLUMNS = {"clean": "clean", "pgd-20": "PGD", "cw-40": "CW", "autoattack": "AA"}
COLUMNS = {"clean": "clean", "pgd-20": "PGD-20", "cw-40": "CW-40", "autoattack": "AutoAttack"}


@dataclass(frozen=True)
class Row:
    """One network's line of the table.

    accuracies: share of test images still correct, by attack; the attack is on this very network (white box).
    images: how many test images each attack was run on.
    evaluations: how many students were tried on the task to find it; None for a network that was not searched.
    """

    name: str
    network: Network
    params: int
    macs: int
    within_budget: bool
    accuracies: Mapping[str, float]
    images: Mapping[str, int]
    evaluations: int | None
    diverged: bool

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON values."""
        figures = {"accuracies": dict(self.accuracies), "images": dict(self.images)}
        return {**asdict(self), **figures, "network": self.network.to_dict()}


@dataclass(frozen=True)
class Candidate:
    """A network to compare, by the name of what found it, with the evaluations that this took."""

    name: str
    network: Network
    evaluations: int | None


def final_jobs(
    network: Network, task: Task, recipe: Recipe, seed: int, autoattack_images: int | None = None
) -> list[Job]:
    """One job a test attack, all of the same training; the attack source is always the network itself.

    Args:
        autoattack_images: test images for AutoAttack, class-balanced; None for as many as the recipe says.
    """
    fewer = recipe if autoattack_images is None else recipe.but(n_test=autoattack_images)
    return [
        Job(
            network,
            Task(task.dataset, attack, task.teacher, task.budget, task.epsilon),
            fewer if attack == "autoattack" else recipe,
            seed,
            split="test",
        )
        for attack in TEST_ATTACKS
    ]


def compare(
    candidates: Sequence[Candidate],
    task: Task,
    recipe: Recipe,
    seed: int,
    evaluator: Evaluator,
    autoattack_images: int | None = None,
    on_done: OnDone | None = None,
) -> list[Row]:
    """Train every candidate by `recipe`, attack it on the test set; one row each, in order."""
    jobs = [final_jobs(candidate.network, task, recipe, seed, autoattack_images) for candidate in candidates]
    flat = evaluator.evaluate([job for row in jobs for job in row], on_done)
    rows = []
    for index, candidate in enumerate(candidates):
        found = flat[index * len(TEST_ATTACKS) : (index + 1) * len(TEST_ATTACKS)]
        accuracies = {attack: e.robust_accuracy for attack, e in zip(TEST_ATTACKS, found, strict=True)}
        images = {attack: e.images for attack, e in zip(TEST_ATTACKS, found, strict=True)}
        within = found[0].macs <= task.budget
        rows.append(
            Row(
                candidate.name,
                candidate.network,
                found[0].params,
                found[0].macs,
                within,
                accuracies,
                images,
                candidate.evaluations,
                any(evaluation.diverged for evaluation in found),
            )
        )
    return rows


def table(rows: Sequence[Row], title: str) -> Table:
    """The rows as a rich table of at most 80 columns; accuracies in %, the best of a column in bold."""
    drawn = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    drawn.add_column("network", no_wrap=True)
    for heading in ("params", "MACs", "fit", *SHORT_COLUMNS.values(), "tried"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    best = {attack: max(row.accuracies[attack] for row in rows) for attack in TEST_ATTACKS}
    for row in rows:
        figures = [f"{100 * row.accuracies[a]:.1f}" for a in TEST_ATTACKS]
        marked = [
            f"[bold]{figure}[/bold]" if row.accuracies[a] == best[a] else figure
            for a, figure in zip(TEST_ATTACKS, figures, strict=True)
        ]
        tried = "–" if row.evaluations is None else str(row.evaluations)
        drawn.add_row(
            row.name, f"{row.params:,}", f"{row.macs:,}", "yes" if row.within_budget else "no", *marked, tried
        )
    return drawn


def headings(rows: Sequence[Row]) -> list[str]:
    """The attacks' columns, each with the number of test images behind it."""
    return [f"{COLUMNS[attack]} (n={rows[0].images[attack]})" for attack in TEST_ATTACKS]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"| network | stages | parameters | MACs | {' | '.join(headings(rows))} | tried |",
        f"|---|---|--:|--:|{'--:|' * (len(TEST_ATTACKS) + 1)}",
    ]
    for row in rows:
        figures = " | ".join(f"{100 * row.accuracies[attack]:.1f}" for attack in TEST_ATTACKS)
        stages = " ".join(map(stage_label, row.network.stages)) if isinstance(row.network, NetworkSpec) else "cells"
        tried = "–" if row.evaluations is None else str(row.evaluations)
        lines.append(f"| {row.name} | {stages} | {row.params:,} | {row.macs:,} | {figures} | {tried} |")
    return "\n".join(lines) + "\n"
