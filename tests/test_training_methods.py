"""Every training method's loss against its definition, written out one image and one class at a time in float64."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.registry import UnknownNameError
from rcnas_env.training.mart import mart_loss
from rcnas_env.training.method import INNER_TARGETS, STARTS, known_methods, method_entry, register_method
from tests import tiny

METHODS = known_methods()
ROOT = Path(__file__).resolve().parent.parent


def softmax(logits: Tensor) -> list[float]:
    exponentials = [math.exp(z - max(logits.tolist())) for z in logits.tolist()]
    return [e / sum(exponentials) for e in exponentials]


def reference_trades(p: list[float], q: list[float], y: int, beta: float) -> float:
    return -math.log(p[y]) + beta * sum(p[k] * math.log(p[k] / q[k]) for k in range(len(p)))


def reference_mart(p: list[float], q: list[float], y: int, beta: float) -> float:
    wrong = max(q[k] for k in range(len(q)) if k != y)
    boosted = -math.log(q[y]) - math.log(1.0001 - wrong + 1e-12)
    divergence = sum(p[k] * (math.log(p[k]) - math.log(q[k] + 1e-12)) for k in range(len(p)))
    return boosted + beta * divergence * (1.0000001 - p[y])


REFERENCES: dict[str, Callable[[list[float], list[float], int, float], float]] = {
    "trades": reference_trades,
    "mart": reference_mart,
    "sat": lambda p, q, y, beta: -math.log(q[y]),
    "clean": lambda p, q, y, beta: -math.log(p[y]),
}


def batch(seed: int = 0, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """(clean logits, perturbed logits, labels) of eight images and five classes."""
    draws = tiny.generator(seed)
    clean, perturbed = (scale * torch.randn(8, 5, generator=draws, dtype=torch.float64) for _ in range(2))
    return clean.to(dtype), perturbed.to(dtype), torch.randint(5, (8,), generator=draws)


def value(name: str, clean: Tensor, perturbed: Tensor, labels: Tensor, beta: float) -> Tensor:
    """The loss of method `name`, given the logits that it says it needs and no others."""
    method = method_entry(name)
    return method.loss(
        clean if method.needs_clean_logits else None,
        perturbed if method.needs_perturbed_logits else None,
        labels,
        beta,
    )


def test_the_methods_are_the_published_ones() -> None:
    facts = {name: (m := method_entry(name)) and (m.inner_target, m.start) for name in METHODS}
    assert facts["trades"] == ("clean prediction", "gaussian")
    assert facts["mart"] == ("label", "gaussian")
    assert facts["sat"] == ("label", "uniform")
    assert facts["clean"][0] is None
    assert set(facts) == set(REFERENCES)


@pytest.mark.parametrize("name", METHODS)
def test_entries_keep_their_contract(name: str) -> None:
    method = method_entry(name)
    assert method.name == name and method.summary and "\n" not in method.summary
    assert method.inner_target in (None, *INNER_TARGETS) and method.start in STARTS
    assert method.needs_perturbed_logits == (method.inner_target is not None)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("scale", [0.1, 2.0, 8.0])
def test_loss_is_the_definition(name: str, beta: float, scale: float) -> None:
    clean, perturbed, labels = batch(scale=scale)
    images = zip(clean, perturbed, labels.tolist(), strict=True)
    expected = [REFERENCES[name](softmax(z), softmax(z_adv), y, beta) for z, z_adv, y in images]
    loss = value(name, clean, perturbed, labels, beta)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-10)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_finite_differences(name: str) -> None:
    clean, perturbed, labels = batch()
    clean.requires_grad_()
    perturbed.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, z_adv: value(name, z, z_adv, labels, 6.0), (clean, perturbed))


@pytest.mark.parametrize("name", METHODS)
def test_gradients_of_weights_are_finite_differences(name: str) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 5)).double()
    names = [key for key, _ in model.named_parameters()]
    draws = tiny.generator(1)
    weights = [torch.randn(p.shape, generator=draws, dtype=torch.float64) for p in model.parameters()]
    x, x_adv, labels = batch(seed=2, scale=1.0)

    def loss(*values: Tensor) -> Tensor:
        parameters = dict(zip(names, values, strict=True))
        clean, perturbed = (torch.func.functional_call(model, parameters, (images,)) for images in (x, x_adv))
        return value(name, clean, perturbed, labels, 6.0)

    assert torch.autograd.gradcheck(loss, [weight.requires_grad_() for weight in weights])


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [30.0, 200.0, 1e4])
def test_saturated_predictions_give_finite_losses_and_gradients(name: str, size: float) -> None:
    one_hot = size * torch.eye(3)
    clean, perturbed = one_hot.repeat_interleave(3, 0).requires_grad_(), one_hot.repeat(3, 1).requires_grad_()
    for label in range(3):  # every pair of predictions with every label
        loss = value(name, clean, perturbed, torch.full((9,), label), 6.0)
        gradients = torch.autograd.grad(loss, (clean, perturbed), allow_unused=True)
        assert math.isfinite(loss.item())
        assert all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)


def test_mart_of_certain_predictions_in_closed_form() -> None:
    right, wrong, label = torch.tensor([[100.0, 0.0, 0.0]]), torch.tensor([[0.0, 100.0, 0.0]]), torch.tensor([0])
    certain = mart_loss(right, right, label, 6.0)
    assert certain.item() == pytest.approx(-math.log(1.0001), abs=1e-6)
    turned = mart_loss(wrong, wrong, label, 6.0)  # −log p_y, −log(1.0001 − 1), no divergence
    assert turned.item() == pytest.approx(100.0 - math.log(0.0001), abs=0.02)  # 1.0001 − 1 has four digits in float32
    moved = mart_loss(wrong.double(), right.double(), label, 6.0)  # misclassified, so its divergence counts in full
    assert moved.item() == pytest.approx(-math.log(1.0001) - 6.0 * 1.0000001 * math.log(1e-12), rel=1e-9)


def test_mart_weighs_the_divergence_by_the_doubt_in_the_label() -> None:
    _, perturbed, labels = batch()
    spread = []
    for confidence in (0.0, 3.0):
        clean = confidence * nn.functional.one_hot(labels, 5).double()
        p = clean.softmax(1)
        divergence = (p * (p.log() - (perturbed.softmax(1) + 1e-12).log())).sum(1)
        term = mart_loss(clean, perturbed, labels, 1.0) - mart_loss(clean, perturbed, labels, 0.0)
        assert term.item() == pytest.approx(
            (divergence * (1.0000001 - p.gather(1, labels[:, None])[:, 0])).mean().item()
        )
        spread.append((term / divergence.mean()).item())
    assert spread[1] < 0.5 * spread[0]


def test_equal_wrong_classes_are_one_largest() -> None:
    logits, label = torch.zeros(1, 4, dtype=torch.float64), torch.tensor([2])
    assert mart_loss(logits, logits, label, 6.0).item() == pytest.approx(math.log(4) - math.log(0.7501), abs=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_float32_is_float64_to_rounding(name: str) -> None:
    single, double = batch(dtype=torch.float32), batch()
    assert value(name, *single, 6.0).item() == pytest.approx(value(name, *double, 6.0).item(), rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_missing_logits_are_named(name: str) -> None:
    clean, perturbed, labels = batch()
    method = method_entry(name)
    if method.needs_clean_logits:
        with pytest.raises(ValueError, match="^clean_logits must be .*, got None$"):
            method.loss(None, perturbed, labels, 1.0)
    if method.needs_perturbed_logits:
        with pytest.raises(ValueError, match="^perturbed_logits must be .*, got None$"):
            method.loss(clean, None, labels, 1.0)


def test_unknown_and_taken_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown training method 'trade'.*Did you mean 'trades'"):
        method_entry("trade")
    with pytest.raises(ValueError, match="'sat' is registered already"):
        register_method(method_entry("sat"))
    assert known_methods() == METHODS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner_target": "logits"}, "^method.inner_target must be one of"),
        ({"start": "zero"}, "^method.start must be one of"),
        ({"needs_clean_logits": False, "needs_perturbed_logits": False}, "got false for both$"),
        ({"inner_target": None}, "^method.needs_perturbed_logits must be false"),
    ],
)
def test_contradictory_methods_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(method_entry("trades"), **changes)


def test_looking_a_method_up_imports_no_torch() -> None:
    program = (
        "import sys; from rcnas_env.training.method import known_methods, method_entry; "
        "[method_entry(name) for name in known_methods()]; print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True).strip() == "False"
