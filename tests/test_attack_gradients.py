"""The gradient attacks against plain loops and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnas_env.attacks import (
    attack_entry,
    run_attack,
)
from rcnas_env.attacks.gradient import margins
from tests.attack_samples import linear_model, make, run, sample
from tests.trained_digits import EPS, trained_digits


def ascend(loss: str, steps: int, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """PGD-K and CW-K of shared/attacks.md as a plain loop, the loss image by image."""
    model = trained_digits()
    uniform = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed))
    current = torch.clamp(images + (2 * uniform - 1) * EPS, 0, 1)
    for _ in range(steps):
        current = current.clone().requires_grad_()
        logits = model(current)
        total = torch.zeros(())
        for row, label in zip(logits, labels.tolist(), strict=True):
            if loss == "ce":
                total = total - row.log_softmax(0)[label]
            else:
                rivals = torch.stack([z for i, z in enumerate(row) if i != label])
                total = total - torch.relu(row[label] - rivals.max())
        (gradient,) = torch.autograd.grad(total, current)
        current = current.detach() + EPS / 10 * torch.sign(gradient)
        current = torch.max(torch.min(current, images + EPS), images - EPS)
        current = torch.clamp(current, 0, 1)
    return current


@pytest.mark.parametrize(("name", "loss", "steps"), [("pgd-20", "ce", 20), ("pgd-3", "ce", 3), ("cw-40", "cw", 40)])
def test_iterated_attacks_are_the_plain_loop(name: str, loss: str, steps: int) -> None:
    images, labels = sample(32)
    expected = ascend(loss, steps, images, labels, seed=7)
    result = run_attack(make(name), trained_digits(), images, labels, seed=7, batch_size=32)
    # A gradient entry at rounding level may take the other sign: then a pixel is off by a step, but nearly none is.
    assert ((result.adversarial - expected).abs() > 1e-6).float().mean() < 1e-3
    assert torch.equal(result.robust, result.clean_correct & (trained_digits()(expected).argmax(1) == labels))


def test_fgsm_is_its_formula() -> None:
    images, labels = sample(32)
    inputs = images.clone().requires_grad_()
    F.cross_entropy(trained_digits()(inputs), labels).backward()
    trained_digits().zero_grad()
    expected = (images + EPS * inputs.grad.sign()).clamp(0, 1)
    assert torch.equal(run("fgsm", count=32).adversarial, expected)


def test_fgsm_on_a_linear_model_is_optimal() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 16, generator=generator)
    images = 0.3 + 0.4 * torch.rand(10, 1, 4, 4, generator=generator)
    labels = torch.randint(0, 2, (10,), generator=generator)
    attack = attack_entry("fgsm").make(0.1, 2)
    result = run_attack(attack, linear_model(weight), images, labels, seed=0, batch_size=4)
    logits = linear_model(weight)(images), linear_model(weight)(result.adversarial)
    before, after = (margins(z.detach(), labels) for z in logits)
    assert torch.allclose(before - after, 0.1 * (weight[0] - weight[1]).abs().sum().expand(10), atol=1e-5)


def test_margin_attack_stops_where_an_image_is_wrong() -> None:
    # f = (x, 1 - x) of one pixel: image 0.62 of label 0 is broken below 0.5, in steps of 0.02 from its random start.
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    model[1].weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    model[1].bias.data.copy_(torch.tensor([0.0, 1.0]))
    images, labels = torch.full((50, 1, 1, 1), 0.62), torch.zeros(50, dtype=torch.int64)
    result = run_attack(attack_entry("cw-40").make(0.2, 2), model, images, labels, seed=0, batch_size=50)
    start = 0.62 + 0.2 * (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) - 1)
    expected = torch.where(start < 0.5, start, start - 0.02 * torch.floor((start - 0.5) / 0.02 + 1))
    assert torch.allclose(result.adversarial, expected, atol=1e-5)
    assert not result.robust.any() and result.clean_correct.all()


def test_margins() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0]])
    assert margins(logits, torch.tensor([0, 2])).tolist() == [1.0, -6.0]
