"""Auto-PGD against the authors' code (pyautoattack) and against what the paper says of it."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import attack_guard
from rcnas_env.attacks.apgd import Ascent, ascend, checkpoints, cross_entropy, random_start, targeted_dlr
from tests.trained_digits import EPS, digits, trained_digits

torch.set_num_threads(1)


def sample(count: int) -> tuple[Tensor, Tensor]:
    """Images that the trained network classifies correctly."""
    _, _, images, labels = digits()
    right = trained_digits()(images).argmax(1) == labels
    return images[right][:count], labels[right][:count]


def runner_up(model: nn.Module, images: Tensor) -> Tensor:
    return model(images).sort(dim=1).indices[:, -2].detach()


def climb(name: str, images: Tensor, labels: Tensor, eps: float, iterations: int = 100, seed: int = 3) -> Ascent:
    model = trained_digits()
    start = random_start(images, eps, torch.Generator().manual_seed(seed))
    loss, targets = (cross_entropy, labels) if name == "ce" else (targeted_dlr, runner_up(model, images))
    with attack_guard(model, 0, "cpu"):
        return ascend(model, images, labels, targets, start, eps, iterations, loss)


def reference_climb(name: str, images: Tensor, labels: Tensor, eps: float, iterations: int = 100) -> tuple[Any, ...]:
    base = pytest.importorskip("pyautoattack.autopgd_base", reason="the reference, a development dependency")
    kind = base.APGDAttack if name == "ce" else base.APGDAttack_targeted
    model = trained_digits()
    attack = kind(model, eps=eps, n_iter=iterations, device="cpu", logger=logging.getLogger("apgd"))
    attack.init_hyperparam(images)
    attack.y_target = runner_up(model, images)
    with attack_guard(model, 3, "cpu"):  # seeds the stream that the reference draws its start from
        return attack.attack_single_run(images.clone(), labels)


@pytest.mark.parametrize("name", ["ce", "dlr"])
@pytest.mark.parametrize("eps", [0.1, EPS])
def test_every_path_is_the_references(name: str, eps: float) -> None:
    images, labels = sample(96)
    ours = climb(name, images, labels, eps)
    _, correct, loss, _ = reference_climb(name, images, labels, eps)
    assert torch.equal(ours.broken, ~correct.bool())
    stands = ~ours.broken
    assert 10 < stands.sum() < 96
    # 100 steps, each of which follows from the sign of a gradient: one step of other size or place would show here.
    assert torch.allclose(ours.best_loss[stands], loss[stands], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("iterations", [1, 2, 5, 17])
def test_short_runs_are_the_references_too(iterations: int) -> None:
    images, labels = sample(40)
    ours = climb("ce", images, labels, EPS, iterations)
    _, correct, loss, _ = reference_climb("ce", images, labels, EPS, iterations)
    assert torch.equal(ours.broken, ~correct.bool())
    assert torch.allclose(ours.best_loss[~ours.broken], loss[~ours.broken], rtol=1e-5, atol=1e-6)


def test_broken_images_leave_without_a_trace() -> None:
    images, labels = sample(96)
    model, start = trained_digits(), random_start(images, EPS, torch.Generator().manual_seed(0))
    with attack_guard(model, 0, "cpu"):
        together = ascend(model, images, labels, labels, start, EPS, 60, cross_entropy)
        stands = ~together.broken
        alone = ascend(model, images[stands], labels[stands], labels[stands], start[stands], EPS, 60, cross_entropy)
    assert not alone.broken.any() and 0 < stands.sum() < 96
    assert torch.allclose(together.best_loss[stands], alone.best_loss, rtol=1e-4, atol=1e-6)


def test_points_mislead_inside_the_ball_and_the_rest_stay_clean() -> None:
    images, labels = sample(64)
    ascent = climb("dlr", images, labels, EPS)
    wrong = trained_digits()(ascent.points).argmax(1) != labels
    assert torch.equal(wrong, ascent.broken) and wrong.any() and not wrong.all()
    assert torch.equal(ascent.points[~wrong], images[~wrong])
    assert (ascent.points - images).abs().max() <= EPS + 1e-6
    assert ascent.points.min() >= 0 and ascent.points.max() <= 1


def test_the_best_loss_is_never_below_the_starts() -> None:
    images, labels = sample(30)
    start = random_start(images, 0.05, torch.Generator().manual_seed(1))
    model = trained_digits()
    at_start = cross_entropy(model(start), labels, labels).detach()
    climbed = climb("ce", images, labels, 0.05, seed=1)
    stands = ~climbed.broken
    assert stands.sum() > 5
    assert (climbed.best_loss[stands] >= at_start[stands]).all()
    assert (climbed.best_loss[stands] > at_start[stands]).float().mean() > 0.9


def test_on_a_linear_model_the_corner_of_the_ball_is_found() -> None:
    generator = torch.Generator().manual_seed(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    model[1].weight.data.normal_(generator=generator)
    model[1].bias.data.copy_(torch.tensor([50.0, 0.0, 0.0, 0.0]))  # never misled
    images = 0.3 + 0.4 * torch.rand(5, 1, 3, 4, generator=generator)
    labels, targets = torch.zeros(5, dtype=torch.long), torch.tensor([1, 2, 3, 1, 2])

    def gap(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)

    start = random_start(images, 0.1, generator)
    ascent = ascend(model, images, labels, targets, start, 0.1, 100, gap)
    slope = model[1].weight[targets] - model[1].weight[labels]
    highest = gap(model(images), labels, targets) + 0.1 * slope.abs().sum(1)
    assert torch.allclose(ascent.best_loss, highest.detach(), atol=1e-4)


@pytest.mark.parametrize("iterations", [100, 200, 1000])
def test_checkpoints_follow_the_papers_recursion(iterations: int) -> None:
    # p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), reviews at ⌈p_j · N⌉ (section 3.1).
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    expected = [math.ceil(round(share * iterations, 6)) for share in shares[1:] if share <= 1]
    assert list(checkpoints(iterations)) == expected
    if iterations == 100:
        assert checkpoints(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}


def test_targeted_dlr_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 3.0, 2.0, 0.0]])
    # z_y = 4, z_t = 1; the highest is 4, the third and fourth 2 and 1.
    value = targeted_dlr(logits, torch.tensor([0]), torch.tensor([1]))
    assert value.item() == pytest.approx(-(4.0 - 1.0) / (4.0 - 0.5 * (2.0 + 1.0)))
    assert torch.allclose(targeted_dlr(3 * logits + 7, torch.tensor([0]), torch.tensor([1])), value)  # its invariance


def test_start_reaches_the_balls_surface_and_is_the_seeds() -> None:
    images = torch.full((6, 3, 4, 5), 0.5)
    start = random_start(images, 0.1, torch.Generator().manual_seed(0))
    assert torch.allclose((start - images).abs().flatten(1).amax(1), torch.tensor(0.1))
    assert torch.equal(start, random_start(images, 0.1, torch.Generator().manual_seed(0)))
    assert not torch.equal(start, random_start(images, 0.1, torch.Generator().manual_seed(1)))
