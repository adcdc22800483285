"""The substitute-guided boundary attack: its substitute, its queries, and how near it comes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import attack_entry, autoattack_components, run_attack, substitute_guided_boundary
from rcnas_env.attacks.boundary import MEMORY, BoundaryPursuit, Substitute
from rcnas_env.attacks.decisions import Decisions
from tests.attack_samples import linear_model, sample
from tests.trained_digits import EPS, trained_digits


class Counting(nn.Module):
    """`network`; what went through it, and what came out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.images: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.images.append(images)
        return self.network(images)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def half_space() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """(a linear model of two classes, its normal, images, their classes); the grey image is on the boundary."""
    weight = torch.randn(2, 64, generator=stream(2))
    weight -= weight.mean(dim=1, keepdim=True)
    images = 0.35 + 0.3 * torch.rand(8, 1, 8, 8, generator=stream(3))
    model = linear_model(weight)
    return model, weight[1] - weight[0], images, model(images).argmax(1)


def pursuit(queries: int, eps: float = EPS, count: int = 8) -> BoundaryPursuit:
    images, labels = sample(count)
    return BoundaryPursuit(Decisions(trained_digits(), labels, queries), images, 10, eps, stream())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6), (1, 1, 1), (3, 5, 9)])
def test_the_substitute_takes_any_shape_and_is_drawn_from_its_generator(shape: tuple[int, int, int]) -> None:
    state = torch.get_rng_state()
    first, again, other = (Substitute(shape, 3, stream(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first(torch.rand(2, *shape, generator=stream())).shape == (2, 3)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert [torch.equal(a, c) for a, _, c in pairs] == [False, True, False, True, False, True]  # biases are 0


def test_the_substitute_learns_what_the_model_answers() -> None:
    chase = pursuit(200)
    chase._explore(100)
    points, classes = chase._points[: chase._written], chase._classes[: chase._written]
    assert chase._written == 8 + 8 * 100  # the clean images, and all that was asked
    assert torch.equal(trained_digits()(points).argmax(1), classes)
    before = (chase._substitute(points).argmax(1) == classes).float().mean()
    chase._refit(200)
    after = (chase._substitute(points).argmax(1) == classes).float().mean()
    assert after > 0.9 and after > before + 0.2


def test_the_memory_keeps_the_newest() -> None:
    chase = pursuit(1)
    size = len(chase._points)
    assert size == 16 and len(pursuit(5000)._points) == MEMORY
    for value in range(3):
        chase._remember(torch.full((7, 1, 8, 8), value / 10), torch.full((7,), value))
    assert chase._classes.sort().values.tolist() == [0] * 2 + [1] * 7 + [2] * 7
    assert torch.allclose(chase._points[:, 0, 0, 0], chase._classes / 10)
    chase._remember(torch.zeros(40, 1, 8, 8), torch.arange(40) % 10)
    assert chase._classes.sort().values.tolist() == sorted(each % 10 for each in range(24, 40))


@pytest.mark.parametrize("queries", [1, 30, 90])
def test_no_image_asks_more_than_its_budget(queries: int) -> None:
    images, labels = sample(4)
    model = Counting(trained_digits())
    decisions = Decisions(model, labels, queries)
    BoundaryPursuit(decisions, images, 10, 1e-6, stream()).run(queries // 10)  # within 1e-6 there is nothing
    assert (decisions.left == 0).all() and sum(map(len, model.images)) == 4 * queries
    (component,) = substitute_guided_boundary(EPS, 10, queries=queries)
    model = Counting(trained_digits())
    component.perturb(model, images[:1], labels[:1], stream())
    assert 0 < sum(map(len, model.images)) <= queries


def test_its_points_are_the_nearest_adversarial_ones_that_it_asked_about() -> None:
    images, labels = sample(1)
    model = Counting(trained_digits())
    chase = BoundaryPursuit(Decisions(model, labels, 200), images, 10, 1e-6, stream())
    chase.run(20)
    asked = torch.cat(model.images)
    wrong = trained_digits()(asked).argmax(1) != labels
    nearest = (asked[wrong] - images).abs().flatten(1).amax(1).min()
    assert wrong.any() and torch.equal(chase.distances, nearest[None])
    assert any(torch.equal(chase.nearest[0], point) for point in asked[wrong])


def test_nears_the_optimum_on_a_half_space() -> None:
    model, normal, images, labels = half_space()
    optimum = (images.flatten(1) @ normal).abs() / normal.abs().sum()
    chase = BoundaryPursuit(Decisions(model, labels, 400), images, 2, 1e-6, stream())
    chase.run(20)
    assert (model(chase.nearest).argmax(1) != labels).all()
    assert (chase.distances >= optimum - 1e-5).all() and (
        chase.distances / optimum
    ).median() < 2.5  # a random direction: about 6


def test_more_queries_come_nearer() -> None:
    medians = []
    for queries in (80, 320):
        chase = pursuit(queries, eps=1e-6, count=12)
        chase.run(queries // 20)
        medians.append(chase.distances.median())
    assert medians[1] < 0.9 * medians[0]


def test_returns_what_is_in_the_ball_or_the_image_itself() -> None:
    images, labels = sample(40)
    components = substitute_guided_boundary(EPS, 10, queries=300)
    attack = replace(attack_entry("boundary-substitute").make(EPS, 10), components=components)
    result = run_attack(attack, trained_digits(), images, labels, seed=0, batch_size=40)
    changed = (result.adversarial != images).flatten(1).any(1)
    assert torch.equal(changed, result.clean_correct & ~result.robust) and changed.any()
    # What a decision-based attack of some hundred queries breaks, gradients break too.
    broken = torch.zeros_like(changed)
    for component in autoattack_components(EPS, 10, iterations=30, square_queries=100)[:2]:
        points = component.perturb(trained_digits(), images, labels, stream())
        broken |= trained_digits()(points).argmax(1) != labels
    assert (changed & ~broken).sum() <= 1


def test_a_model_of_one_class_leaves_no_start() -> None:
    images, labels = torch.rand(3, 1, 4, 4, generator=stream()), torch.zeros(3, dtype=torch.int64)
    model = linear_model(torch.stack([torch.ones(16), -torch.ones(16)]))
    (component,) = substitute_guided_boundary(0.1, 2, queries=60)
    assert torch.equal(component.perturb(model, images, labels, stream()), images)


@pytest.mark.parametrize("classes", [2, 3])
def test_colour_images_that_are_not_square(classes: int) -> None:
    weight = torch.randn(classes, 72, generator=stream(5))
    model = linear_model(weight - weight.mean(dim=1, keepdim=True))
    images = torch.rand(5, 3, 4, 6, generator=stream(6))
    labels = model(images).argmax(1)
    (component,) = substitute_guided_boundary(0.2, classes, queries=200)
    first, again = (component.perturb(model, images, labels, stream()) for _ in range(2))
    assert torch.equal(first, again) and (first - images).abs().max() <= 0.2 + 1e-6
    assert (model(first).argmax(1) != labels).any()


def test_bad_budget() -> None:
    with pytest.raises(ValueError, match="queries must be an integer of at least 1, got 0"):
        substitute_guided_boundary(EPS, 10, queries=0)
