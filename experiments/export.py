"""Deliver a network that a run found: weights with their card, and graphs for other programs if wanted.

    python -m experiments.export runs/search-… --format safetensors onnx torchexport

RUN is the folder of a finished `experiments.search`, `quickstart` or `reproduce`. Its record.json says what the network
is, how it was trained and what was measured; the weights come from the store. `rcnas_env.load_student(FOLDER)` loads
what is delivered; docs/delivery.md describes it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import torch
import tyro
from torch import nn

from experiments.finding import Finding
from experiments.finding_reader import read_finding
from rcnas_env.data import DataUnavailableError, ImageSet, load_splits
from rcnas_env.data.splitting import SPLIT_SEED, take_per_class
from rcnas_env.delivery import MismatchError, Preprocessing, StudentCard, write_student
from rcnas_env.delivery.graph_formats import require_formats
from rcnas_env.evaluation.store import Store, open_store
from rcnas_env.evaluation.trained import resolve_device
from rcnas_env.evaluation.work import load_network, train
from rcnas_env.training.fit import cpu_threads

Format = Literal["safetensors", "onnx", "torchexport"]
"""`rcnas_env.delivery.FORMATS`, as the command line needs them."""

CHECKED_IMAGES = 256
"""Test images at most that every file's outputs are compared on."""


class MissingWeightsError(LookupError):
    """The store does not have a network's weights (any more); the message says how to have them again."""


@dataclass(frozen=True)
class Export:
    """Settings of an export."""

    run: tyro.conf.Positional[Path]
    """Folder of a finished run, with its record.json."""
    format: tuple[Format, ...] = ("safetensors",)
    """What is written; model.safetensors always is. "onnx" needs the extra `export`."""
    out: Path | None = None
    """Folder of the delivered network; RUN/student if not given. A delivered one that is there is replaced."""
    network: str | None = None
    """Which of the table's networks, by its name there; the one that the run chose if not given. Of a reproduction a
    student, by its search: rc-nas_cifar10_5G_pgd-20."""
    train: bool = False
    """Train the network again, by the same recipe and seed, where the store does not have its weights."""
    store: str | None = None
    """Folder of the store; the run's own if not given."""
    device: str = "auto"
    """Where to train: "auto" (a GPU where there is one), "cpu", "cuda:0", …"""


def trained_weights(finding: Finding, store: Store, run: Path, device: str | None = None) -> tuple[Any, bytes]:
    """(report, weights) of the network's training, from the store.

    Args:
        finding: the network.
        store: where to look.
        run: its folder, for the error's advice.
        device: where to train it again, if the store does not have it; None for an error then.

    Raises:
        MissingWeightsError: the store does not have them, and no device is given.
        ValueError: the training diverged.
    """
    key = finding.job.training_key
    found = store.load_training(key)
    if found is None and device is None:
        place = getattr(store, "folder", "memory")
        raise MissingWeightsError(
            f"the weights of {finding.name!r} are not in the store {place} (training {key}); "
            f"`python -m experiments.export {run} --train --network {quote(finding.name)}` trains the network again"
        )
    if found is None:
        assert device is not None
        found = train(finding.job, resolve_device(device))
        store.save_training(key, *found)
    if found[0]["diverged"]:
        raise ValueError(f"network {finding.name!r} is not delivered: its training diverged")
    return found


def deliver(finding: Finding, report: Mapping[str, Any], weights: bytes, out: Path, formats: Sequence[str]) -> Path:
    """Write the delivered folder; returns it.

    Raises:
        MismatchError: the weights are not those that were measured, or a file does not give the network's outputs.
        ValueError, ModuleNotFoundError: see `write_student`.
    """
    require_formats(formats)
    job = finding.job
    test = load_splits(job.task.dataset, job.recipe.n_eval).test
    network = load_network(job, weights)
    with cpu_threads(job.recipe.threads):
        _require_as_measured(finding, network, test)
        card = StudentCard(
            network=job.network,
            dataset=job.task.dataset,
            preprocessing=Preprocessing(job.network.input, test.scale),
            measurements=finding.measurements,
            training={
                "key": job.training_key,
                "recipe": job.recipe.to_dict(),
                "epsilon": job.training_epsilon,
                "seed": job.seed,
                "losses": list(report.get("losses", ())),
                "provenance": dict(report.get("provenance", {})),
            },
            search=finding.search,
            versions=finding.versions,
            commit=finding.commit,
        )
        return write_student(network, card, out, test.images()[:CHECKED_IMAGES], formats)


@torch.no_grad()
def _require_as_measured(finding: Finding, network: nn.Module, test: ImageSet) -> None:
    """Hold the weights against the record: their clean accuracy on the test images that it was measured on.

    Another processor may round an image into another class; more than two images, or 1 %, are another network.
    """
    for each in finding.measurements:
        if each.attack == "clean":
            chosen = test if each.images == len(test) else test.subset(_balanced(test, each.images))
            batches = chosen.images().contiguous(memory_format=torch.channels_last).split(CHECKED_IMAGES)
            right = int((torch.cat([network(batch) for batch in batches]).argmax(1) == chosen.labels).sum())
            if abs(right - each.accuracy * each.images) > max(2.0, 0.01 * each.images):
                raise MismatchError(
                    f"the weights of {finding.name!r} classify {right} of {each.images} clean test images correctly, "
                    f"those that were measured {each.accuracy * each.images:.0f}: trained elsewhere they are another "
                    "network, and its robustness was not measured; run the search again"
                )


def _balanced(test: ImageSet, count: int) -> torch.Tensor:
    """Indices of the `count` test images that a recipe's `n_test` takes."""
    return take_per_class(test.labels, count, SPLIT_SEED)[0]


def export(config: Export) -> Path:
    """The whole job; returns the delivered folder."""
    require_formats(config.format)
    finding = read_finding(config.run, config.network, config.store)
    store = open_store(finding.store if config.store is None else config.store)
    report, weights = trained_weights(finding, store, config.run, config.device if config.train else None)
    return deliver(finding, report, weights, config.out or config.run / "student", config.format)


def main() -> int:
    """Command line."""
    config = tyro.cli(Export, description=__doc__)
    try:
        folder = export(config)
    except (ValueError, DataUnavailableError, MissingWeightsError, ModuleNotFoundError, MismatchError) as error:
        print(f"export: error: {error}", file=sys.stderr)
        return 1 if isinstance(error, MissingWeightsError | MismatchError) else 2
    except OSError as error:  # DataUnavailableError, which is one, is the command line's
        print(f"export: error: {error}. The run is as it was.", file=sys.stderr)
        return 1
    print(f"Delivered to {folder}: rcnas_env.load_student({str(folder)!r}) loads it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
