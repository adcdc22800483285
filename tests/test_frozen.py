"""Frozen networks against the networks they are of."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec
from rcnas_env.networks.frozen import FrozenNetwork, FrozenTwin, freeze
from rcnas_env.networks.frozen.elementwise import mask_, relu_
from rcnas_env.training.fit import Trainer
from rcnas_env.training.recipe import Recipe
from tests import tiny

STAGES = st.builds(
    StageSpec,
    depth=st.integers(1, 2),
    planes=st.sampled_from([16, 24, 32, 80]),
    downsample=st.booleans(),
    robust=st.booleans(),
)
SPECS = st.builds(
    NetworkSpec,
    stages=st.tuples(STAGES, STAGES, STAGES),
    stem=st.builds(StemSpec, channels=st.sampled_from([8, 16, 64]), stride=st.integers(1, 2)),
    input=st.just((1, 8, 8)),
)
MIXED = NetworkSpec(
    (StageSpec(2, 16, robust=True), StageSpec(2, 32, downsample=True), StageSpec(2, 80, downsample=True, robust=True)),
    input=(1, 8, 8),
)


def responses(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of a weighted sum of them with respect to the images."""
    x = images.detach().clone().requires_grad_()
    logits = model(x)
    weighting = torch.linspace(-1, 1, logits.numel()).view_as(logits).to(logits.dtype)
    (gradient,) = torch.autograd.grad((logits * weighting).sum(), x)
    return logits.detach(), gradient


def assert_same_map(frozen: nn.Module, network: nn.Module, images: Tensor, tolerance: float) -> None:
    for ours, reference in zip(responses(frozen, images), responses(network, images), strict=True):
        assert ours.shape == reference.shape
        error = (ours.double() - reference.double()).abs().max().item()
        assert error <= tolerance * max(1e-3, reference.abs().max().item())


@settings(deadline=None, max_examples=25)
@given(spec=SPECS, height=st.sampled_from([5, 8]), width=st.sampled_from([3, 8]))
def test_every_network_frozen_is_the_same_map(spec: NetworkSpec, height: int, width: int) -> None:
    network = tiny.built(spec).double().eval()
    images = torch.rand(3, 1, height, width, generator=tiny.generator(), dtype=torch.float64)
    for pixels_first in (False, True):
        frozen = FrozenNetwork(network, torch.float64, pixels_first)  # type: ignore[arg-type]
        assert_same_map(frozen, network, images, 1e-6)  # logits leave as float32
    # In float32 a unit whose input is all but 0 may be on in one and off in the other: a few pixels' gradients differ.
    logits, gradient = responses(FrozenNetwork(network.float()), images.float())  # type: ignore[arg-type]
    reference, reference_gradient = responses(network, images.float())
    assert (logits - reference).abs().max() <= 1e-3 * max(1e-3, reference.abs().max().item())
    assert (gradient - reference_gradient).norm() <= 0.05 * reference_gradient.norm()


def test_gradients_are_those_of_finite_differences() -> None:
    network = tiny.built(MIXED).double().eval()
    frozen = FrozenNetwork(network, torch.float64)  # type: ignore[arg-type]
    images = torch.rand(1, 1, 8, 8, generator=tiny.generator(), dtype=torch.float64)
    _, gradient = responses(frozen, images)
    weighting = torch.linspace(-1, 1, 10, dtype=torch.float64)
    for row, column in itertools.product((0, 3, 7), (1, 4)):
        ends = []
        for sign in (1, -1):
            moved = images.clone()
            moved[0, 0, row, column] += sign * 1e-6
            ends.append((network(moved)[0] @ weighting).item())
        assert gradient[0, 0, row, column].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("planes", [16, 32, 64, 128])
def test_robust_blocks_scale_by_scale(planes: int) -> None:
    # narrow on small maps: matrix products, in float32 where tiny; wide ones: convolutions
    stages = (StageSpec(2, planes, robust=True), *(StageSpec(2, planes, downsample=True, robust=True),) * 2)
    network = tiny.built(NetworkSpec(stages, input=(1, 8, 8))).eval()
    images = tiny.images(16)
    bf16 = FrozenNetwork(network, torch.bfloat16)  # type: ignore[arg-type]
    logits, reference = responses(bf16, images)[0], responses(network, images)[0]
    assert (logits - reference).norm() <= 0.05 * reference.norm()
    exact = FrozenNetwork(network.double(), torch.float64, pixels_first=True)  # type: ignore[arg-type]
    assert_same_map(exact, network, images.double(), 1e-6)


@pytest.mark.parametrize("depth", [1, 2])
def test_one_image_on_maps_of_one_pixel(depth: int) -> None:
    # There every layout is every other one: what is taken apart must be a copy all the same.
    stages = (StageSpec(depth, 16), *(StageSpec(depth, 32, downsample=True, robust=True),) * 2)
    network = tiny.built(NetworkSpec(stages, input=(1, 4, 4))).double().eval()
    for size in (1, 4):
        images = torch.rand(1, 1, size, size, generator=tiny.generator(), dtype=torch.float64)
        frozen = FrozenNetwork(network, torch.float64, pixels_first=True)  # type: ignore[arg-type]
        assert_same_map(frozen, network, images, 1e-6)


def test_autocast_does_not_reach_into_a_frozen_network() -> None:
    network, images = tiny.built(MIXED).eval(), tiny.images(16)
    for dtype in (torch.float32, torch.bfloat16):
        frozen = FrozenNetwork(network, dtype)  # type: ignore[arg-type]
        alone = responses(frozen, images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            frozen.refresh()
            inside = responses(frozen, images)
        assert all(torch.equal(left, right) for left, right in zip(alone, inside, strict=True))


def test_bfloat16_relu_and_its_gradient_are_torchs_to_the_bit() -> None:
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    finite = patterns[~patterns.isnan()].view(1, 1, 1, -1)
    y = relu_(finite.clone())
    assert torch.equal(y, finite.relu()) and not y.signbit().any()
    gradient = finite.flip(3)
    expected = torch.where(y > 0, gradient, torch.zeros_like(gradient))
    assert torch.equal(mask_(gradient.clone(), y), expected)


def test_refresh_takes_over_the_present_weights() -> None:
    network, images = tiny.built(MIXED).eval(), tiny.images()
    frozen = freeze(network)
    assert isinstance(frozen, FrozenNetwork) and frozen.network is network
    assert_same_map(frozen, network, images, 1e-3)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():  # the batch norms' counters are not
                value.mul_(1.1)
    stale = frozen(images)
    assert not torch.allclose(stale, network(images), rtol=1e-3)
    frozen.refresh()
    assert_same_map(frozen, network, images, 1e-3)


def test_a_frozen_network_leaves_its_network_alone() -> None:
    network = tiny.built(MIXED).train()
    before = copy.deepcopy(network.state_dict())
    frozen = freeze(network)
    responses(frozen, tiny.images())
    frozen.eval()
    frozen.refresh()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert not list(frozen.parameters()) and not list(frozen.children())


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    frozen = freeze(tiny.built(MIXED).eval())
    images = tiny.images()
    assert not frozen(images).requires_grad
    with torch.no_grad():
        assert not frozen(images.requires_grad_()).requires_grad
    assert frozen(images).requires_grad


def test_two_passes_may_be_under_way_at_once() -> None:
    frozen = freeze(tiny.built(MIXED).eval())
    first, second = (tiny.images(seed=seed).requires_grad_() for seed in (1, 2))
    alone = torch.autograd.grad(frozen(first).sum(), first)[0]
    one, other = frozen(first), frozen(second)
    other.sum().backward()
    one.sum().backward(retain_graph=True)
    assert first.grad is not None and torch.equal(first.grad, alone)
    one.sum().backward()
    assert torch.equal(first.grad, 2 * alone)


def test_bf16_is_the_same_map_coarsely() -> None:
    network, images = tiny.built(MIXED).eval(), tiny.images(32)
    logits, gradient = responses(FrozenNetwork(network, torch.bfloat16), images)  # type: ignore[arg-type]
    reference, reference_gradient = responses(network, images)
    assert logits.dtype == torch.float32 and gradient.dtype == torch.float32
    assert (logits - reference).norm() <= 0.03 * reference.norm()
    assert 0 < (gradient - reference_gradient).norm() <= 0.3 * reference_gradient.norm()


def test_a_training_step_freezes_the_present_weights() -> None:
    network = tiny.built(tiny.network(8))
    recipe = Recipe(inner_steps=2, learning_rate=0.5)
    trainer, plain = (
        Trainer(model, recipe.but(folded=folded), 0.1, tiny.generator())
        for model, folded in ((network, True), (copy.deepcopy(network), False))
    )
    for seed in range(3):
        images, labels = tiny.images(32, seed), tiny.labels(32, seed)
        perturbed, reference = trainer.perturb(images, labels), plain.perturb(images, labels)
        # where a gradient vanishes, rounding decides its sign
        assert (perturbed - reference).abs().gt(1e-5).float().mean().item() < 0.02
        trainer.step(images, labels)
        plain.model.load_state_dict(network.state_dict())
        plain.generator.set_state(trainer.generator.get_state())


class Linear(nn.Module):
    """A network of somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1))


def test_other_networks_have_a_twin() -> None:
    network = Linear().eval()
    frozen = freeze(network)
    assert isinstance(frozen, FrozenTwin) and frozen.network is network and not list(frozen.parameters())
    assert_same_map(frozen, network, tiny.images(), 1e-6)
    with torch.no_grad():
        network.layer.weight.mul_(2)
    frozen.refresh()
    assert_same_map(frozen, network, tiny.images(), 1e-6)
