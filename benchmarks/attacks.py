"""AutoAttack, ours against torchattacks' components called plainly: the same steps, network and images.

    python -m benchmarks.attacks --iterations 100 --square-queries 5000      # the standard attack, in full

Trains a network, then attacks it by both in turn, one thread each. By default both make fewer steps than the standard
attack, so that this ends within 3 minutes; what the ratio is in full must be asked for.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks import plain_attacks
from benchmarks.contender import Contender
from benchmarks.published import plain_network
from benchmarks.summary import print_summary
from benchmarks.timing import Stopwatch, interleaved, seconds_of, spread
from rcnas_env.attacks import Component, attack_entry, autoattack_components, run_attack
from rcnas_env.attacks.autoattack import ITERATIONS, SQUARE_QUERIES
from rcnas_env.data import load_splits
from rcnas_env.evaluation import work
from rcnas_env.evaluation.job import Job
from rcnas_env.networks.frozen import freeze
from rcnas_env.task import Task
from rcnas_env.training.fit import cpu_threads
from rcnas_env.training.recipe import Recipe

Outcome = tuple[float, dict[str, float], tuple[bool, ...]]
"""(seconds, seconds by component, which images stay correct)."""


@dataclass(frozen=True)
class Attacks:
    """Settings of the measurement."""

    network: str = "WRN-10-2"
    """What is trained and attacked, on the digits."""
    epochs: int = 3
    """Of its training, in batches of 64."""
    inner_steps: int = 10
    """Of its training."""
    images: int = 256
    """Eval images attacked."""
    iterations: int = 25
    """Of APGD, APGD-T and FAB-T, a target; 100 in the standard attack."""
    square_queries: int = 1_000
    """Of Square; 5,000 in the standard attack."""
    batch_size: int = 256
    """Images attacked together."""
    pairs: int = 1
    """Runs of both."""
    device: str = "cpu"
    """"cpu" (one thread) or "cuda"."""
    own_processes: bool = True
    """Run each contender in a process of its own."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""

    @property
    def job(self) -> Job:
        """The network's training, and the images."""
        recipe = Recipe(
            epochs=self.epochs,
            inner_steps=self.inner_steps,
            batch_size=64,
            n_eval=self.images,
            attack_batch_size=self.batch_size,
        )
        task = Task("digits", "autoattack", self.network, 1e9)  # type: ignore[arg-type]
        return Job(task.teacher, task, recipe)


def _eval_images(job: Job, device: str) -> tuple[Tensor, Tensor]:
    chosen = load_splits(job.task.dataset, job.recipe.n_eval).eval
    return chosen.images(device), chosen.labels.to(device)


def prepare_own(config: Attacks, weights: bytes) -> Callable[[], Outcome]:
    """A function that attacks as `rcnas_env.evaluation.work` does."""
    job = config.job
    model = work.load_network(job, weights, config.device)
    images, labels = _eval_images(job, config.device)
    images = images.contiguous(memory_format=torch.channels_last)

    def run() -> Outcome:
        """(seconds of the attack, the same by component, verdicts), of a fresh attack by seed 0."""
        watch = Stopwatch(config.device)
        components = autoattack_components(
            job.task.radius, job.network.classes, iterations=config.iterations, square_queries=config.square_queries
        )
        attack = attack_entry("autoattack").make(job.task.radius, job.network.classes)
        attack = replace(attack, components=tuple(_watched(component, watch) for component in components))
        found: list[Tensor] = []

        def attacked() -> None:
            """Attack all eval images, and keep the adversarial ones."""
            batch_size = config.batch_size
            result = run_attack(attack, freeze(model), images, labels, seed=0, batch_size=batch_size, judge=model)
            found.append(result.adversarial)

        seconds = seconds_of(attacked, config.device)
        return seconds, watch.seconds, _verdicts(model, found[0], labels)

    return run


def _watched(component: Component, watch: Stopwatch) -> Component:
    def perturb(model: Any, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The component's own images (N, C, H, W); its time counts as `component.name`'s."""
        with watch.part(component.name):
            return component.perturb(model, images, labels, generator)

    return replace(component, perturb=perturb)


def prepare_plain(config: Attacks, weights: bytes) -> Callable[[], Outcome]:
    """A function that attacks by torchattacks, through the network as plain modules."""
    job = config.job
    model = plain_network(work.load_network(job, weights, config.device))
    images, labels = _eval_images(job, config.device)

    def run() -> Outcome:
        """(seconds of the attack, the same by component, verdicts)."""
        found: list[tuple[Tensor, dict[str, float]]] = []

        def attacked() -> None:
            """Attack all eval images, and keep what comes back."""
            result = plain_attacks.auto_attack(
                model,
                images,
                labels,
                job.task.radius,
                job.network.classes,
                iterations=config.iterations,
                square_queries=config.square_queries,
                batch_size=config.batch_size,
            )
            found.append(result)

        seconds = seconds_of(attacked, config.device)
        adversarial, parts = found[0]
        return seconds, parts, _verdicts(model, adversarial, labels)

    return run


def _verdicts(model: torch.nn.Module, adversarial: Tensor, labels: Tensor) -> tuple[bool, ...]:
    with torch.no_grad():
        return tuple((model(adversarial).argmax(dim=1) == labels).tolist())


def measure(config: Attacks) -> dict[str, dict[str, Any]]:
    """Seconds of both, by component too; the pairs' ratios; robust accuracies; verdicts that differ."""
    report, weights = work.train(config.job, config.device)
    isolated = config.own_processes
    with Contender(own_process=isolated) as ours, Contender(own_process=isolated) as theirs:
        ours.prepare(prepare_own, config, weights)
        theirs.prepare(prepare_plain, config, weights)
        pairs: list[tuple[Outcome, Outcome]] = interleaved(
            lambda: ours.run(prepare_own, config, weights),
            lambda: theirs.run(prepare_plain, config, weights),
            config.pairs,
        )
    own, plain = pairs[-1]
    in_full = (config.iterations, config.square_queries) == (ITERATIONS, SQUARE_QUERIES)
    return {
        "autoattack": {
            "seconds": statistics.median(pair[0][0] for pair in pairs),
            "torchattacks_seconds": statistics.median(pair[1][0] for pair in pairs),
            **spread([theirs[0] / ours[0] for ours, theirs in pairs], "ratio"),
            "standard_steps": in_full,
            "iterations": config.iterations,
            "square_queries": config.square_queries,
        },
        "verdicts": {
            "images": len(own[2]),
            "robust_accuracy": statistics.fmean(own[2]),
            "torchattacks_robust_accuracy": statistics.fmean(plain[2]),
            "disagreements": sum(a != b for a, b in zip(own[2], plain[2], strict=True)),
        },
        "seconds by component": own[1],
        "seconds by component, torchattacks": plain[1],
        "training": {"seconds": report["seconds"], "epochs": config.epochs},
    }


def main() -> None:
    """Command line."""
    config = tyro.cli(Attacks, description=__doc__)
    with cpu_threads(1):
        found = measure(config)
    notes = []
    if not found["autoattack"]["standard_steps"]:
        notes.append(
            f"Fewer steps than the standard attack: {config.iterations} of {ITERATIONS} iterations, "
            f"{config.square_queries:,} of {SQUARE_QUERIES:,} queries of Square. In full: "
            f"--iterations {ITERATIONS} --square-queries {SQUARE_QUERIES}"
        )
    print_summary(found, config.json, config, notes)


if __name__ == "__main__":
    main()
