"""Seconds of a training predicted from a network's spec, images, epochs and inner steps; held against trainings.

    python -m benchmarks.cost_model

A step takes  K · w · p + w · q  seconds: K inner steps, w the forward pass's workload (multiply-accumulates and
feature-map elements of the batch, calls of layers: `benchmarks.workload`), p the price of each in an inner forward and
backward pair, q in everything else (the clean prediction, the outer step, the optimizer), none below 0. Both prices
come from timing single steps of random students, each with few and with many inner steps, by least squares of the
relative error; the predictions are of whole trainings of other students, of the last, smaller batch too.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from scipy.optimize import nnls

from benchmarks.summary import print_summary
from benchmarks.timing import seconds_of
from benchmarks.training_steps import DIGITS, EPSILON, OwnStep, staged_network
from benchmarks.workload import workload
from rcnas_env.architecture import NetworkSpec
from rcnas_env.compression import compress
from rcnas_env.cost import cost
from rcnas_env.data import load_splits
from rcnas_env.networks import build
from rcnas_env.training.fit import cpu_threads, fit
from rcnas_env.training.recipe import Recipe

FEATURES = ("giga-MACs", "giga-MACs in robust stages", "mega-elements", "kilo-calls", "passes")
TOLERANCE = 0.25
"""Relative error within which a prediction counts as right."""


@dataclass(frozen=True)
class CostModel:
    """Settings of the measurement."""

    teacher: str = "WRN-16-2"
    """Whose random students are timed, on the digits."""
    calibrating: int = 16
    """Students of which single steps are timed."""
    held_out: int = 12
    """Other students, of which whole trainings are predicted and timed."""
    batch_size: int = 128
    """Images a step."""
    few_steps: int = 1
    """Inner steps of the shorter of the two timed steps."""
    many_steps: int = 6
    """Inner steps of the longer one."""
    repeats: int = 2
    """Of each timed step; the median counts."""
    epochs: tuple[int, ...] = (1, 2)
    """What a held-out training draws its epochs from."""
    inner_steps: tuple[int, ...] = (2, 5, 10)
    """What a held-out training draws its inner steps from."""
    images: tuple[int, ...] = (400, 700, 1000)
    """What a held-out training draws its number of images from."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of trainings."""
    seed: int = 0
    """Of students and draws."""
    device: str = "cpu"
    """"cpu" (one thread) or "cuda"."""
    json: bool = False
    """Print JSON with versions and hardware in place of text."""


@dataclass(frozen=True)
class Prices:
    """Seconds for a unit of each feature, (5,) each: of an inner forward and backward pair; of all else in a step."""

    pair: NDArray[np.float64]
    rest: NDArray[np.float64]

    def step(self, spec: NetworkSpec, batch_size: int, inner_steps: int) -> float:
        """Seconds of one training step."""
        features = workload(spec).features(batch_size)
        return float(inner_steps * features @ self.pair + features @ self.rest)

    def training(self, spec: NetworkSpec, recipe: Recipe, images: int) -> float:
        """Seconds of a whole training on `images` images."""
        full, last = divmod(images, recipe.batch_size)
        epoch = full * self.step(spec, recipe.batch_size, recipe.inner_steps)
        if last > 1:  # a batch of one is left out
            epoch += self.step(spec, last, recipe.inner_steps)
        return recipe.epochs * epoch


def random_students(teacher: NetworkSpec, count: int, rng: np.random.Generator) -> list[NetworkSpec]:
    """`count` different students of uniformly random actions."""
    found: dict[NetworkSpec, None] = {}
    while len(found) < count:
        action = {"keep": rng.random((3, 2)), "switch": rng.integers(0, 2, (3, 2))}
        found[compress(teacher, action)] = None
    return list(found)


def fit_prices(specs: Sequence[NetworkSpec], batch_size: int, timed: Sequence[dict[int, float]]) -> Prices:
    """The prices that explain `timed`: for each of `specs`, seconds of a step by inner steps."""
    rows, seconds = [], []
    for spec, by_steps in zip(specs, timed, strict=True):
        features = workload(spec).features(batch_size)
        for inner_steps, elapsed in by_steps.items():
            rows.append(np.concatenate([inner_steps * features, features]))
            seconds.append(elapsed)
    measured = np.array(seconds)
    found, _ = nnls(np.array(rows) / measured[:, None], np.ones(len(measured)))  # of the relative error
    return Prices(*np.split(found, 2))


def time_steps(config: CostModel, spec: NetworkSpec, recipe: Recipe) -> dict[int, float]:
    """Median seconds of one step of `spec`, by inner steps."""
    own = OwnStep(spec, recipe, config.device, plain_convolutions=False, keep_memory=False)
    samples: dict[int, list[float]] = {config.few_steps: [], config.many_steps: []}
    for _ in range(config.repeats):
        for inner_steps, seconds in samples.items():
            own.trainer.recipe = recipe.but(inner_steps=inner_steps)
            seconds.append(seconds_of(own.step, config.device))
    return {inner_steps: statistics.median(seconds) for inner_steps, seconds in samples.items()}


def time_training(config: CostModel, spec: NetworkSpec, recipe: Recipe, images: int) -> float:
    """Seconds of a training of `spec` on the first `images` training images of the digits."""
    train = load_splits("digits", recipe.n_eval).train
    data = train.subset(torch.arange(images))
    model = build(spec).to(config.device)
    return fit(model, data, recipe, EPSILON, config.seed, config.device).seconds


def measure(config: CostModel) -> dict[str, dict[str, Any]]:
    """The prices; each held-out training predicted and measured; the share within `TOLERANCE`."""
    teacher = staged_network(config.teacher, DIGITS)
    rng = np.random.default_rng(config.seed)
    students = random_students(teacher, config.calibrating + config.held_out, rng)
    calibrating, held_out = students[: config.calibrating], students[config.calibrating :]
    recipe = Recipe(batch_size=config.batch_size, precision=config.precision)
    prices = fit_prices(calibrating, config.batch_size, [time_steps(config, s, recipe) for s in calibrating])
    found: dict[str, dict[str, Any]] = {
        f"milliseconds a unit of {name}": {"inner_pair": 1e3 * pair, "rest": 1e3 * rest}
        for name, pair, rest in zip(FEATURES, prices.pair.tolist(), prices.rest.tolist(), strict=True)
    }
    errors = []
    for number, spec in enumerate(held_out):
        epochs, inner_steps, images = (
            int(rng.choice(choices)) for choices in (config.epochs, config.inner_steps, config.images)
        )
        own = recipe.but(epochs=epochs, inner_steps=inner_steps)
        predicted, measured = prices.training(spec, own, images), time_training(config, spec, own, images)
        errors.append(predicted / measured - 1)
        found[f"held-out {number + 1}"] = {
            "kmacs": round(cost(spec).macs / 1e3),
            "robust_stages": sum(stage.robust for stage in spec.stages),
            "images": images,
            "epochs": epochs,
            "inner_steps": inner_steps,
            "predicted_seconds": predicted,
            "seconds": measured,
            "error": errors[-1],
        }
    within = sum(abs(error) <= TOLERANCE for error in errors)
    found["cost model"] = {
        "held_out": len(errors),
        f"share_within_{TOLERANCE:.0%}": within / len(errors),
        "median_absolute_error": statistics.median(map(abs, errors)),
        "precision": recipe.precision,
    }
    return found


def main() -> None:
    """Command line."""
    config = tyro.cli(CostModel, description=__doc__)
    with cpu_threads(1):
        found = measure(config)
    print_summary(found, config.json, config)


if __name__ == "__main__":
    main()
