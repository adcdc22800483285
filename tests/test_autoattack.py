"""AutoAttack against its reference implementation (pyautoattack, the authors' code), sample by sample."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import Attack, AttackResult, attack_entry, attack_guard, autoattack_components, run_attack
from tests.attack_samples import Counting
from tests.trained_digits import EPS, Exact, digits, trained_digits

pyautoattack = pytest.importorskip("pyautoattack", reason="the reference, a development dependency")
torch.set_num_threads(1)

SEED = 11
APGD, FAB, SQUARE = 30, 10, 300
"""Iterations and queries of the tests that are not slow: three of APGD's checkpoints, and Square's squares shrink."""


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
    assert 2 <= robust.sum() <= len(labels) - 2  # neither trivial nor hopeless, or agreement would show nothing


def shortened(eps: float, classes: int = 10) -> Attack:
    """AutoAttack with 30 of APGD's and APGD-T's 100 iterations, 10 of FAB-T's, 300 of Square's 5,000 queries."""
    apgd, fab = (autoattack_components(eps, classes, iterations=i, square_queries=SQUARE) for i in (APGD, FAB))
    return replace(attack_entry("autoattack").make(eps, classes), components=(*apgd[:2], fab[2], apgd[3]))


def shorten(attack: Any) -> None:
    """Give the reference as many iterations and queries as `shortened` has."""
    for apgd in (attack.apgd, attack.apgd_targeted):
        apgd.n_iter = APGD
        # the reference plans its checkpoints when it is made, for the iterations that it has then
        apgd.n_iter_2, apgd.n_iter_min, apgd.size_decr = (max(int(s * APGD), 1) for s in (0.22, 0.06, 0.03))
    attack.fab.n_iter, attack.square.n_queries = FAB, SQUARE


def test_agrees_with_the_reference() -> None:
    (images, labels), model = sample(60), trained_digits()
    attack = reference(model, 0.15, version="standard")
    shorten(attack)
    expected = run_reference(attack, images, labels, batch_size=64)
    result = run_attack(shortened(0.15), model, images, labels, seed=SEED, batch_size=64)
    check_agreement(result, expected, model, labels)


@pytest.mark.slow
@pytest.mark.parametrize("eps", [0.15, 0.2])
def test_agrees_with_the_reference_in_full(eps: float) -> None:
    (images, labels), model = sample(200), trained_digits()
    expected = run_reference(reference(model, eps, version="standard"), images, labels, batch_size=128)
    attack = attack_entry("autoattack").make(eps, 10)
    check_agreement(run_attack(attack, model, images, labels, seed=SEED, batch_size=128), expected, model, labels)


def random_network() -> nn.Module:
    """A network of random weights on 3-channel images of 6 × 6, 5 classes; its own verdicts are the labels."""
    generator = torch.Generator().manual_seed(0)
    model = Exact(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.3, generator=generator)
    return model.eval()


def check_component(name: str, model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> None:
    # Alone, so that those which rarely break what is left are put to the test too.
    attack = reference(model, eps, version="custom", attacks=[name])
    classes = model(images[:1]).shape[1]
    shorten(attack)
    attack.apgd.n_restarts = 1
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
    expected = run_reference(attack, images, labels, batch_size=64)
    component = next(c for c in shortened(eps, classes).components if c.name == name)
    alone = replace(shortened(eps, classes), components=(component,), alarms=False)
    result = run_attack(alone, model, images, labels, seed=SEED, batch_size=64)
    check_agreement(result, expected, model, labels)
    assert torch.equal(result.adversarial[result.robust], images[result.robust])


@pytest.mark.parametrize("eps", [0.1, 0.2])
@pytest.mark.parametrize("name", ["apgd-ce", "fab-t", "square"])
def test_each_component_agrees_with_the_reference(name: str, eps: float) -> None:
    check_component(name, trained_digits(), *sample(48), eps)


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_each_component_agrees_on_colour_and_random_weights(name: str) -> None:
    model, images = random_network(), torch.rand(48, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    check_component(name, model, images, model(images).argmax(1), 0.03)


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_auto_lite_is_the_reference_without_fab_and_square(full: bool) -> None:
    (images, labels), model = sample(32), trained_digits()
    attack = reference(model, EPS, version="custom", attacks=["apgd-ce", "apgd-t"])
    lite = attack_entry("auto-lite").make(EPS, 10)
    assert [component.name for component in lite.components] == ["apgd-ce", "apgd-t"]
    if not full:
        shorten(attack)
        lite = replace(lite, components=shortened(EPS).components[:2])
    attack.apgd.n_restarts = 1
    expected = run_reference(attack, images, labels, batch_size=64)
    check_agreement(run_attack(lite, model, images, labels, seed=SEED, batch_size=64), expected, model, labels)


@pytest.mark.parametrize("name", ["autoattack", "auto-lite"])
def test_needs_four_classes(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.* at least 4 classes, got 3"):
        attack_entry(name).make(EPS, 3)


@pytest.mark.parametrize("index", range(4))
def test_a_batch_of_one_and_a_batch_all_wrong(index: int) -> None:
    (images, labels), model = sample(12), trained_digits()
    component = shortened(0.3).components[index]
    with attack_guard(model, 0, "cpu"):
        wrong = (model(images).argmax(1) + 1) % 10
        assert torch.equal(component.perturb(model, images, wrong, torch.Generator()), images)
        one = component.perturb(model, images[:1], labels[:1], torch.Generator())
        assert one.shape == (1, 1, 8, 8) and model(one).argmax(1) != labels[:1]
        assert (one - images[:1]).abs().max() <= 0.3 + 1e-6


def test_runs_without_torchattacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)  # Python's own way to say: not importable
    images, labels = sample(8)
    assert not run_attack(shortened(0.4), trained_digits(), images, labels, seed=0, batch_size=8).robust.all()


@pytest.mark.parametrize("shape", [(4, 12), (12, 4), (5, 7)])
def test_square_agrees_with_the_reference_on_images_that_are_not_square(shape: tuple[int, int]) -> None:
    eps, generator = 0.12, torch.Generator().manual_seed(0)
    model = Exact(nn.Flatten(), nn.Linear(3 * shape[0] * shape[1], 6))
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


SAVED = {"apgd-ce": 0, "apgd-t": 9, "fab-t": 27}
"""Passes an image that the reference spends on knowing the clean logits again, once or three times a target."""


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-t", "fab-t", "square"])
def test_spends_the_forward_passes_of_the_reference_less_those_known(name: str) -> None:
    # With a radius that breaks nothing every iteration, target and query is spent: their numbers cannot differ unseen.
    (images, labels), eps = sample(3), 1e-4
    model = Counting(trained_digits()).eval()
    attack = reference(model, eps, version="standard")
    shorten(attack)
    attack.fab.targeted = True
    theirs = {"apgd-ce": attack.apgd, "apgd-t": attack.apgd_targeted, "fab-t": attack.fab, "square": attack.square}
    component = next(c for c in shortened(eps).components if c.name == name)
    counts = []
    for perturb in (theirs[name].perturb, lambda x, y: component.perturb(model, x, y, torch.Generator())):
        model.images = 0
        with attack_guard(model, 0, "cpu"):
            perturb(images, labels)
        counts.append(model.images)
    assert counts[0] > 3 * APGD
    if name == "square":  # moves whose answer is known are not asked again
        assert 3 * 30 < counts[1] < counts[0] / 2
    else:
        assert counts[0] - counts[1] == 3 * SAVED[name]


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
