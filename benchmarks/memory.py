"""What the paper's largest teacher needs: WRN-70-16 at 3×32×32 built, trained on one batch of 8, and attacked.

    python -m benchmarks.memory
    python -m benchmarks.memory --inner-steps 1 --attack fgsm

The first takes minutes on a CPU, the second has the same peaks, for steps of the inner maximisation and of an attack
come one after the other. In a process of its own, for the peak is that of the whole process.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from benchmarks.contender import Contender
from benchmarks.summary import print_summary
from benchmarks.timing import seconds_of
from benchmarks.training_steps import CIFAR, CLASSES, random_data, staged_network
from rcnas_env.attacks import attack_entry, run_attack
from rcnas_env.cost import cost
from rcnas_env.networks import build
from rcnas_env.networks.frozen import freeze
from rcnas_env.training.fit import Trainer
from rcnas_env.training.recipe import Recipe

EPSILON = 8 / 255


@dataclass(frozen=True)
class Memory:
    """Settings of the measurement."""

    network: str = "WRN-70-16"
    """Name of a network, at 3×32×32 and 10 classes."""
    batch_size: int = 8
    """Images of the one training step, and of the attack."""
    inner_steps: int = 10
    """PGD steps of that step's inner maximisation."""
    attack: str = "pgd-20"
    """What the network is measured under."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the training step."""
    threads: int = 2
    """CPU threads."""
    device: str = "cpu"
    """"cpu" or "cuda"; there, the GPU's peak is told too."""
    own_processes: bool = True
    """Measure in a process of its own."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""


def peak_gib() -> float:
    """The most memory that this process has had resident, GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20  # bytes there, KiB elsewhere


def prepare(config: Memory) -> Callable[[], dict[str, Any]]:
    """A function that does all of it; peaks are up to the end of each part."""
    return lambda: _run(config)


def _run(config: Memory) -> dict[str, Any]:
    found: dict[str, Any] = {"start_peak_gib": peak_gib()}
    spec = staged_network(config.network, CIFAR)
    model = build(spec).to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    found |= {"params": cost(spec).params, "built_peak_gib": peak_gib()}
    data = random_data(spec, config.batch_size)
    images, labels = data.images(config.device), data.labels.to(config.device)
    images = images.contiguous(memory_format=torch.channels_last)
    recipe = Recipe(batch_size=config.batch_size, inner_steps=config.inner_steps, precision=config.precision)
    found["precision"] = recipe.precision
    found["step_seconds"] = _train_once(model, images, labels, recipe, config.device)
    found["trained_peak_gib"] = peak_gib()
    model.zero_grad(set_to_none=True)
    attack = attack_entry(config.attack).make(EPSILON, CLASSES)
    count = config.batch_size
    found["attack_seconds"] = seconds_of(
        lambda: run_attack(attack, freeze(model.eval()), images, labels, seed=0, batch_size=count, judge=model),
        config.device,
    )
    found["attacked_peak_gib"] = peak_gib()
    if config.device.startswith("cuda"):
        found["gpu_peak_gib"] = torch.cuda.max_memory_allocated(config.device) / 2**30
    return found


def _train_once(model: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, device: str) -> float:
    """Seconds of one step; optimizer and frozen network are gone afterwards, as they are after a training."""
    trainer = Trainer(model, recipe, EPSILON, torch.Generator(device=device).manual_seed(0))
    return seconds_of(lambda: trainer.step(images, labels), device)


def measure(config: Memory) -> dict[str, dict[str, Any]]:
    """Peaks and seconds of the network, see `prepare`."""
    with Contender(config.threads, config.own_processes) as process:
        return {config.network: process.run(prepare, config)}


def main() -> None:
    """Command line."""
    config = tyro.cli(Memory, description=__doc__)
    print_summary(measure(config), config.json, config)


if __name__ == "__main__":
    main()
