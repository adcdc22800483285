"""FAB-T: its projection against linear programming and the authors' code, its points against the boundary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from rcnas_env.attacks import attack_guard
from rcnas_env.attacks.fab import approach, project
from tests.trained_digits import EPS, digits, trained_digits

torch.set_num_threads(1)


def problem(count: int, size: int, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, size, generator=generator).mul_(1.2).sub_(0.1).clamp_(0, 1)  # some at the borders
    normal = torch.randn(count, size, generator=generator)
    normal[:, ::5] = 0.0
    return points, normal, scale * torch.randn(count, generator=generator)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_projection_is_the_linear_programs(size: int, scale: float) -> None:
    points, normal, excess = problem(12, size, size, scale)
    points, normal, excess = points.double(), normal.double(), excess.double()
    moves = project(points, normal, excess)
    assert (points + moves).min() >= -1e-12 and (points + moves).max() <= 1 + 1e-12
    for x, w, e, move in zip(points, normal, excess, moves, strict=True):
        # min r such that |d_i| ≤ r, 0 ≤ x + d ≤ 1 and w·d = −e.
        cost = [0.0] * size + [1.0]
        eye, one = np.eye(size), np.ones((size, 1))
        within = np.block([[eye, -one], [-eye, -one]])
        bounds = [(-float(v), 1 - float(v)) for v in x] + [(0, None)]
        plane = [[*w.tolist(), 0.0]]
        best = linprog(cost, A_ub=within, b_ub=[0.0] * (2 * size), A_eq=plane, b_eq=[-float(e)], bounds=bounds)
        if best.status == 0:
            assert float((w * move).sum()) == pytest.approx(-float(e), abs=1e-9)
            assert float(move.abs().max()) == pytest.approx(best.fun, abs=1e-7)
        else:  # the box does not reach the plane: as far as it goes
            assert best.status == 2
            corner = torch.where(w * e > 0, -x, 1 - x) * (w != 0)
            assert torch.allclose(move, corner)


def test_projection_without_borders_is_the_dual_norm() -> None:
    normal, excess = torch.randn(9, 30, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 9)
    moves = project(torch.full((9, 30), 0.5), normal, excess)
    assert torch.allclose(moves.abs().amax(1), excess.abs() / normal.abs().sum(1), atol=1e-6)


@pytest.mark.parametrize("size", [5, 64, 768])
def test_projection_agrees_with_the_reference(size: int) -> None:
    projections = pytest.importorskip("pyautoattack.fab_projections", reason="the reference")
    points, normal, excess = problem(200, size, 1, scale=size**0.5)
    offset = (normal * points).sum(1) - excess
    expected = projections.projection_linf(points, normal, offset)
    assert torch.allclose(project(points, normal, excess), expected, atol=2e-5)
    stacked = project(torch.stack((points, points)), normal, torch.stack((excess, -excess)))
    assert torch.equal(stacked[0], project(points, normal, excess))


def test_projection_of_no_normal_moves_nothing() -> None:
    assert torch.equal(project(torch.rand(2, 3), torch.zeros(2, 3), torch.tensor([1.0, 0.0])), torch.zeros(2, 3))


@pytest.mark.parametrize("eps", [0.1, EPS, 0.25])
def test_one_target_breaks_what_the_reference_breaks(eps: float) -> None:
    fab = pytest.importorskip("pyautoattack.fab_pt", reason="the reference, a development dependency")
    _, _, images, labels = digits()
    model = trained_digits()
    right = model(images).argmax(1) == labels
    images, labels = images[right][:80], labels[right][:80]
    reference = fab.FABAttack_PT(model, n_restarts=1, n_iter=40, eps=eps, norm="Linf", device="cpu", targeted=True)
    reference.target_class = 2
    with attack_guard(model, 0, "cpu"):
        theirs = reference.attack_single_run(images, labels, is_targeted=True)
        targets = model(images).sort(dim=1).indices[:, -2]
        points, broken = approach(model, images, labels, targets, eps, 40)
    near = (theirs - images).abs().flatten(1).amax(1) <= eps
    expected = near & (model(theirs).argmax(1) != labels)
    assert torch.equal(broken, expected)
    assert 5 < broken.sum() < 75
    assert torch.equal(model(points).argmax(1) != labels, broken)
    assert torch.equal(points[~broken], images[~broken])
    assert (points - images).abs().max() <= eps


def test_on_a_linear_model_the_exact_distance_decides() -> None:
    generator = torch.Generator().manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 4, bias=False))
    model[1].weight.data.normal_(generator=generator)
    images = 0.4 + 0.2 * torch.rand(60, 1, 4, 5, generator=generator)
    logits = model(images).detach()
    ranked = logits.sort(dim=1).indices
    labels, targets = ranked[:, -1], ranked[:, -2]
    slope = (model[1].weight[labels] - model[1].weight[targets]).detach().abs().sum(1)
    gap = logits.gather(1, labels[:, None]) - logits.gather(1, targets[:, None])
    distance = gap.squeeze(1) / slope  # no border is near
    eps = float(distance.median())
    _, broken = approach(model, images, labels, targets, eps, 30)
    clear = distance > eps * 1.001
    others = ranked[:, :-2]
    steepest = (model[1].weight[labels][:, None] - model[1].weight[others]).detach().abs().sum(2)
    gaps = logits.gather(1, labels[:, None]) - logits.gather(1, others)
    alone = (gaps / steepest).amin(1) > eps  # no third class within reach
    assert broken[distance < eps * 0.93].all()  # it lands up to 5 % beyond the boundary
    assert not broken[clear & alone].any() and (clear & alone).any()
