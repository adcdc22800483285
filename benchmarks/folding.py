"""What folding batch norms saves in the inner maximisation: plain against folded, in turn, on one thread.

python -m benchmarks.folding
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from benchmarks.summary import print_summary
from rcnas_env.architecture import NetworkSpec, StageSpec, named_network
from rcnas_env.networks import build
from rcnas_env.networks.folding import FoldedTwin
from rcnas_env.training.trades import trades_perturb

GREY = (1, 8, 8)
NETWORKS = {
    "WRN-10-1": named_network("WRN-10-1", GREY, 10),
    "WRN-16-2": named_network("WRN-16-2", GREY, 10),
    "three robust stages": NetworkSpec(
        (StageSpec(1, 16, False, True), StageSpec(1, 32, True, True), StageSpec(1, 80, True, True)), input=GREY
    ),
    "robust, basic, robust": NetworkSpec(
        (StageSpec(1, 16, False, True), StageSpec(1, 16, True), StageSpec(1, 80, False, True)), input=GREY
    ),
}


@dataclass(frozen=True)
class Folding:
    """Settings of the measurement."""

    batch_size: int = 128
    """Images of 8×8, grey."""
    repeats: int = 7
    """Timed pairs of each network, after one that is not counted."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""


def seconds(model: Callable[[Tensor], Tensor], images: Tensor) -> float:
    """Wall time of one inner maximisation of 10 steps."""
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter()
    trades_perturb(model, images, 0.2, 0.05, 10, generator)
    return time.perf_counter() - start


def measure(config: Folding) -> dict[str, dict[str, float]]:
    """For each network: median milliseconds of both, and the median of the pairs' ratios plain / folded."""
    images = torch.rand((config.batch_size, *GREY), generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    found = {}
    for name, spec in NETWORKS.items():
        network = build(spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.eval().requires_grad_(False)
        twin = FoldedTwin(network).module
        pairs = [(seconds(network, images), seconds(twin, images)) for _ in range(config.repeats + 1)][1:]
        found[name] = {
            "plain_ms": 1e3 * statistics.median(plain for plain, _ in pairs),
            "folded_ms": 1e3 * statistics.median(folded for _, folded in pairs),
            "ratio": statistics.median(plain / folded for plain, folded in pairs),
            "ratio_min": min(plain / folded for plain, folded in pairs),
            "ratio_max": max(plain / folded for plain, folded in pairs),
        }
    return found


def main() -> None:
    """Command line."""
    config = tyro.cli(Folding, description=__doc__)
    torch.set_num_threads(1)
    print_summary(measure(config), config.json)


if __name__ == "__main__":
    main()
