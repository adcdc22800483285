"""Folded twins against the networks they are of."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.architecture import NetworkSpec
from rcnas_env.data import load_splits
from rcnas_env.networks import build
from rcnas_env.networks.folding import FoldedTwin
from rcnas_env.pruning.mask import ScoredMask
from rcnas_env.pruning.masking import put_scores
from rcnas_env.training.fit import fit
from rcnas_env.training.recipe import Recipe
from tests import tiny

NETWORKS = {
    "basic": tiny.network(8, depth=2),
    "robust-narrow": tiny.network(16, depth=2, robust=True),  # 4 channels a scale
    "robust-wide": tiny.network(80, robust=True),  # 20 channels a scale
}


def responses(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of a weighted sum of them with respect to the images."""
    x = images.detach().clone().requires_grad_()
    logits = model(x)
    weighting = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    (gradient,) = torch.autograd.grad((logits * weighting).sum(), x)
    return logits.detach(), gradient


def assert_same_map(network: nn.Module, twin: FoldedTwin, images: Tensor, tolerance: float) -> None:
    for ours, reference in zip(responses(twin.module, images), responses(network, images), strict=True):
        assert (ours - reference).abs().max().item() <= tolerance * max(1.0, reference.abs().max().item())


def train_some(network: nn.Module, seed: int) -> None:
    """Two plain steps, which change weights and running statistics; back to eval mode."""
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for step in range(2):
        x = tiny.images(8, seed=10 * seed + step).to(next(network.parameters()).dtype)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), tiny.labels(8, seed)).backward()
        optimizer.step()
    network.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_twin_is_the_same_map_after_every_refresh(
    name: str, channels_last: bool, dtype: torch.dtype, tolerance: float
) -> None:
    network, images = tiny.built(NETWORKS[name]).to(dtype).eval(), tiny.images().to(dtype)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    twin = FoldedTwin(network)
    assert_same_map(network, twin, images, tolerance)
    for seed in range(3):
        train_some(network, seed)
        stale = twin.module(images)
        assert not torch.allclose(stale, network(images), rtol=1e-3, atol=1e-4)  # else a refresh has nothing to do
        twin.refresh()
        assert_same_map(network, twin, images, tolerance)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_that_is_not_folded_is_shared(name: str) -> None:
    network = build(NETWORKS[name])
    twin = FoldedTwin(network).module
    folded = {
        id(part) for module in network.modules() if hasattr(module, "folded_pairs")
        for pair in module.folded_pairs() for part in pair
    }  # fmt: skip
    assert folded
    for path, module in network.named_modules():
        if any(module.children()):
            continue
        counterpart = twin.get_submodule(path)
        if id(module) in folded:
            assert counterpart is not module
            assert isinstance(counterpart, nn.Identity if isinstance(module, nn.BatchNorm2d) else nn.Conv2d)
            assert not any(parameter.requires_grad for parameter in counterpart.parameters())
        else:
            assert counterpart is module


def test_refresh_leaves_the_network_as_it_is() -> None:
    network = tiny.built(NETWORKS["robust-narrow"]).train()
    before = copy.deepcopy(network.state_dict())
    twin = FoldedTwin(network)
    twin.refresh()
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


class Scaled(nn.Module):
    """A block of somebody else's: a parameter of its own, a convolution with a bias, dilated, padded by reflection."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.conv = nn.Conv2d(1, 4, 3, padding=2, dilation=2, padding_mode="reflect")
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale * self.bn(self.conv(x))).mean(dim=(2, 3))

    def folded_pairs(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        return [(self.conv, self.bn)]


def test_blocks_with_parameters_and_biases_of_their_own() -> None:
    block = Scaled().eval()
    with torch.no_grad():
        for values in (*block.parameters(), block.bn.running_mean):
            assert values is not None
            values.uniform_(0.5, 1.5, generator=tiny.generator())
    twin = FoldedTwin(block)
    assert_same_map(block, twin, tiny.images(), 1e-5)
    with torch.no_grad():
        block.scale.fill_(-3.0)
    assert_same_map(block, twin, tiny.images(), 1e-5)


@pytest.mark.parametrize("spec", [tiny.network(8), tiny.network(16, robust=True)], ids=["basic", "robust"])
def test_training_with_and_without_folding_agrees(spec: NetworkSpec) -> None:
    data = load_splits("digits", 64).train.subset(torch.arange(160))
    recipe = Recipe(epochs=2, batch_size=40, inner_steps=2, learning_rate=0.005, schedule="constant")
    initial = build(spec, tiny.generator())
    networks, losses = [], []
    for folded in (False, True):
        networks.append(copy.deepcopy(initial))
        losses.append(fit(networks[-1], data, recipe.but(folded=folded), 0.1, seed=0).losses)
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    start, plain, with_twin = (
        torch.cat([parameter.detach().reshape(-1) for parameter in network.parameters()])
        for network in (initial, *networks)
    )
    # not closer: where a gradient vanishes, rounding decides its sign
    assert (with_twin - plain).norm().item() < 0.25 * (plain - start).norm().item()


class Dropping(nn.Module):
    """A user's block that asks for its own mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(self.conv(images), 0.5, self.training).mean(dim=(2, 3))


def test_containers_of_the_twin_are_in_evaluation_mode_whatever_the_network_is_in() -> None:
    network = nn.Sequential(Dropping()).train()
    twin = FoldedTwin(network)
    assert network.training and network[0].training
    assert not twin.module.training and not twin.module[0].training
    images = torch.rand(2, 1, 6, 6, generator=tiny.generator())
    assert torch.equal(twin.module(images), twin.module(images))


def test_a_twin_of_a_network_whose_weights_are_masked() -> None:
    """As in the prune phase of HYDRA, where weights are computed anew from their scores."""
    network = tiny.built(tiny.network(8)).eval()
    put_scores(network, lambda weight: ScoredMask(weight, 0.3))
    network.eval()
    twin = FoldedTwin(network)
    assert_same_map(network, twin, tiny.images(), 1e-5)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("scores"):
                parameter.copy_(parameter.flip(0))
    twin.refresh()
    assert_same_map(network, twin, tiny.images(), 1e-5)
