"""Compiled training: the same steps to rounding, nothing compiled for odd batches, and nothing left behind."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rcnas_env.data import load_splits
from rcnas_env.networks import build
from rcnas_env.networks.convolution import Convolution
from rcnas_env.networks.frozen import FrozenTwin, freeze
from rcnas_env.training.compilation import ONLY_ON_GPU, OPTIONS, as_asked, failure_to_compile
from rcnas_env.training.fit import Trainer, fit
from rcnas_env.training.memory import MemoryWarning
from rcnas_env.training.recipe import COMPILATIONS, Recipe
from tests import tiny

BATCH = 16
RECIPE = Recipe(batch_size=BATCH, inner_steps=2, learning_rate=0.05, compilation="inductor")
EPSILON = 0.1
OF_TORCH_ITSELF = "ignore:.torch.jit:DeprecationWarning"
"""What the inductor warns of where it is imported."""


class Small(nn.Module):
    """A network that torch traces in no time; it has no plan of fused operations, and so a folded twin."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = Convolution(1, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.classifier = nn.Linear(width, 10)
        draws = tiny.generator(5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-0.5, 0.5, generator=draws)
            self.bn.weight.fill_(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, H, W)."""
        logits: Tensor = self.classifier(F.relu(self.bn(self.conv(images))).mean(dim=(2, 3)))
        return logits

    def folded_pairs(self) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """See `rcnas_env.networks.folding`."""
        yield self.conv, self.bn


class NoRoom(Small):
    """It has room for eight images at once."""

    def forward(self, images: Tensor) -> Tensor:
        """See `Small`."""
        if len(images) > 8:
            raise torch.OutOfMemoryError("no room")
        return super().forward(images)


class Counted:
    """What torch hands over to a compiler, counted and run as it is."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """A backend of `torch.compile`."""
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """Have another backend stand in for the inductor, which takes minutes."""
    yield lambda other: monkeypatch.setitem(OPTIONS, "inductor", {"backend": other})
    failure_to_compile.cache_clear()


@pytest.fixture
def counted(backend: Callable[[Any], None]) -> Counted:
    """Graphs that are compiled; the one that every process tries first is not counted."""
    counted = Counted()
    backend(counted)
    assert failure_to_compile("inductor", "cpu") is None
    counted.graphs = 0
    return counted


def steps(recipe: Recipe, network: nn.Module, sizes: tuple[int, ...] = (BATCH,) * 3, device: str = "cpu") -> Trainer:
    """A trainer after a step on each batch, the batches always the same."""
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    trainer = Trainer(network, recipe, EPSILON, torch.Generator(device).manual_seed(0))
    for seed, size in enumerate(sizes):
        trainer.step(tiny.images(size, seed).to(device), tiny.labels(size, seed).to(device))
    return trainer


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([value.detach().double().flatten() for value in trainer.model.state_dict().values()]).cpu()


STEPS: dict[str, tuple[dict[str, Any], float]] = {  # changes of the recipe; largest difference of a weight
    "folded": ({}, 1e-6),
    "as it is": ({"folded": False}, 1e-6),
    "bf16": ({"method": "sat", "precision": "bf16"}, 1e-3),
}


@pytest.mark.parametrize("case", STEPS)
def test_compiled_steps_agree_with_plain_ones(case: str, backend: Callable[[Any], None]) -> None:
    changes, difference = STEPS[case]
    backend("aot_eager")  # torch's own tracing of forward and backward, and its own kernels
    recipe, sizes = RECIPE.but(**changes), (BATCH, BATCH, 7, BATCH)
    compiled, plain = steps(recipe, Small(), sizes), steps(recipe.but(compilation="off"), Small(), sizes)
    assert (weights(compiled) - weights(plain)).abs().max() < difference
    assert (weights(plain) - weights(steps(recipe, Small(), ()))).abs().max() > 20 * difference


def test_only_whole_batches_are_compiled(counted: Counted) -> None:
    steps(RECIPE, Small(), (7, 5, BATCH - 1))
    assert counted.graphs == 0
    steps(RECIPE, Small(), (BATCH, 7, BATCH, BATCH, 5))
    assert counted.graphs == 3  # the clean prediction, a step of the inner maximisation, the outer step


def test_every_network_of_a_process_is_compiled(counted: Counted) -> None:
    # torch compiles one code object for 8 different networks at most, and then runs it as it is
    for width in range(1, 10):
        steps(RECIPE.but(method="clean"), Small(width), (BATCH,))
    assert counted.graphs == 9


def test_nothing_of_a_network_is_left(counted: Counted) -> None:
    left = [weakref.ref(steps(RECIPE, Small(), (BATCH,)).model) for _ in range(2)]
    gc.collect()
    assert counted.graphs == 6 and [reference() for reference in left] == [None, None]


def test_global_random_state_does_not_move(counted: Counted) -> None:
    network = Small()  # whose layers draw weights before it sets its own
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    steps(RECIPE, network)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert counted.graphs and torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_where_memory_runs_out_training_goes_on_as_it_is(counted: Counted) -> None:
    with pytest.warns(MemoryWarning, match="going on with 8: no room"):
        compiled = steps(RECIPE, NoRoom(), (BATCH,))
    graphs = counted.graphs
    compiled.step(tiny.images(BATCH, 1), tiny.labels(BATCH, 1))
    with pytest.warns(MemoryWarning, match="going on with 8: no room"):
        plain = steps(RECIPE.but(compilation="off"), NoRoom(), (BATCH,) * 2)
    assert torch.allclose(weights(compiled), weights(plain), rtol=1e-5, atol=1e-6)
    assert counted.graphs == graphs


def test_a_plan_of_fused_operations_is_not_compiled(counted: Counted) -> None:
    frozen = freeze(build(tiny.STUDENT, tiny.generator()).eval())
    assert as_asked(frozen, RECIPE) is frozen
    twin = FrozenTwin(Small().eval())
    assert as_asked(twin, RECIPE) is not twin and as_asked(twin, RECIPE.but(compilation="off")) is twin


def test_all_kinds_of_compilation_have_options() -> None:
    assert ("off", *OPTIONS) == COMPILATIONS and set(ONLY_ON_GPU) < set(OPTIONS)


@pytest.mark.parametrize("compilation", ONLY_ON_GPU)
def test_cuda_graphs_need_a_gpu(compilation: str) -> None:
    with pytest.raises(ValueError, match=rf"recipe.compilation must be 'off' or 'inductor' .* got '{compilation}'"):
        Trainer(Small(), RECIPE.but(compilation=compilation), EPSILON, tiny.generator())


def test_a_compiler_that_does_not_work_is_found_before_training(backend: Callable[[Any], None]) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        raise RuntimeError("no C++ compiler")

    backend(broken)
    network, untouched = Small(), Small().state_dict()
    message = r"recipe.compilation must be 'off' where .*, got 'inductor': .*no C\+\+ compiler"
    with pytest.raises(ValueError, match=message):
        fit(network, load_splits("digits", 64).train, RECIPE, EPSILON, seed=0)
    assert all(torch.equal(value, untouched[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.filterwarnings(OF_TORCH_ITSELF)
@pytest.mark.parametrize("robust", [False, True], ids=["basic", "robust"])
def test_the_inductor_trains_alike_on_a_cpu(robust: bool) -> None:
    spec, data = tiny.network(16, robust=robust), load_splits("digits", 64).train.subset(torch.arange(150))
    reports, networks = [], []
    for compilation in ("off", "inductor"):
        networks.append(build(spec, tiny.generator()))
        recipe = Recipe(epochs=2, batch_size=64, inner_steps=2, learning_rate=0.02, compilation=compilation)
        reports.append(fit(networks[-1], data, recipe, EPSILON, seed=0))
    assert reports[1].losses == pytest.approx(reports[0].losses, rel=1e-3)
    test = load_splits("digits", 64).test.images()
    with torch.no_grad():
        plain, compiled = (F.softmax(network(test), dim=1) for network in networks)
    assert (plain - compiled).abs().mean() < 1e-3


@pytest.mark.slow
@pytest.mark.filterwarnings(OF_TORCH_ITSELF)
def test_a_missing_compiler_is_named() -> None:
    from torch._inductor import config

    failure_to_compile.cache_clear()
    with config.patch({"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True}):
        failure = failure_to_compile("inductor", "cpu")
    failure_to_compile.cache_clear()
    assert failure is not None and "compiler" in failure.lower()


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings(OF_TORCH_ITSELF, "ignore:TensorFloat32")
@pytest.mark.parametrize("compilation", [name for name in COMPILATIONS if name != "off"])
@pytest.mark.parametrize("folded", [True, False], ids=["folded", "as it is"])
def test_a_gpu_trains_alike(compilation: str, folded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    recipe = RECIPE.but(folded=folded, compilation=compilation)
    sizes = (BATCH, BATCH, 7, *(BATCH,) * 4)  # graphs run once as they are, are recorded, and then replayed
    compiled, plain, untrained = (
        weights(steps(recipe.but(compilation=name), build(tiny.network(16), tiny.generator()), batches, "cuda"))
        for name, batches in ((compilation, sizes), ("off", sizes), ("off", ()))
    )
    # a gradient that vanishes has the sign that rounding gives it: a pixel moves the other way, and weights a little
    assert (compiled - plain).abs().mean() < 0.02 * (untrained - plain).abs().mean()
