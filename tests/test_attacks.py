"""The contract of every attack: its bounds, its guard, its seed, its verdicts; known orderings."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import (
    attack_entry,
    attack_guard,
    autoattack_components,
    run_attack,
    validate_attack,
)
from tests.attack_samples import every_attack, linear_model, make, run, same, sample
from tests.trained_digits import EPS, trained_digits


@every_attack
@pytest.mark.parametrize("channels", [1, 3])
def test_stays_in_the_ball_and_its_verdicts_are_those_of_its_images(name: str, channels: int) -> None:
    images, labels = sample(channels=channels)
    result = run(name, channels=channels)
    assert result.adversarial.shape == images.shape and result.adversarial.dtype == torch.float32
    assert (result.adversarial - images).abs().max() <= EPS + 1e-6
    assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1
    model = trained_digits(channels)
    assert torch.equal(result.clean_correct, model(images).argmax(1) == labels)
    assert torch.equal(result.robust, result.clean_correct & (model(result.adversarial).argmax(1) == labels))
    assert result.clean_correct.any()


@every_attack
def test_leaves_model_and_random_streams_as_found(name: str) -> None:
    model = deepcopy(trained_digits())
    model.train()
    model[1].eval()  # a mixed tree: one batch norm frozen
    model[3].weight.requires_grad_(False)
    gradient = torch.ones_like(model[0].weight)
    model[0].weight.grad = gradient
    flags = [module.training for module in model.modules()]
    state = deepcopy(model.state_dict())
    streams = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002

    images, labels = sample()
    inputs = images.clone(), labels.clone()
    run_attack(make(name), model, images, labels, seed=1, batch_size=16)

    assert torch.equal(inputs[0], images) and torch.equal(inputs[1], labels)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [p is not model[3].weight for p in model.parameters()]
    assert model[0].weight.grad is gradient and torch.equal(gradient, torch.ones_like(gradient))
    assert all(p.grad is None for p in model.parameters() if p is not model[0].weight)
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert np.array_equal(np.random.get_state()[1], streams[1]) and random.getstate() == streams[2]  # noqa: NPY002


@every_attack
def test_depends_on_its_seed_alone(name: str) -> None:
    first = run(name)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        with torch.inference_mode():
            assert same(first, run(name))
        model = deepcopy(trained_digits()).train()
        with torch.no_grad():
            assert same(first, run_attack(make(name), model, *sample(), seed=5, batch_size=16))


@pytest.mark.parametrize("name", ["pgd-3", "cw-3"])
def test_another_seed_is_another_start(name: str) -> None:
    images, labels = sample()
    results = [run_attack(make(name), trained_digits(), images, labels, seed=s, batch_size=16) for s in (0, 1)]
    assert not torch.equal(results[0].adversarial, results[1].adversarial)


@every_attack
def test_one_image_and_none(name: str) -> None:
    assert run(name, count=1).adversarial.shape == (1, 1, 8, 8)
    result = run(name, count=0)
    assert result.adversarial.shape == (0, 1, 8, 8)
    assert result.robust.shape == result.clean_correct.shape == (0,) and result.robust.dtype == torch.bool
    assert make(name)(trained_digits(), *sample(0), torch.Generator()).shape == (0, 1, 8, 8)


@every_attack
def test_every_image_wrong_already(name: str) -> None:
    images, labels = sample()
    labels = (trained_digits()(images).argmax(1) + 1) % 10
    result = run_attack(make(name), trained_digits(), images, labels, seed=0, batch_size=16)
    assert not result.clean_correct.any() and not result.robust.any()
    if not attack_entry(name).perturb_wrong:
        assert torch.equal(result.adversarial, images)


@every_attack
def test_no_radius_no_change(name: str) -> None:
    result = run(name, eps=0.0)
    assert torch.equal(result.adversarial, sample()[0]) and torch.equal(result.robust, result.clean_correct)


@every_attack
def test_bare_call_is_one_batch_of_the_guarded_run(name: str) -> None:
    images, labels = sample(16)
    with attack_guard(trained_digits(), 5, "cpu"):
        bare = make(name)(trained_digits(), images, labels, torch.Generator().manual_seed(5))
    assert torch.equal(bare, run(name, count=16, batch_size=16).adversarial)


class NotANumberFromHalf(nn.Module):
    """Logits of the trained network, all NaN, and their gradients too, where the first pixel is 0.5 or more."""

    def __init__(self) -> None:
        super().__init__()
        self.network = trained_digits()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images) * torch.where(images[:, 0, 0, 0] >= 0.5, float("nan"), 1.0)[:, None]


def nan_within_reach() -> tuple[Tensor, Tensor]:
    """Images of NaN logits at even places, at odd places of finite logits but with NaN in the ball."""
    images = sample()[0].clone()
    images[::2, 0, 0, 0], images[1::2, 0, 0, 0] = 1.0, 0.48
    # Label 0 is where argmax finds a row of NaN.
    return images, torch.where(torch.arange(24) % 2 == 0, 0, trained_digits()(images).argmax(1))


@every_attack
def test_nan_logits_are_not_robust(name: str) -> None:
    result = run_attack(make(name), NotANumberFromHalf(), *nan_within_reach(), seed=0, batch_size=16)
    assert not result.clean_correct[::2].any() and not result.robust[::2].any()
    assert result.clean_correct[1::2].all()
    assert result.adversarial.isfinite().all()


@pytest.mark.parametrize("index", range(4))
def test_components_of_autoattack_meet_nan(index: int) -> None:
    component = autoattack_components(EPS, 10, iterations=20, square_queries=50)[index]
    attack = replace(make("autoattack"), components=(component,), alarms=False)
    result = run_attack(attack, NotANumberFromHalf(), *nan_within_reach(), seed=0, batch_size=16)
    assert result.adversarial.isfinite().all() and not result.robust[::2].any()


@every_attack
def test_channels_last_model_and_images(name: str) -> None:
    model = deepcopy(trained_digits(3)).to(memory_format=torch.channels_last)
    images, labels = sample(channels=3)
    images = images.to(memory_format=torch.channels_last)
    result = run_attack(make(name), model, images, labels, seed=0, batch_size=16)
    assert (result.adversarial - images).abs().max() <= EPS + 1e-6


@every_attack
def test_too_few_classes(name: str) -> None:
    minimum = attack_entry(name).minimum_classes
    validate_attack(name, minimum)
    for check in (lambda n: validate_attack(name, n), lambda n: attack_entry(name).make(EPS, n)):
        with pytest.raises(ValueError, match=f"{minimum - 1} classes|classes must be"):
            check(minimum - 1)


@pytest.mark.parametrize("classes", [4, 5])
def test_autoattack_on_few_classes(classes: int) -> None:
    weight = torch.randn(classes, 16, generator=torch.Generator().manual_seed(0))
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = linear_model(weight)(images).argmax(1)
    attack = make("autoattack", eps=0.02, classes=classes)
    result = run_attack(attack, linear_model(weight), images, labels, seed=0, batch_size=20)
    # On a linear model the best L_inf attack is known: each margin falls by eps · ‖w_y − w_i‖₁ (here no pixel clips
    # so far as to matter for the survivors), so whoever survives that must survive AutoAttack.
    logits = images.flatten(1) @ weight.T
    reach = 0.02 * (weight[labels][:, None] - weight[None]).abs().sum(-1)
    gaps = (logits.gather(1, labels[:, None]) - logits - reach).scatter(1, labels[:, None], float("inf"))
    certified = gaps.min(1).values > 1e-5
    assert result.robust[certified].all() and certified.any()
    assert result.robust.sum() < 20


def test_stronger_attacks_leave_fewer() -> None:
    images, labels = sample(200)
    counts = [
        int(run_attack(make(name), trained_digits(), images, labels, seed=0, batch_size=100).robust.sum())
        for name in ("autoattack", "pgd-20", "fgsm", "clean")
    ]
    assert counts == sorted(counts) and len(set(counts)) == 4
    assert counts[0] > 0 and counts[-1] > 180
