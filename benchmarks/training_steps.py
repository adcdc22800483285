"""One training step of ours and of the published loop, prepared for timing; and what one costs by count."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks import published
from benchmarks.allocator import keep_freed_memory
from benchmarks.timing import Stopwatch, seconds_of
from rcnas_env.architecture import NetworkSpec, StageSpec, named_network
from rcnas_env.cost import cost
from rcnas_env.data import ImageSet
from rcnas_env.networks import build
from rcnas_env.training.fit import Trainer, batches
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_choice

DIGITS, FASHION, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
CLASSES = 10
EPSILON = 0.2
"""Radius trained against; steps cost the same at any."""

STEPS_TO_COMPILE = 3
"""After which nothing is compiled any more: CUDA graphs run a network once as it is, record it, and then replay it."""

DATA_BATCHES = 4
"""Batches of random images that there are, so that the next is never the last one again."""


def staged_network(name: str, input_shape: tuple[int, int, int]) -> NetworkSpec:
    """The network of stages called `name`, for ten classes.

    Raises:
        ValueError: there is none, or it is made of cells.
    """
    spec = named_network(name, input_shape, CLASSES)
    if not isinstance(spec, NetworkSpec):
        raise ValueError(f"network must be one of stages (WRN-16-2, …), got {name!r}, which is made of cells")
    return spec


NETWORKS = {
    "WRN-10-1 at 8x8": staged_network("WRN-10-1", DIGITS),
    "WRN-10-2 at 8x8": staged_network("WRN-10-2", DIGITS),
    "WRN-16-2 at 8x8": staged_network("WRN-16-2", DIGITS),
    "robust at 8x8": NetworkSpec(
        (StageSpec(1, 16, False, True), StageSpec(1, 32, True, True), StageSpec(1, 64, True, True)), input=DIGITS
    ),
    "basic, robust, basic at 8x8": NetworkSpec(
        (StageSpec(1, 16, False, False), StageSpec(1, 32, True, True), StageSpec(1, 64, True, False)), input=DIGITS
    ),
    "WRN-16-2 at 28x28": staged_network("WRN-16-2", FASHION),
    "WRN-28-10 at 32x32": staged_network("WRN-28-10", CIFAR),
}
ON_CPU = tuple(NETWORKS)[:6]
ON_GPU = ("WRN-16-2 at 28x28", "WRN-28-10 at 32x32")


def network_of(name: str) -> NetworkSpec:
    """The network called `name`.

    Raises:
        ValueError: there is none.
    """
    return NETWORKS[require_choice("networks", name, tuple(NETWORKS))]


def forward_equivalents(inner_steps: int) -> int:
    """As `published.forward_equivalents`, of our step: the clean prediction once, 2 an inner step, 2 + 4 outside."""
    return 2 * inner_steps + 7


def gflop(spec: NetworkSpec, batch_size: int, equivalents: int) -> float:
    """Operations of a step in units of 1e9: two a multiply-accumulate."""
    return 2e-9 * cost(spec).macs * batch_size * equivalents


def random_data(spec: NetworkSpec, count: int) -> ImageSet:
    """Noise with random labels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, *spec.input), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.randint(spec.classes, (count,), generator=generator))


def prepare_published(spec: NetworkSpec, recipe: Recipe, device: str) -> Callable[[], float]:
    """A function that loads a batch, takes the published step and returns its seconds; warm already."""
    data = random_data(spec, DATA_BATCHES * recipe.batch_size)
    model = published.plain_network(build(spec)).to(device)
    optimizer = published.make_optimizer(model, recipe)
    loader = published.make_loader(data, recipe.batch_size, torch.Generator().manual_seed(0), device)
    noise = torch.Generator(device=device).manual_seed(0)
    stream = (batch for _ in itertools.count() for batch in loader)

    def step(recipe: Recipe) -> None:
        """The published step on the next batch, copied to the device first."""
        images, labels = next(stream)
        published.step(model, optimizer, images.to(device), labels.to(device), EPSILON, recipe, noise)

    step(recipe.but(inner_steps=1))  # kernels are planned by shape: one inner step plans them all
    return lambda: seconds_of(lambda: step(recipe), device)


class OwnStep:
    """Our step, fed as `rcnas_env.training.fit` feeds it; warm already, unless said otherwise.

    Args:
        spec: the network.
        recipe: its precision, inner steps and all else.
        device: where to train.
        plain_convolutions: nn.Conv2d in place of `Convolution`.
        keep_memory: have the allocator keep freed memory, in the whole process from now on, as no training does.
        warm: take first steps, of one inner step, that no timing is to see.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        recipe: Recipe,
        device: str,
        plain_convolutions: bool,
        keep_memory: bool,
        warm: bool = True,
    ) -> None:
        if keep_memory:
            keep_freed_memory()
        data = random_data(spec, DATA_BATCHES * recipe.batch_size)
        self._device, self._scale = device, data.scale
        self._pixels, self._labels = data.pixels.to(device), data.labels.to(device)
        model = build(spec)
        model = published.plain_network(model) if plain_convolutions else model  # type: ignore[assignment]
        model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._batches = _endless(len(data), recipe.batch_size)
        noise = torch.Generator(device=device).manual_seed(0)
        self.trainer = Trainer(model, recipe, EPSILON, noise)
        if warm:
            self.trainer.recipe = recipe.but(inner_steps=1)
            for _ in range(1 if recipe.compilation == "off" else STEPS_TO_COMPILE):
                self.step()
            self.trainer.recipe = recipe

    def step(self) -> None:
        """Take one step on the next batch."""
        batch = next(self._batches).to(self._device)
        images = ImageSet(self._pixels[batch], self._labels[batch], self._scale).images(self._device)
        self.trainer.step(images.contiguous(memory_format=torch.channels_last), self._labels[batch])


def _endless(count: int, batch_size: int) -> Iterator[Tensor]:
    order = torch.Generator().manual_seed(0)
    while True:
        yield from batches(count, batch_size, order)


def prepare_own(
    spec: NetworkSpec, recipe: Recipe, device: str, plain_convolutions: bool = False, keep_memory: bool = False
) -> Callable[[], float]:
    """A function that takes our step and returns its seconds; see `OwnStep`."""
    own = OwnStep(spec, recipe, device, plain_convolutions, keep_memory)
    return lambda: seconds_of(own.step, device)


def prepare_cold(spec: NetworkSpec, recipe: Recipe, device: str) -> Callable[[], float]:
    """As `prepare_own`, without a step that comes first: what a new network costs, compiled if the recipe says so."""
    own = OwnStep(spec, recipe, device, plain_convolutions=False, keep_memory=False, warm=False)
    return lambda: seconds_of(own.step, device)


def prepare_breakdown(spec: NetworkSpec, recipe: Recipe, device: str) -> Callable[[], dict[str, float]]:
    """A function that takes our step and returns its seconds by part."""
    own = OwnStep(spec, recipe, device, plain_convolutions=False, keep_memory=False)

    def run() -> dict[str, float]:
        """Seconds of one step by part: the inner maximisation, the optimizer, and all else (outer)."""
        watch = Stopwatch(device)
        with (
            watch.watch(own.trainer, "perturb", "inner"),
            watch.watch(own.trainer.optimizer, "step", "optimizer"),
            watch.part("outer"),
        ):
            own.step()
        return watch.seconds

    return run
