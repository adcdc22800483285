"""The guard, the run, the alarms and the catalogue of attacks."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import (
    Attack,
    AttackWarning,
    Component,
    attack_entry,
    attack_guard,
    known_attacks,
    register_attack,
    register_iterated_attack,
    run_attack,
)
from rcnas_env.attacks.alarms import warn_if_black_box_wins
from rcnas_env.registry import UnknownNameError
from tests.attack_samples import BUILT_IN, make, run, sample
from tests.trained_digits import EPS, trained_digits


def test_guard_restores_after_an_exception() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    state = torch.get_rng_state()
    with pytest.raises(KeyError), attack_guard(model, 3, "cpu"):
        assert not model.training and not model[1].training and not model[0].weight.requires_grad
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        raise KeyError
    assert model.training and model[1].training and model[0].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_guard_restores_gradients_that_an_attack_drops() -> None:
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    gradient = model.weight.grad
    assert gradient is not None
    before = gradient.clone()
    with attack_guard(model, 3, "cpu"):
        model.zero_grad()
    assert model.weight.grad is gradient and torch.equal(gradient, before)


def test_guard_seeds_all_streams() -> None:
    def draw() -> tuple[float, float, float]:
        with attack_guard(nn.Identity(), 2**63 - 1, "cpu"):
            return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002

    assert draw() == draw()


def one_component(perturb: object, perturb_wrong: bool = True) -> Attack:
    return Attack("mine", EPS, 10, (Component("mine", perturb),), perturb_wrong=perturb_wrong)


@pytest.mark.parametrize(
    ("perturb", "problem"),
    [
        (lambda m, x, y, g: x + EPS + 1e-4, "within eps"),
        (lambda m, x, y, g: x - 0.1, r"in \[0, 1\]"),
        (lambda m, x, y, g: x * float("nan"), "off by nan"),
        (lambda m, x, y, g: x[:, :, :4], "shape"),
    ],
)
@pytest.mark.parametrize("perturb_wrong", [True, False])
def test_an_attack_that_breaks_its_bounds_is_an_error(perturb: object, problem: str, perturb_wrong: bool) -> None:
    with pytest.raises(ValueError, match=problem):
        run_attack(one_component(perturb, perturb_wrong), trained_digits(), *sample(), seed=0, batch_size=8)


def test_rounding_beyond_the_ball_is_projected() -> None:
    result = run_attack(
        one_component(lambda m, x, y, g: x + torch.where(x > 0.5, -EPS - 5e-7, EPS + 5e-7)),
        trained_digits(),
        *sample(),
        seed=0,
        batch_size=8,
    )
    images, _ = sample()
    expected = torch.where(images > 0.5, images - EPS, images + EPS)
    assert torch.equal(result.adversarial, expected)


def test_survivors_are_regrouped_into_full_batches_and_failures_come_back_clean() -> None:
    images, labels = sample(24)
    sizes: list[list[int]] = [[], []]

    def noting(index: int, perturb: object) -> object:
        def perturbation(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
            sizes[index].append(len(x))
            return perturb(model, x, y, generator)

        return perturbation

    strong = attack_entry("pgd-20").make(EPS, 10).components[0].perturb
    components = (Component("weak", noting(0, strong)), Component("idle", noting(1, lambda m, x, y, g: x.clone())))
    attack = Attack("two", EPS, 10, components, perturb_wrong=False)
    result = run_attack(attack, trained_digits(), images, labels, seed=0, batch_size=5)
    correct, standing = int(result.clean_correct.sum()), int(result.robust.sum())
    assert 0 < standing < correct
    for count, seen in zip((correct, standing), sizes, strict=True):
        assert seen == [5] * (count // 5) + [count % 5] * (count % 5 > 0)
    changed = (result.adversarial != images).flatten(1).any(1)
    assert torch.equal(changed, result.clean_correct & ~result.robust)


def test_the_judge_says_which_images_stand() -> None:
    """What misleads only the implementation that is attacked goes on to the next component, and counts as robust."""
    images, labels = sample()
    network, seen = trained_digits(), list[int]()

    class Misled(nn.Module):
        """The network, which gives the wrong answer to images with a mark."""

        def forward(self, x: Tensor) -> Tensor:
            logits = network(x)
            return torch.where((x[:, 0, 0, :1] == 0.5), -logits, logits)

    def mark(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        marked = x.clone()
        marked[:, 0, 0, 0] = 0.5
        return marked

    def count(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(len(x))
        return x.clone()

    attack = Attack("mine", 1.0, 10, (Component("mark", mark), Component("count", count)), perturb_wrong=False)
    alone = run_attack(attack, Misled(), images, labels, seed=0, batch_size=100)
    assert not alone.robust.any() and seen == []
    judged = run_attack(attack, Misled(), images, labels, seed=0, batch_size=100, judge=network)
    marked = mark(network, images, labels, torch.Generator())
    stand = judged.clean_correct & (network(marked).argmax(1) == labels)
    assert seen == [int(stand.sum())] and torch.equal(judged.robust, stand) and stand.any()


def test_an_ensemble_cannot_perturb_wrong_images_too() -> None:
    component = Component("idle", lambda m, x, y, g: x)
    with pytest.raises(ValueError, match="perturb_wrong"):
        Attack("two", EPS, 10, (component, component))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"images": torch.zeros(2, 8, 8)}, "images"),
        ({"images": torch.zeros(2, 1, 8, 8, dtype=torch.float64)}, "images"),
        ({"images": torch.full((2, 1, 8, 8), 1.5)}, r"images must be in \[0, 1\]"),
        ({"images": torch.full((2, 1, 8, 8), float("nan"))}, r"images must be in \[0, 1\]"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels"),
        ({"labels": torch.zeros(2)}, "labels"),
        ({"labels": torch.tensor([0, 10])}, r"labels must be in \[0, 10\)"),
        ({"labels": torch.tensor([-1, 0])}, r"labels must be in \[0, 10\)"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"attack": attack_entry("fgsm").make(EPS, 12)}, "model must return 12 logits"),
    ],
)
def test_bad_arguments(change: dict[str, object], field: str) -> None:
    arguments = {"images": torch.zeros(2, 1, 8, 8), "labels": torch.zeros(2, dtype=torch.int64), "seed": 0}
    arguments |= {"attack": make("fgsm"), "model": trained_digits(), "batch_size": 8} | change
    with pytest.raises(ValueError, match=field):
        run_attack(**arguments)


# --- alarms ---------------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Adds noise to the trained network's logits, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.network = trained_digits()

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return logits + 0.01 * torch.randn_like(logits)


class Flat(nn.Module):
    """The trained network on images rounded to full or no brightness: right, but without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.network = trained_digits()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.round())


@pytest.mark.parametrize(
    ("model", "sign"),
    [(Noisy, "random"), (lambda: nn.Sequential(trained_digits(), nn.Softmax(1)), "probabilities"), (Flat, "gradient")],
)
def test_alarms(model: object, sign: str) -> None:
    with pytest.warns(AttackWarning, match=sign) as caught:
        run_attack(make("autoattack"), model(), *sample(), seed=0, batch_size=24)
    assert len([w for w in caught if sign in str(w.message)]) == 1


def test_no_alarm_on_a_sound_model() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("autoattack")


def test_alarm_where_the_black_box_wins() -> None:
    with pytest.warns(AttackWarning, match="square broke 3 of 100"):
        warn_if_black_box_wins({"apgd-ce": 40, "square": 3}, ["square"], 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_black_box_wins({"apgd-ce": 40, "square": 2}, ["square"], 100)
        warn_if_black_box_wins({"apgd-ce": 40, "square": 20}, ["square"], 10_000)
        warn_if_black_box_wins({"apgd-ce": 40}, ["square"], 100)


# --- the catalogue --------------------------------------------------------------------------------------------------


def test_known_attacks() -> None:
    assert known_attacks()[: len(BUILT_IN)] == BUILT_IN
    for name in BUILT_IN:
        assert attack_entry(name).name == name and attack_entry(name).summary
    assert {name for name in BUILT_IN if not attack_entry(name).perturb_wrong} == {"autoattack"}


@pytest.mark.parametrize("name", ["pgd-1", "pgd-7", "pgd-1000", "cw-1", "cw-1000"])
def test_iterated_names(name: str) -> None:
    assert attack_entry(name).make(EPS, 10).name == name


@pytest.mark.parametrize("name", ["pgd-0", "pgd-1001", "cw-007", "cw-99999999999999999999999", "pgd-" + "9" * 5000])
def test_steps_out_of_range(name: str) -> None:
    with pytest.raises(ValueError, match="attack must be .* from 1 to 1000"):
        attack_entry(name)


@pytest.mark.parametrize(
    ("name", "nearest"), [("pgd", "pgd-K"), ("PGD-20", "pgd-20"), ("autoatack", "autoattack"), ("fgsn", "fgsm")]
)
def test_unknown_names_have_a_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown attack '{name}'; known: .*Did you mean '{nearest}'"):
        attack_entry(name)


@pytest.mark.parametrize("name", ["", "pgd-", "pgd--1", "pgd-1.5", "pgd-2٣", "cw", "-", None, 3, "pgd-20\n"])
def test_names_that_are_none(name: object) -> None:
    with pytest.raises(UnknownNameError, match="unknown attack"):
        attack_entry(name)


@pytest.mark.parametrize("eps", [-0.1, 1.1, float("nan"), "0.1", None])
def test_bad_radius(eps: object) -> None:
    with pytest.raises(ValueError, match="eps must be"):
        attack_entry("fgsm").make(eps, 10)


def test_add_an_attack_in_a_few_lines() -> None:
    def brighten(eps: float, classes: int) -> object:
        return lambda model, images, labels, generator: (images + eps).clamp(max=1.0)

    register_attack("test_brighten", brighten, summary="all pixels up")
    images, _ = sample()
    assert "test_brighten" in known_attacks()
    assert torch.equal(run("test_brighten").adversarial, (images + EPS).clamp(max=1.0))
    with pytest.raises(ValueError, match="registered already"):
        register_attack("test_brighten", brighten)
    with pytest.raises(ValueError, match="registered already"):
        register_attack("pgd-30", brighten)
    with pytest.raises(ValueError, match="registered already"):
        register_iterated_attack("pgd", lambda eps, classes, steps: brighten(eps, classes), canonical_steps=1)


def test_iterated_attacks_of_any_name_are_found() -> None:
    def still(eps: float, classes: int, steps: int) -> object:
        return lambda model, images, labels, generator: images.clone()

    register_iterated_attack("test-MI_fgsm", still, canonical_steps=10)
    assert attack_entry("test-MI_fgsm-10").name == "test-MI_fgsm-10" and "test-MI_fgsm-10" in known_attacks()
    assert attack_entry("test-MI_fgsm-3").make(EPS, 10).name == "test-MI_fgsm-3"
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="canonical_steps must be an integer from 1 to 1000"):
            register_iterated_attack("test-never", still, canonical_steps=steps)


def test_one_component_is_an_attack() -> None:
    component = Component("test-still", lambda model, images, labels, generator: images.clone())
    register_attack("test-lone", lambda eps, classes: component)
    assert attack_entry("test-lone").make(EPS, 10).components == (component,)


def test_no_attack_needs_torchattacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)  # Python's own way to say: not importable
    assert run("autoattack", count=4).adversarial.shape == (4, 1, 8, 8)


def test_looking_an_attack_up_imports_no_package_of_attacks() -> None:
    code = (
        "import sys; from rcnas_env.attacks import validate_attack; validate_attack('autoattack', 10).make(.1, 10);"
        "assert not {'torchattacks', 'optuna', 'foolbox'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
