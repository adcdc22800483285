"""What a pass through a network costs: measured on the device at hand, or assumed.

A forward or backward pass of a network on a batch takes (MACs of the batch) · p + (layers) · q seconds. p and q come
from timing steps of real training on two networks of a plan, with random images of the data set's shape; where a timed
step would take minutes, p follows from an assumed rate of computation and q is 0. They know nothing of attacks that end
early, so that what follows from them is of the order, not of the minute.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls

from rcnas_env.architecture import Network, NetworkSpec
from rcnas_env.cost import cost
from rcnas_env.data import ImageSet, dataset_entry
from rcnas_env.evaluation.trained import resolve_device
from rcnas_env.networks import build
from rcnas_env.training.fit import cpu_threads, fit
from rcnas_env.training.recipe import Recipe

TIMED_BATCHES, MOST_TIMED_BATCHES = 3, 30
"""A training's start counts too, so that small networks are timed for as many steps as `QUICK_MACS` allow."""
QUICK_MACS = 1e11
"""Some seconds of one core."""
TIMED_MACS = 2e12
"""Timed on a CPU at most, about a minute of one core; above, a rate is assumed."""
ASSUMED_TFLOPS = 30.0
"""10^12 floating-point operations a second, two a MAC: a tenth of the 312 that an A100's data sheet gives for bfloat16.
Assumed, not measured: nothing here was run on a GPU."""


@dataclass(frozen=True)
class Prices:
    """Seconds a MAC, and seconds a layer of a pass.

    source: how they came about, in words.
    lanes: whether several workers work that fast side by side; they share a GPU, and an assumed rate is one device's.
    attack: how many times as long a pass of an attack takes, which is in float32 whatever a training is in.
    """

    mac: float
    layer: float
    source: str = ""
    lanes: bool = True
    attack: float = 1.0

    def passes(self, network: Network, images: int, batch_size: int, count: float) -> float:
        """Seconds of `count` passes over `images` images in batches."""
        batches = -(-images // batch_size)
        return count * (images * cost(network).macs * self.mac + batches * layers(network) * self.layer)


def layers(network: Network) -> int:
    """Layers of a network, roughly: three a block, eight a robust block, twenty a cell."""
    if isinstance(network, NetworkSpec):
        return 3 + sum(stage.depth * (8 if stage.robust else 3) for stage in network.stages)
    return 3 + 20 * network.layers


def passes_of(recipe: Recipe) -> float:
    """Forward and backward passes an image of one epoch: two an inner step, three for each of the two outer batches."""
    return 2 * recipe.inner_steps + 6


def prices(
    networks: Sequence[Network], dataset: str, recipe: Recipe, device: str = "auto", tflops: float | None = None
) -> Prices:
    """The price of passes through networks like these; nothing of the data set is read.

    Args:
        networks: for images of `dataset`, one or more.
        tflops: assume this rate, in 10^12 floating-point operations a second; if None steps are timed on the device,
            unless that takes minutes.
    """
    chosen = sorted(set(networks), key=lambda network: cost(network).macs)
    chosen = [chosen[0], chosen[-1]]
    target = resolve_device(device)
    # each is trained twice on the timed batches
    work = 2 * TIMED_BATCHES * recipe.batch_size * passes_of(recipe) * sum(cost(each).macs for each in chosen)
    if tflops is None and (target != "cpu" or work <= TIMED_MACS):
        return _measured(chosen, dataset, recipe, target)
    rate = ASSUMED_TFLOPS if tflops is None else tflops
    why = "" if tflops is not None else "; steps of such networks would take this processor minutes, so none was timed"
    source = f"At an assumed rate of {rate:g} TFLOP/s (--assume-tflops), two operations a MAC: not measured{why}."
    return Prices(2 / (rate * 1e12), 0.0, source, lanes=False)


def _measured(networks: Sequence[Network], dataset: str, recipe: Recipe, target: str) -> Prices:
    """Time a few training steps of each network; p and q by non-negative least squares."""
    count = passes_of(recipe)
    a_batch = recipe.batch_size * count * sum(cost(each).macs for each in networks)
    batches = min(MOST_TIMED_BATCHES, max(TIMED_BATCHES, int(QUICK_MACS / a_batch)))
    few = random_images(dataset, batches * recipe.batch_size)
    rows = [[count * len(few) * cost(each).macs, count * batches * layers(each)] for each in networks]
    seconds = [_seconds(each, few, dataset, recipe, target) for each in networks]
    attack = 1.0
    if recipe.precision != "fp32":
        attack = _seconds(networks[-1], few, dataset, recipe.but(precision="fp32"), target) / seconds[-1]
    scale = np.max(rows, axis=0)
    price, _ = nnls(np.asarray(rows) / scale, np.asarray(seconds))
    source = f"By {batches} timed training steps of the smallest and the largest network, on {target}."
    return Prices(float(price[0] / scale[0]), float(price[1] / scale[1]), source, target == "cpu", attack)


def _seconds(network: Network, images: ImageSet, dataset: str, recipe: Recipe, target: str) -> float:
    """Of one epoch on a few images."""
    elapsed = 0.0
    for _ in range(2):  # the first is slower: kernels are chosen, memory is asked for
        start = time.perf_counter()
        with cpu_threads(recipe.threads):
            short = recipe.but(epochs=1, n_train=None)
            fit(build(network).to(target), images, short, dataset_entry(dataset).epsilon, 0, target)
        elapsed = time.perf_counter() - start
    return elapsed


def random_images(dataset: str, count: int) -> ImageSet:
    """`count` random images of a data set's shape with random labels: a step on them takes as long as on real ones."""
    entry, generator = dataset_entry(dataset), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *entry.input), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.randint(0, entry.classes, (count,), generator=generator))
