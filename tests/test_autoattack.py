"""AutoAttack against its reference implementation (pyautoattack, the authors' code), sample by sample."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import Attack, AttackResult, attack_entry, attack_guard, autoattack_components, run_attack
from tests.trained_digits import EPS, digits, trained_digits

pyautoattack = pytest.importorskip("pyautoattack", reason="the reference, a development dependency")
torch.set_num_threads(1)

SEED = 11


def sample(count: int) -> tuple[Tensor, Tensor]:
    _, _, images, labels = digits()
    return images[:count], labels[:count]


def reference(model: nn.Module, eps: float, **options: Any) -> Any:
    return pyautoattack.AutoAttack(model, norm="Linf", eps=eps, seed=SEED, device="cpu", **options)


def run_reference(attack: Any, images: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    with attack_guard(attack.model, 0, "cpu"):  # the reference seeds the global stream and leaves gradients behind
        return attack.run_standard_evaluation(images, labels, batch_size=batch_size)[0].detach()


def check_agreement(result: AttackResult, expected: Tensor, model: nn.Module, labels: Tensor) -> None:
    robust = model(expected).argmax(1) == labels  # an image that is wrong already comes back clean
    assert torch.equal(result.robust, robust), f"{int((result.robust != robust).sum())} of {len(labels)} differ"
    assert 0.1 < robust.float().mean() < 0.9  # neither trivial nor hopeless, or agreement would show nothing


def shortened(eps: float) -> Attack:
    """AutoAttack with 20 of FAB-T's 100 iterations and 500 of Square's 5,000 queries; APGD and APGD-T in full."""
    full, short = (autoattack_components(eps, 10, iterations=i, square_queries=500) for i in (100, 20))
    return replace(attack_entry("autoattack").make(eps, 10), components=(*full[:2], short[2], full[3]))


def test_agrees_with_the_reference() -> None:
    (images, labels), model = sample(80), trained_digits()
    attack = reference(model, 0.15, version="standard")
    attack.fab.n_iter, attack.square.n_queries = 20, 500
    expected = run_reference(attack, images, labels, batch_size=64)
    result = run_attack(shortened(0.15), model, images, labels, seed=SEED, batch_size=64)
    check_agreement(result, expected, model, labels)
    assert torch.allclose(result.adversarial, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.15, 0.2])
def test_agrees_with_the_reference_in_full(eps: float) -> None:
    (images, labels), model = sample(200), trained_digits()
    expected = run_reference(reference(model, eps, version="standard"), images, labels, batch_size=128)
    attack = attack_entry("autoattack").make(eps, 10)
    check_agreement(run_attack(attack, model, images, labels, seed=SEED, batch_size=128), expected, model, labels)


@pytest.mark.parametrize("name", ["apgd-ce", "fab-t", "square"])
def test_each_component_agrees_with_the_reference(name: str) -> None:
    # Alone, so that those which rarely break what is left are put to the test too.
    (images, labels), model = sample(64), trained_digits()
    attack = reference(model, EPS, version="custom", attacks=[name])
    attack.apgd.n_restarts, attack.fab.n_iter, attack.square.n_queries = 1, 20, 500
    expected = run_reference(attack, images, labels, batch_size=64)
    component = next(c for c in shortened(EPS).components if c.name == name)
    alone = replace(shortened(EPS), components=(component,), alarms=False)
    result = run_attack(alone, model, images, labels, seed=SEED, batch_size=64)
    check_agreement(result, expected, model, labels)
    assert torch.allclose(result.adversarial, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 12), (12, 4), (5, 7)])
def test_square_agrees_with_the_reference_on_images_that_are_not_square(shape: tuple[int, int]) -> None:
    eps, generator = 0.12, torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * shape[0] * shape[1], 6))
    model[1].weight.data.normal_(generator=generator)
    model[1].bias.data.zero_()
    images = torch.rand(40, 3, *shape, generator=generator)
    labels = model(images).argmax(1).detach()
    attack = reference(model, eps, version="custom", attacks=["square"])
    attack.square.n_queries = 60
    expected = run_reference(attack, images, labels, batch_size=40)
    square = autoattack_components(eps, 6, square_queries=60)[3]
    alone = replace(attack_entry("autoattack").make(eps, 6), components=(square,), alarms=False)
    result = run_attack(alone, model, images, labels, seed=SEED, batch_size=40)
    check_agreement(result, expected, model, labels)
    assert torch.allclose(result.adversarial, expected, atol=1e-6)


class Counting(nn.Module):
    """Counts the images that pass through a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.images = network, 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.network(images)


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_spends_as_many_forward_passes_as_the_reference(name: str) -> None:
    # With a radius that breaks nothing every iteration, target and query is spent: their numbers cannot differ unseen.
    (images, labels), eps = sample(3), 1e-4
    model = Counting(trained_digits()).eval()
    attack = reference(model, eps, version="standard")
    attack.fab.n_iter, attack.fab.targeted, attack.square.n_queries = 20, True, 500
    theirs = {"apgd-ce": attack.apgd, "apgd-t": attack.apgd_targeted, "fab-t": attack.fab, "square": attack.square}
    component = next(c for c in shortened(eps).components if c.name == name)
    counts = []
    for perturb in (theirs[name].perturb, lambda x, y: component.perturb(model, x, y, torch.Generator())):
        model.images = 0
        with attack_guard(model, 0, "cpu"):
            perturb(images, labels)
        counts.append(model.images)
    assert counts[0] == counts[1] > 3 * 100


def test_components_in_order_and_the_seed_decides() -> None:
    (images, labels), model = sample(32), trained_digits()
    assert [c.name for c in attack_entry("autoattack").make(EPS, 10).components] == [
        "apgd-ce",
        "apgd-t",
        "fab-t",
        "square",
    ]
    square = replace(shortened(EPS), components=shortened(EPS).components[3:], alarms=False)
    first, again, other = (run_attack(square, model, images, labels, seed=s, batch_size=32) for s in (1, 1, 2))
    assert torch.equal(first.adversarial, again.adversarial)
    assert not torch.equal(first.adversarial, other.adversarial)
