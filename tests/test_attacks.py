"""Contract of every attack, gradient attacks against plain loops, the guard, the alarms, the catalogue."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rcnas_env.attacks import (
    Attack,
    AttackResult,
    AttackWarning,
    Component,
    attack_entry,
    attack_guard,
    autoattack_components,
    known_attacks,
    register_attack,
    register_iterated_attack,
    run_attack,
    validate_attack,
)
from rcnas_env.attacks.alarms import warn_if_black_box_wins
from rcnas_env.attacks.gradient import margins
from rcnas_env.registry import UnknownNameError
from tests.trained_digits import EPS, digits, trained_digits

torch.set_num_threads(1)

BUILT_IN = ("clean", "fgsm", "pgd-20", "cw-40", "autoattack")
every_attack = pytest.mark.parametrize("name", known_attacks())


def make(name: str, eps: float = EPS, classes: int = 10) -> Attack:
    """The attack; AutoAttack with all its components, but few steps of each."""
    attack = attack_entry(name).make(eps, classes)
    if name == "autoattack":
        attack = replace(attack, components=autoattack_components(eps, classes, iterations=5, square_queries=50))
    return attack


def sample(count: int = 24, channels: int = 1) -> tuple[Tensor, Tensor]:
    _, _, images, labels = digits(channels)
    return images[:count], labels[:count]


def run(name: str, count: int = 24, channels: int = 1, eps: float = EPS, batch_size: int = 16) -> AttackResult:
    images, labels = sample(count, channels)
    return run_attack(make(name, eps), trained_digits(channels), images, labels, seed=5, batch_size=batch_size)


def same(left: AttackResult, right: AttackResult) -> bool:
    return all(torch.equal(getattr(left, f), getattr(right, f)) for f in ("adversarial", "clean_correct", "robust"))


def linear_model(weight: Tensor) -> nn.Sequential:
    """f(x) = W · flatten(x), W (classes, features)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data.copy_(weight)
    return nn.Sequential(nn.Flatten(), layer)


# --- every attack ---------------------------------------------------------------------------------------------------


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
        with torch.no_grad():
            assert same(first, run(name))
    model = deepcopy(trained_digits()).train()
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


# --- the gradient attacks -------------------------------------------------------------------------------------------


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


# --- guard and run --------------------------------------------------------------------------------------------------


def test_guard_restores_after_an_exception() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    state = torch.get_rng_state()
    with pytest.raises(KeyError), attack_guard(model, 3, "cpu"):
        assert not model.training and not model[1].training and not model[0].weight.requires_grad
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        raise KeyError
    assert model.training and model[1].training and model[0].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


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


def test_looking_an_attack_up_does_not_import_torchattacks() -> None:
    code = (
        "import sys; from rcnas_env.attacks import validate_attack; validate_attack('autoattack', 10).make(.1, 10);"
        "assert 'torchattacks' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_torchattacks_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)  # Python's own way to say: not importable
    with pytest.raises(ImportError, match="pip install --no-deps torchattacks"):
        run("autoattack")
