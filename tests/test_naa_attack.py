"""NAA against closed forms: where the attribution is known, so is the attack."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import attack_entry, neuron_attribution_attack, run_attack
from rcnas_env.attacks.naa import attribution_weights, surrogate_layer
from tests.attack_samples import run, sample
from tests.trained_digits import EPS, trained_digits


def linear_layers(classes: int = 3, seed: int = 0) -> nn.Sequential:
    """f(x) = V M flatten(x), M (5, 16), V (classes, 5); M is the middle layer."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5, bias=False), nn.Linear(5, classes, bias=False))
    for layer in model[1:]:
        layer.weight.data.copy_(torch.randn(layer.weight.shape, generator=generator))
    return model.eval()


def random_images(count: int = 6, seed: int = 1) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("classes", [2, 3])
def test_attribution_of_linear_layers_is_its_formula(classes: int) -> None:
    model, images = linear_layers(classes), random_images()
    labels = torch.arange(6) % classes
    middle, head = model[1].weight.data, model[2].weight.data
    expected = torch.zeros(6, 5)
    for row, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        for m in range(1, 31):
            p = (head @ middle @ (m / 30 * image.flatten())).softmax(0)
            expected[row] += p[label] * (head[label] - p @ head) / 30  # ∂ p_y / ∂A = p_y Vᵀ(e_y − p)
    assert surrogate_layer(model) == (model, model[1])
    weights = attribution_weights(model, model[1], images, labels, 30)
    assert torch.allclose(weights, expected, atol=1e-6)

    # The gradient Mᵀ W does not depend on the image: ten steps against its sign end at the face of the ball.
    perturb = neuron_attribution_attack(0.1, classes)
    adversarial = perturb(model, images, labels, torch.Generator())
    moved = images - 0.1 * (expected @ middle).sign().view_as(images)
    assert torch.allclose(adversarial, moved.clamp(0, 1), atol=1e-6)


def test_attribution_is_complete_as_the_path_gets_finer() -> None:
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    images, labels = random_images(), torch.tensor([0, 1, 2, 3, 0, 1])
    with torch.no_grad():
        own = [model(x).softmax(1).gather(1, labels[:, None])[:, 0] for x in (images, torch.zeros_like(images))]
        features = model[1](model[0](images)) - model[1].bias
    errors = []
    for points in (10, 100, 1000):
        weights = attribution_weights(model, model[1], images, labels, points)
        errors.append(((features * weights).sum(1) - (own[0] - own[1])).abs().max().item())
    # The mean over right ends is of first order: ten times the points, a tenth of the error.
    assert errors[0] > 8 * errors[1] > 64 * errors[2] > 0 and errors[2] < 1e-3


class Wrapper(nn.Module):
    """Runs a copy of `network`, as a faster twin does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.copy = deepcopy(network)

    def forward(self, images: Tensor) -> Tensor:
        return self.copy(images)


def named(layer: object) -> nn.Sequential:
    """The linear layers with `layer`, or the one at that place, as their `middle_layer`."""
    model = linear_layers()
    object.__setattr__(model, "middle_layer", model[layer] if isinstance(layer, int) else layer)
    return model


def test_the_layer_is_the_named_one_also_behind_a_wrapper() -> None:
    model = named(2)
    assert surrogate_layer(model) == (model, model[2])
    wrapper = Wrapper(model)
    assert surrogate_layer(wrapper) == (model, model[2])
    images, labels = random_images(), torch.arange(6) % 3
    attack = attack_entry("naa").make(0.1, 3)
    plain, wrapped = (run_attack(attack, m, images, labels, seed=0, batch_size=4) for m in (model, wrapper))
    assert torch.equal(plain.adversarial, wrapped.adversarial)


def test_the_layer_without_a_name_is_in_the_middle() -> None:
    digits = trained_digits()
    assert surrogate_layer(digits) == (digits, digits[3])
    inside = nn.Sequential(digits)
    assert surrogate_layer(inside) == (inside, digits[3])
    leaf = nn.Flatten()
    assert surrogate_layer(leaf) == (leaf, leaf)


def test_a_layer_that_works_in_place_behind_it_does_not_change_the_attribution() -> None:
    images, labels = random_images(), torch.arange(6) % 3
    weights = []
    for inplace in (False, True):
        first, last = linear_layers()[1:]
        model = nn.Sequential(nn.Flatten(), first, nn.ReLU(inplace=inplace), last)
        weights.append(attribution_weights(model, first, images, labels, 5))
    assert torch.equal(*weights)


class Failing(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise KeyError("broken")


class Unused(nn.Module):
    """Has a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.middle_layer = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]


def test_no_hook_stays_also_after_an_exception() -> None:
    images, labels = random_images(), torch.arange(6) % 3
    attack = attack_entry("naa").make(0.1, 3)
    model = linear_layers()
    run_attack(attack, model, images, labels, seed=0, batch_size=4)
    assert hooks(model) == 0
    failing = nn.Sequential(nn.Flatten(), model[1], Failing())
    with pytest.raises(KeyError):
        attribution_weights(failing, model[1], images, labels, 3)
    assert hooks(failing) == 0


def test_layers_that_cannot_be_used() -> None:
    images, labels = random_images(), torch.arange(6) % 3
    attack = attack_entry("naa").make(0.1, 3)
    for model, problem in [
        (Unused(), "not called in a forward pass"),
        (named(nn.Identity()), "a module of the network, got Identity"),
        (named("layer1"), "a module of the network, got str"),
    ]:
        with pytest.raises(ValueError, match=f"middle_layer must be .*{problem}"):
            run_attack(attack, model, images, labels, seed=0, batch_size=4)
        assert hooks(model) == 0


@pytest.mark.parametrize("field", ["path_points", "steps"])
def test_bad_settings(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be"):
        neuron_attribution_attack(0.1, 3, **{field: 0})


@pytest.mark.parametrize("classes", [2, 3])
def test_colour_images_that_are_not_square_each_for_itself(classes: int) -> None:
    generator = torch.Generator().manual_seed(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32, classes))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / 2
    images, labels = torch.rand(5, 3, 6, 9, generator=generator), torch.arange(5) % classes
    attack = attack_entry("naa").make(0.1, classes)
    together = run_attack(attack, model, images, labels, seed=0, batch_size=5).adversarial
    alone = run_attack(attack, model, images, labels, seed=0, batch_size=1).adversarial
    assert (together - images).abs().max() <= 0.1 + 1e-6
    assert torch.allclose(together, alone, atol=1e-6)


def test_weaker_than_pgd_stronger_than_noise() -> None:
    images, labels = sample(200)
    left = {name: int(run(name, count=200, batch_size=100).robust.sum()) for name in ("naa", "pgd-20", "clean")}
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).sub(0.5).sign()
    noisy = (images + EPS * noise).clamp(0, 1)
    noisy_left = int((trained_digits()(noisy).argmax(1) == labels).sum())
    assert left["pgd-20"] - 3 <= left["naa"] < noisy_left - 10 < left["clean"]
